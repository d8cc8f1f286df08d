//! Places to work in, which no killed process leaves behind for long.
//!
//! `tmp/NAME` is what is worked on, and `tmp/NAME.lock` is locked for as long as somebody does. Locks are the kernel's, so
//! what belongs to an unlocked one is swept up, whichever of the processes that share the folder made it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ContentError;
use crate::folder::{remove_file, remove_folder};

/// The next number of a place of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A place of one's own, until it is dropped. Nothing is there at first.
#[derive(Debug)]
pub(crate) struct Work {
    place: PathBuf,
    lock: PathBuf,
    _locked: File,
}

impl Work {
    /// A place in the folder `tmp`.
    pub(crate) fn begin(tmp: &Path) -> Result<Self, ContentError> {
        loop {
            // Another machine's process, or one from before a restart, may have the same number.
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let lock = tmp.join(format!("{name}.lock"));
            let file = match OpenOptions::new().create_new(true).write(true).open(&lock) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(ContentError::io(&lock, "make it")(e)),
            };
            // Somebody who sweeps may have found it before it was locked, and removes it then.
            if take(&lock, &file)? {
                return Ok(Self { place: tmp.join(name), lock, _locked: file });
            }
        }
    }

    /// Where to work.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Removes what nobody works on any more, where that can be done; what cannot be removed is another user's.
    pub(crate) fn sweep(tmp: &Path) {
        let locks = fs::read_dir(tmp).into_iter().flatten().flatten().map(|e| e.path());
        for lock in locks.filter(|path| path.extension().is_some_and(|e| e == "lock")) {
            let Ok(file) = OpenOptions::new().write(true).open(&lock) else { continue };
            if take(&lock, &file).unwrap_or(false) {
                let _ = remove(&lock.with_extension(""), &lock);
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is swept up later.
        let _ = remove(&self.place, &self.lock);
    }
}

/// Locks `file`, and looks whether it still is what lies at `path`.
fn take(path: &Path, file: &File) -> Result<bool, ContentError> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(e)) => return Err(ContentError::io(path, "lock it")(e)),
    }
    let ours = file.metadata().map_err(ContentError::io(path, "look at it"))?;
    Ok(fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

/// The lock goes last: without it nobody would know that the rest may go.
fn remove(place: &Path, lock: &Path) -> Result<(), ContentError> {
    match place.is_dir() {
        true => remove_folder(place)?,
        false => remove_file(place)?,
    }
    remove_file(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worked_on_stays_and_what_was_left_behind_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let tmp = dir.path();
        let names = || fs::read_dir(tmp).expect("lists").count();
        let (folder, file) = (Work::begin(tmp).expect("begins"), Work::begin(tmp).expect("begins"));
        assert_ne!(folder.place(), file.place());
        fs::create_dir_all(folder.place().join("deep")).expect("makes");
        fs::write(file.place(), "x").expect("writes");
        // As a process that was killed leaves it: the lock's file is there, and nobody holds it.
        fs::create_dir_all(tmp.join("1-2/deep")).expect("makes");
        fs::write(tmp.join("1-2/deep/x"), "x").expect("writes");
        fs::write(tmp.join("1-2.lock"), "").expect("writes");
        Work::sweep(tmp);
        assert!(!tmp.join("1-2").exists() && !tmp.join("1-2.lock").exists());
        assert!(folder.place().join("deep").is_dir() && file.place().is_file());
        drop((folder, file));
        assert_eq!(names(), 0, "nothing is left");
    }
}
