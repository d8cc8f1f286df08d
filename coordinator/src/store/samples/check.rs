//! Whether chunk files are what was sealed, without anything that writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use fleet_common::telemetry::Seal;

use super::{chunk, tail};

/// What is in a chunk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Checked {
    /// Samples in whole chunks.
    pub(in crate::store) samples: u64,
    /// Bytes of those chunks.
    pub(in crate::store) whole: u64,
    /// Bytes of the file.
    pub(in crate::store) bytes: u64,
    /// It begins with what was sealed; `true` where nothing was.
    pub(in crate::store) is_sealed: bool,
}

/// Reads a chunk file to its end, and compares what it begins with.
///
/// # Errors
/// It cannot be read.
pub(in crate::store) fn check(path: &Path, seal: Option<Seal>) -> io::Result<Checked> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut from = BufReader::with_capacity(1 << 16, file);
    let mut checked = Checked { samples: 0, whole: 0, bytes, is_sealed: false };
    let mut crc = crc32fast::Hasher::new();
    let stored = seal.map_or(0, |s| s.stored);
    while let Some(chunk) = chunk::next(&mut from)? {
        checked.whole += chunk.bytes.len() as u64;
        if checked.samples < stored {
            crc.update(&chunk.bytes);
        }
        checked.samples += tail::count(&chunk.batches);
        if stored > 0 && checked.samples == stored {
            checked.is_sealed = seal.is_some_and(|s| s.crc32 == crc.clone().finalize());
        }
    }
    checked.is_sealed |= stored == 0;
    Ok(checked)
}

/// All chunk files below the folder `dir`, by their names without extension.
///
/// # Errors
/// A folder cannot be read; one that is not there is empty.
pub(in crate::store) fn files(dir: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let folders = match std::fs::read_dir(dir) {
        Ok(folders) => folders,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(e),
    };
    for folder in folders {
        let folder = folder?;
        if !folder.file_type()?.is_dir() || folder.file_name() == "intake" {
            continue;
        }
        for file in std::fs::read_dir(folder.path())? {
            let path = file?.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).map(str::to_owned);
            if let Some(stem) = stem.filter(|_| path.extension().is_some_and(|e| e == "chunks")) {
                found.insert(stem, path);
            }
        }
    }
    Ok(found)
}

/// The files of the intake, in the folder `dir` of the samples.
///
/// # Errors
/// The folder cannot be read; one that is not there is empty.
pub(in crate::store) fn intake(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir.join("intake")) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
