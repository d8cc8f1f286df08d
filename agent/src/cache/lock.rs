//! Locks on items: shared by those who use one, alone by who fetches or removes it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fleet_content::{ContentError, Item};

/// The folder of locks.
#[derive(Debug)]
pub(super) struct Locks {
    folder: PathBuf,
}

/// A lock, until it is dropped.
#[derive(Debug)]
pub(super) struct Pin {
    _file: File,
}

impl Locks {
    pub(super) fn create(folder: &Path) -> Result<Self, ContentError> {
        let locks = Self { folder: folder.to_owned() };
        fs::create_dir_all(folder).map_err(|e| locks.failed(e))?;
        Ok(locks)
    }

    /// Keeps an item from being removed, and notes that it was wanted now; `None` while somebody has it alone.
    pub(super) fn shared(&self, item: &Item) -> Result<Option<Pin>, ContentError> {
        let file = self.open(&item.to_string())?;
        let locked = self.taken(file.try_lock_shared())?;
        if locked {
            // A time that cannot be set makes it leave earlier, which is no reason not to use it.
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(locked.then_some(Pin { _file: file }))
    }

    /// Keeps everybody else off an item; `None` while somebody has it.
    pub(super) fn alone(&self, item: &Item) -> Result<Option<Pin>, ContentError> {
        let file = self.open(&item.to_string())?;
        let locked = self.taken(file.try_lock())?;
        Ok(locked.then_some(Pin { _file: file }))
    }

    /// Waits for its turn to make room, which is short.
    pub(super) fn room(&self) -> Result<Pin, ContentError> {
        let file = self.open("room")?;
        file.lock().map_err(|e| self.failed(e))?;
        Ok(Pin { _file: file })
    }

    /// When an item was last wanted.
    pub(super) fn used(&self, item: &Item) -> SystemTime {
        let modified = fs::metadata(self.folder.join(item.to_string())).and_then(|m| m.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn open(&self, name: &str) -> Result<File, ContentError> {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(name));
        opened.map_err(|e| self.failed(e))
    }

    fn taken(&self, locked: Result<(), TryLockError>) -> Result<bool, ContentError> {
        match locked {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(self.failed(error)),
        }
    }

    fn failed(&self, source: io::Error) -> ContentError {
        ContentError::Io { path: self.folder.clone(), action: "use its locks", source }
    }
}
