//! Folders for functions that read files.

use std::path::Path;

/// A folder that is gone when this is. `TMPDIR` says where; in memory it is fast.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for the input"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join(name);
        let written =
            std::fs::create_dir_all(path.parent().expect("has one")).and_then(|()| std::fs::write(&path, bytes));
        written.expect("the input fits the disk");
    }
}
