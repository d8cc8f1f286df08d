//! What writers that were killed have left in a store that is a folder.
//!
//! `object_store` writes a file beside its place, as `NAME#1`, and then gives it its name; its own listing leaves such
//! files out.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::name::Sha256;

/// Removes them from `folder` and the folders in it, if nothing has been written to them for `age`.
pub(crate) fn remove(folder: &Path, age: Duration) -> std::io::Result<()> {
    let before = SystemTime::now().checked_sub(age);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove(&path, age)?;
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            let written = entry.metadata().and_then(|m| m.modified()).ok();
            if written < before {
                tracing::info!(path = %path.display(), "removing what a writer has left");
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    Ok(())
}

/// `SHA256#N`: nothing else in a store has such a name.
fn is_staged(name: &str) -> bool {
    let parts = name.split_once('#');
    parts.is_some_and(|(hash, n)| hash.parse::<Sha256>().is_ok() && n.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_writers_leave_goes_and_only_once_it_is_old() {
        let dir = tempfile::tempdir().expect("a folder");
        let inner = dir.path().join("states/a-0");
        std::fs::create_dir_all(&inner).expect("makes");
        let hash = "ab".repeat(32);
        let [whole, staged, other] = [hash.clone(), format!("{hash}#1"), "notes#1".to_owned()].map(|n| inner.join(n));
        for file in [&whole, &staged, &other] {
            std::fs::write(file, "x").expect("writes");
        }
        remove(dir.path(), Duration::from_secs(60)).expect("reads");
        assert!(staged.exists(), "somebody may be writing it");
        std::thread::sleep(Duration::from_millis(20));
        remove(dir.path(), Duration::ZERO).expect("reads");
        assert!(whole.exists() && other.exists() && !staged.exists());
    }
}
