//! One owner per device on a machine.
//!
//! A lock file per device. The daemon holds the lock while it runs, and its workers inherit it: a worker that outlives
//! its daemon by a moment still keeps others off the device.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleet_common::id::SlotId;

/// A worker whose daemon was killed ends within this time; a restarted daemon waits for it.
const GRACE: Duration = Duration::from_secs(10);

/// Why a device could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error(
        "the device {slot} is used by another agent ({owner}); two owners would measure each other. Stop that one, or \
         give this one other devices with --devices"
    )]
    Taken {
        /// Which device.
        slot: SlotId,
        /// What the lock file says.
        owner: String,
    },
    /// The lock file cannot be used.
    #[error("the lock file {path} cannot be used: {source}; choose another folder with --lock-dir")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A device that is ours while this lives.
#[derive(Debug)]
pub struct DeviceLock {
    file: File,
}

/// Where all agents of a machine look, whoever started them.
pub fn default_lock_dir() -> PathBuf {
    std::env::temp_dir().join("netscore-fleet-locks")
}

impl DeviceLock {
    /// Takes the lock of `slot` in `dir`; `owner` is what others will be told. Waits a moment for a predecessor that is
    /// on its way out.
    ///
    /// # Errors
    /// Somebody else has the device, or the file cannot be used.
    pub fn take(dir: &Path, slot: &SlotId, owner: &str) -> Result<Self, LockError> {
        Self::take_within(dir, slot, owner, GRACE)
    }

    /// Whether the device is free, without waiting and without keeping it.
    ///
    /// # Errors
    /// Somebody has the device, or the file cannot be used.
    pub fn try_take(dir: &Path, slot: &SlotId) -> Result<(), LockError> {
        let path = Self::path(dir, slot);
        match File::open(&path) {
            Ok(mut file) => match file.try_lock_shared() {
                Ok(()) => Ok(()),
                Err(TryLockError::WouldBlock) => Err(taken(&mut file, slot)),
                Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
            },
            // Nobody ever took it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }

    fn path(dir: &Path, slot: &SlotId) -> PathBuf {
        dir.join(format!("{}.lock", slot.as_str().replace(':', "-")))
    }

    fn take_within(dir: &Path, slot: &SlotId, owner: &str, grace: Duration) -> Result<Self, LockError> {
        let path = Self::path(dir, slot);
        let io = |source| LockError::Io { path: path.clone(), source };
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(io)?;
            shared_by_all(dir);
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        shared_by_all(&path);
        let until = Instant::now() + grace;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::WouldBlock) => return Err(taken(&mut file, slot)),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
        file.set_len(0).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        file.write_all(owner.as_bytes()).map_err(io)?;
        Ok(Self { file })
    }

    /// Lets the child that `command` starts inherit the lock.
    pub fn inherit(&self, command: &mut tokio::process::Command) {
        let descriptor = self.file.as_raw_fd();
        // SAFETY: between fork and exec only an async-signal-safe call is made, on a descriptor that outlives it.
        unsafe {
            command.pre_exec(move || {
                if libc::fcntl(descriptor, libc::F_SETFD, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
    }
}

fn taken(file: &mut File, slot: &SlotId) -> LockError {
    let mut owner = String::new();
    let _ = file.read_to_string(&mut owner);
    LockError::Taken { slot: slot.clone(), owner: owner.trim().to_owned() }
}

/// Agents of other users must be able to see the lock. Where that fails the owner's own agents still see it.
fn shared_by_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = if path.is_dir() { 0o1777 } else { 0o666 };
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let slot: SlotId = "cuda:0".parse().expect("a slot");
        let take = |owner: &str| DeviceLock::take_within(&dir.path().join("locks"), &slot, owner, Duration::ZERO);
        let first = take("process 1").expect("free");
        let error = take("process 2").expect_err("taken").to_string();
        assert!(error.contains("cuda:0") && error.contains("process 1") && error.contains("--devices"), "{error}");
        assert!(DeviceLock::try_take(&dir.path().join("locks"), &slot).is_err());
        drop(first);
        DeviceLock::try_take(&dir.path().join("locks"), &slot).expect("free");
        take("process 2").expect("free again");
    }
}
