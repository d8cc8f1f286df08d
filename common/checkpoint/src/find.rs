//! Where a backbone's weights lie.

use std::path::{Path, PathBuf};

use crate::error::CheckpointError;

/// How names of weights files end. The content decides how a file is read; these are the names that are looked for.
pub const EXTENSIONS: [&str; 4] = ["safetensors", "pth", "pth.tar", "bin"];

/// The weights file called `stem` in `dir`, if there is one.
///
/// # Errors
/// There are two, which is one too many to know what a campaign is about.
pub fn find(dir: &Path, stem: &str) -> Result<Option<PathBuf>, CheckpointError> {
    let mut there = EXTENSIONS.iter().map(|e| dir.join(format!("{stem}.{e}"))).filter(|file| file.exists());
    let first = there.next();
    match (first, there.next()) {
        (Some(one), Some(other)) => Err(CheckpointError::Ambiguous { one, other }),
        (first, _) => Ok(first),
    }
}
