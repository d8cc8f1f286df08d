//! Artifacts that are on their way here: each a file that grows, until it is whole or nobody goes on with it.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fleet_artifacts::{Name, StoreError};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tonic::Status;

/// Uploads at once; more have to wait.
const MOST: usize = 64;
/// The journal and the samples need room beside artifacts.
const RESERVE: u64 = 512 << 20;
/// The largest artifact: a state of a model of five billion parameters.
const LARGEST: u64 = 64 << 30;

/// The folder of what is on its way.
#[derive(Debug)]
pub(super) struct Incoming {
    dir: PathBuf,
    busy: Busy,
}

/// What is growing, and how many bytes of it are not on the disk yet: as it comes, and once more in the store.
type Busy = Arc<Mutex<HashMap<Name, u64>>>;

/// One of them, while its stream lasts. Nobody else writes to it meanwhile.
pub(super) struct Growing {
    file: File,
    path: PathBuf,
    name: Name,
    length: u64,
    whole: u64,
    busy: Busy,
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Incoming {
    pub(super) fn open(dir: PathBuf) -> Result<Self, StoreError> {
        let failed = |e: std::io::Error| StoreError::Open { store: dir.display().to_string(), why: e.to_string() };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        Ok(Self { dir, busy: Arc::default() })
    }

    /// Where it grows: its folder says whose it is, which does not matter here.
    pub(super) fn file(&self, name: &Name) -> PathBuf {
        self.dir.join(name.to_string().replace('/', "+"))
    }

    /// How much of it is here.
    pub(super) fn length(&self, name: &Name) -> u64 {
        std::fs::metadata(self.file(name)).map_or(0, |m| m.len())
    }

    pub(super) fn remove(&self, name: &Name) {
        let _ = std::fs::remove_file(self.file(name));
    }

    /// Goes on with it from `offset`.
    pub(super) fn begin(&self, name: &Name, offset: u64, whole: u64) -> Result<Growing, Status> {
        if whole > LARGEST {
            return Err(Status::invalid_argument(format!("expected at most {LARGEST} bytes, found {whole}")));
        }
        let growing = self.claim(name, offset, whole)?;
        let here = self.length(name);
        if here != offset {
            return Err(Status::aborted(format!("expected to go on after {here} bytes, found {offset}")));
        }
        // Together with what others have begun.
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = busy.values().fold(RESERVE, |sum, bytes| sum.saturating_add(*bytes));
        drop(busy);
        match free(&self.dir) {
            Some(free) if free < needed => Err(Status::resource_exhausted(format!(
                "the coordinator's disk has {free} bytes left, and {needed} are needed to take this in, beside what else \
                 is on its way"
            ))),
            _ => Ok(growing),
        }
    }

    fn claim(&self, name: &Name, offset: u64, whole: u64) -> Result<Growing, Status> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.len() >= MOST {
            return Err(Status::resource_exhausted(format!("{MOST} artifacts are being sent; again later")));
        }
        if busy.contains_key(name) {
            return Err(Status::aborted(format!("{name} is being sent already")));
        }
        let path = self.file(name);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(refused)?;
        busy.insert(name.clone(), outstanding(offset, whole));
        let file = File::from_std(file);
        Ok(Growing { file, path, name: name.clone(), length: offset, whole, busy: self.busy.clone() })
    }

    /// Removes what nobody has gone on with for `age`.
    pub(super) fn sweep(&self, age: Duration) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let busy: HashSet<PathBuf> = busy.keys().map(|name| self.file(name)).collect();
        let before = SystemTime::now().checked_sub(age);
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let touched = entry.metadata().and_then(|m| m.modified()).ok();
            if !busy.contains(&entry.path()) && touched < before {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Growing {
    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), Status> {
        self.length += data.len() as u64;
        if self.length > self.whole {
            return Err(Status::invalid_argument(format!("expected {} bytes in all, found more", self.whole)));
        }
        let written = self.file.write_all(data).await;
        self.checked(written)?;
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(self.name.clone(), outstanding(self.length, self.whole));
        Ok(())
    }

    /// How long it is now, durably. Its room stays its own until this is dropped.
    pub(super) async fn end(&mut self) -> Result<u64, Status> {
        let flushed = self.file.flush().await;
        self.checked(flushed)?;
        let synced = self.file.sync_all().await;
        self.checked(synced)?;
        Ok(self.length)
    }

    /// What has come is given up where it has filled the disk: the journal needs the room.
    fn checked(&self, outcome: std::io::Result<()>) -> Result<(), Status> {
        outcome.map_err(|error| {
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                let _ = std::fs::remove_file(&self.path);
            }
            refused(error)
        })
    }
}

/// Bytes that an artifact will still take: once as it comes and once in the store.
fn outstanding(length: u64, whole: u64) -> u64 {
    whole.saturating_sub(length).saturating_add(whole)
}

fn refused(error: std::io::Error) -> Status {
    Status::resource_exhausted(format!("the coordinator cannot keep artifacts now: {error}"))
}

fn free(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}
