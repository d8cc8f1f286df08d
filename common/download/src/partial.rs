//! The file beside its place, and what is needed to go on with it.
//!
//! `NAME.partial` holds the bytes from the beginning, `NAME.partial.version` the server's name for the version that
//! they are of (an ETag, or a date). Without the latter the bytes are of no use: another version could follow them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::DownloadError;
use crate::content::{Content, Wrong};

/// An unfinished file, which this process alone writes.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    version: Option<String>,
    len: u64,
    /// Whether bytes of more than one answer are in it.
    pieced: bool,
}

impl Partial {
    /// Opens what is there of the file that shall be at `place`, or begins it.
    pub(crate) fn open(place: &Path) -> Result<Self, DownloadError> {
        let path = with_suffix(place, ".partial");
        // Not truncated: what is in it is what this is about.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(DownloadError::io(&path, "open it"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DownloadError::Busy { path }),
            Err(TryLockError::Error(e)) => return Err(DownloadError::io(&path, "lock it")(e)),
        }
        let len = file.metadata().map_err(DownloadError::io(&path, "look at it"))?.len();
        let version = fs::read_to_string(version_path(&path)).ok().filter(|v| !v.is_empty() && is_text(v));
        Ok(Self { file, path, version, len, pieced: len > 0 })
    }

    /// Bytes that are here.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The version to go on with, if one can go on.
    pub(crate) fn version(&self) -> Option<&str> {
        self.version.as_deref().filter(|_| self.len > 0)
    }

    /// Whether bytes of more than one answer are in it.
    pub(crate) fn pieced(&self) -> bool {
        self.pieced
    }

    /// Forgets what is here; bytes of `version` follow.
    pub(crate) fn begin(&mut self, version: Option<String>) -> Result<(), DownloadError> {
        // In this order: bytes must never be taken for those of a version that they are not of.
        self.file.set_len(0).map_err(DownloadError::io(&self.path, "empty it"))?;
        self.file.seek(SeekFrom::Start(0)).map_err(DownloadError::io(&self.path, "empty it"))?;
        (self.len, self.pieced) = (0, false);
        let path = version_path(&self.path);
        fs::write(&path, version.as_deref().unwrap_or_default()).map_err(DownloadError::io(&path, "write it"))?;
        self.version = version;
        Ok(())
    }

    /// Bytes of another answer follow.
    pub(crate) fn go_on(&mut self) {
        self.pieced = true;
    }

    /// Takes what follows.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        let written = self.file.write_all(bytes);
        // What a full disk took is there, and counts.
        self.len = self.file.metadata().map_err(DownloadError::io(&self.path, "look at it"))?.len();
        written.map_err(DownloadError::io(&self.path, "write it"))
    }

    /// Compares what is here.
    pub(crate) fn compare(&self, content: &Content<'_>) -> Result<Result<(), Wrong>, DownloadError> {
        content.compare(&self.path).map_err(DownloadError::io(&self.path, "read it"))
    }

    /// Puts it in its place. What is there already is set aside, and where is returned.
    pub(crate) fn finish(self, place: &Path) -> Result<Option<PathBuf>, DownloadError> {
        self.file.sync_all().map_err(DownloadError::io(&self.path, "write it"))?;
        let aside = set_aside(place)?;
        fs::rename(&self.path, place).map_err(DownloadError::io(place, "put it in its place"))?;
        // It says something about a file that is no more; a next download would overwrite it.
        let _ = fs::remove_file(version_path(&self.path));
        Ok(aside)
    }

    /// Throws it away.
    pub(crate) fn discard(self) -> Result<(), DownloadError> {
        let _ = fs::remove_file(version_path(&self.path));
        fs::remove_file(&self.path).map_err(DownloadError::io(&self.path, "remove it"))
    }
}

/// Renames what is at `place`, a file or a folder, to a name beside it that is free, and returns that name. It may be
/// somebody's work, so it is never overwritten or removed.
///
/// # Errors
/// It cannot be renamed.
pub fn set_aside(place: &Path) -> Result<Option<PathBuf>, DownloadError> {
    if place.symlink_metadata().is_err() {
        return Ok(None);
    }
    let mut aside = with_suffix(place, ".replaced");
    let mut number = 1;
    while aside.symlink_metadata().is_ok() {
        number += 1;
        aside = with_suffix(place, &format!(".replaced-{number}"));
    }
    fs::rename(place, &aside).map_err(DownloadError::io(place, "set it aside"))?;
    Ok(Some(aside))
}

/// Whether it can be sent as a header: files can be damaged.
fn is_text(version: &str) -> bool {
    version.bytes().all(|b| (b' '..=b'~').contains(&b))
}

fn version_path(partial: &Path) -> PathBuf {
    with_suffix(partial, ".version")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_keeps_what_came_and_says_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut partial = Partial::open(&dir.path().join("file")).expect("opens");
        partial.begin(Some("\"a\"".into())).expect("begins");
        partial.append(b"some").expect("writes");
        // /dev/full accepts opening and refuses writing, as a full disk does.
        let full = OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let real = std::mem::replace(&mut partial.file, full);
        let error = partial.append(b"more").expect_err("must fail").to_string();
        assert!(error.contains("file.partial: the disk is full") && error.contains("goes on"), "{error}");
        drop((partial, real));
        let partial = Partial::open(&dir.path().join("file")).expect("opens");
        assert_eq!((partial.len(), partial.version()), (4, Some("\"a\"")));
    }
}
