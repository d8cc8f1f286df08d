//! A blob on its way: hashed while it is written, gone on with after a break, in its place only when it is right.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fleet_common::canonical;
use sha2::{Digest as _, Sha256};

use crate::{ContentError, Digest};

/// An unfinished blob, which nobody else writes.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    place: PathBuf,
    sha256: Digest,
    expected: u64,
    len: u64,
    hash: Sha256,
}

/// What became of a blob that is all here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// It is in its place.
    Kept,
    /// It was something else, and is gone. The hash of what had come.
    Wrong(String),
}

impl Partial {
    /// Opens what has come of a blob, or begins it. `None` while somebody else writes it.
    pub(crate) fn open(
        path: &Path,
        place: &Path,
        sha256: &Digest,
        expected: u64,
    ) -> Result<Option<Self>, ContentError> {
        // Not truncated: what is in it is what this is about.
        let opened = OpenOptions::new().create(true).truncate(false).read(true).append(true).open(path);
        let file = opened.map_err(ContentError::io(path, "open it"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(ContentError::io(path, "lock it")(e)),
        }
        let metadata = file.metadata().map_err(ContentError::io(path, "look at it"))?;
        // Whoever wrote it before may have put it in its place between our opening and our locking: what we hold then is
        // a finished blob, which nobody may write to.
        if fs::metadata(path).map(|m| m.ino()).ok() != Some(metadata.ino()) {
            return Ok(None);
        }
        let mut partial = Self {
            len: metadata.len(),
            path: path.to_owned(),
            place: place.to_owned(),
            sha256: sha256.clone(),
            expected,
            hash: Sha256::new(),
            file: file.try_clone().map_err(ContentError::io(path, "open it"))?,
        };
        if partial.len > expected {
            partial.begin()?;
        }
        let mut buffer = vec![0; 1 << 18];
        let mut there = file.take(partial.len);
        loop {
            match there.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => partial.hash.update(&buffer[..read]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(ContentError::io(path, "read it")(e)),
            }
        }
        Ok(Some(partial))
    }

    /// Bytes that are here.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is here yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are still to come.
    pub fn lacks(&self) -> u64 {
        self.expected - self.len
    }

    /// Takes what follows.
    ///
    /// # Errors
    /// It is more than the blob has, or the disk refuses; what a full disk took counts.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        if bytes.len() as u64 > self.lacks() {
            return Err(ContentError::TooLong { sha256: self.sha256.clone(), expected: self.expected });
        }
        let mut left = bytes;
        while !left.is_empty() {
            match self.file.write(left) {
                Ok(0) => return Err(ContentError::io(&self.path, "write it")(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.hash.update(&left[..written]);
                    self.len += written as u64;
                    left = &left[written..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(ContentError::io(&self.path, "write it")(e)),
            }
        }
        Ok(())
    }

    /// Puts a blob that is all here in its place, if it is right; what is wrong is thrown away.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish(self) -> Result<Finished, ContentError> {
        let found = canonical::hex(&self.hash.finalize());
        if found != self.sha256.as_str() || self.len != self.expected {
            fs::remove_file(&self.path).map_err(ContentError::io(&self.path, "remove it"))?;
            return Ok(Finished::Wrong(found));
        }
        // On the disk before it gets its name: the name is what says that it is right.
        self.file.sync_all().map_err(ContentError::io(&self.path, "write it"))?;
        if let Some(folder) = self.place.parent() {
            fs::create_dir_all(folder).map_err(ContentError::io(folder, "make it"))?;
        }
        fs::rename(&self.path, &self.place).map_err(ContentError::io(&self.place, "put it in its place"))?;
        // In its place only: what is read-only elsewhere could not be gone on with.
        let read_only = fs::Permissions::from_mode(0o444);
        self.file.set_permissions(read_only).map_err(ContentError::io(&self.place, "make it read-only"))?;
        Ok(Finished::Kept)
    }

    fn begin(&mut self) -> Result<(), ContentError> {
        self.file.set_len(0).map_err(ContentError::io(&self.path, "empty it"))?;
        self.len = 0;
        self.hash = Sha256::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_keeps_what_came_and_says_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, place) = (dir.path().join("partial"), dir.path().join("blobs/b"));
        let sha256: Digest = canonical::sha256_hex(b"somemore").parse().expect("a hash");
        let mut partial = Partial::open(&path, &place, &sha256, 8).expect("opens").expect("free");
        partial.append(b"some").expect("writes");
        // /dev/full accepts opening and refuses writing, as a full disk does.
        let full = OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let real = std::mem::replace(&mut partial.file, full);
        let error = partial.append(b"more").expect_err("must fail").to_string();
        assert!(error.contains("partial: the disk is full"), "{error}");
        assert!(Partial::open(&path, &place, &sha256, 8).expect("opens").is_none(), "one writer");
        drop((partial, real));
        let mut partial = Partial::open(&path, &place, &sha256, 8).expect("opens").expect("free");
        assert_eq!(partial.lacks(), 4);
        partial.append(b"more").expect("writes");
        assert_eq!(partial.finish().expect("finishes"), Finished::Kept);
        assert_eq!(fs::read(&place).expect("there"), b"somemore");
    }

    #[test]
    fn what_could_not_be_put_in_its_place_can_be_gone_on_with() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, folder) = (dir.path().join("partial"), dir.path().join("blobs"));
        let sha256: Digest = canonical::sha256_hex(b"some").parse().expect("a hash");
        fs::write(&folder, "in the way").expect("writes");
        let open = || Partial::open(&path, &folder.join("b"), &sha256, 4).expect("opens").expect("free");
        let mut partial = open();
        partial.append(b"some").expect("writes");
        partial.finish().expect_err("no folder");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_ne!(mode & 0o200, 0, "its owner may write to it");
        fs::remove_file(&folder).expect("removes");
        assert_eq!(open().finish().expect("finishes"), Finished::Kept);
        assert!(fs::metadata(folder.join("b")).expect("there").permissions().readonly());
    }
}
