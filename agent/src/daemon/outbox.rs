//! Records that are finished but not yet delivered. They outlive the daemon: a result that cost an hour is not lost
//! because a process was killed between its end and its delivery.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use fleet_common::record::Record;

/// A folder of records.
#[derive(Debug)]
pub(super) struct Outbox {
    dir: PathBuf,
}

impl Outbox {
    /// In the folder `dir`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn open(dir: PathBuf) -> std::io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, record: &Record) -> PathBuf {
        self.dir.join(format!("{}-{}.json", record.trial.file_stem(), record.attempt))
    }

    /// Keeps a record, durably.
    ///
    /// # Errors
    /// The disk refused.
    pub(super) fn put(&self, record: &Record) -> std::io::Result<()> {
        let path = self.path(record);
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(&record.to_json())?;
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Forgets a record: it was delivered.
    pub(super) fn remove(&self, record: &Record) {
        let _ = fs::remove_file(self.path(record));
    }

    /// How many records there are.
    pub(super) fn count(&self) -> u64 {
        self.files().count() as u64
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|e| e.path()).filter(|f| f.extension().is_some_and(|e| e == "json"))
    }

    /// All records that were kept. One that cannot be read is left where it is, and said so.
    pub(super) fn all(&self) -> Vec<Record> {
        let mut files: Vec<PathBuf> = self.files().collect();
        files.sort();
        files.iter().filter_map(|file| read(file)).collect()
    }
}

fn read(file: &Path) -> Option<Record> {
    let record = fs::read(file).map_err(|e| e.to_string()).and_then(|bytes| Record::from_json(&bytes));
    record.map_err(|error| tracing::error!(file = %file.display(), %error, "an undelivered record cannot be read")).ok()
}
