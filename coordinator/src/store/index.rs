//! The queryable state: records by trial, behind a trait. It can always be made again from the journal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::telemetry::Seal;

use crate::core::Event;

/// What reading the index may run into.
#[derive(Debug, thiserror::Error)]
#[error("the index {path} failed: {reason}. Nothing is lost; free some space and start the coordinator again")]
pub struct IndexError {
    path: PathBuf,
    reason: String,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The document.
    pub record: Vec<u8>,
    /// Its samples.
    pub seal: Seal,
}

/// What can be asked about finished trials.
pub trait Index: Send + Sync {
    /// The sequence number of the latest event that is in.
    fn applied(&self) -> u64;

    /// Takes in events with their sequence numbers, all or none of them.
    ///
    /// # Errors
    /// The storage refused. From then on every question and every further event is refused: what came between would be
    /// missing without a trace.
    fn apply(&self, events: &[(u64, Event)]) -> Result<(), IndexError>;

    /// A trial's record.
    ///
    /// # Errors
    /// The storage refused.
    fn record(&self, trial: &TrialId) -> Result<Option<Stored>, IndexError>;

    /// A trial's late reports, outside the statistics.
    ///
    /// # Errors
    /// The storage refused.
    fn superseded(&self, trial: &TrialId) -> Result<Vec<(Attempt, Vec<u8>)>, IndexError>;

    /// A record of an imported set: by the set's content, and its number from 0.
    ///
    /// # Errors
    /// The storage refused, or does not have it.
    fn imported(&self, content: &str, number: u64) -> Result<Vec<u8>, IndexError>;
}

/// The index in a sled database.
///
/// sled 0.34 is durable only after a flush and puts reliability second, so nothing depends on it: it holds the number
/// of the latest event beside the data, in the same atomic batch, and what it lacks is replayed from the journal.
pub struct SledIndex {
    db: sled::Db,
    path: PathBuf,
    /// An event could not be taken in.
    failed: AtomicBool,
}

/// How long a database that was just closed may keep its lock.
const FAREWELL: Duration = Duration::from_secs(2);

/// Keys: the applied number, records by trial, late reports by trial and attempt, imported records by set and number.
const APPLIED: &[u8] = b"applied";

fn record_key(trial: &TrialId) -> Vec<u8> {
    format!("r/{trial}").into_bytes()
}

/// A NUL ends the trial's id, so that one id is never the prefix of another's keys.
fn superseded_prefix(trial: &TrialId) -> Vec<u8> {
    format!("s/{trial}\0").into_bytes()
}

/// Ordered by number.
fn imported_key(content: &str, number: u64) -> Vec<u8> {
    [b"i/", content.as_bytes(), b"\0", &number.to_be_bytes()].concat()
}

impl SledIndex {
    /// Opens or creates the database in `path`.
    ///
    /// # Errors
    /// It is in use, damaged, or the disk refuses.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let until = Instant::now() + FAREWELL;
        let db = loop {
            match sled::Config::new().path(path).open() {
                Ok(db) => break db,
                // sled keeps its lock for a moment after it was closed, and says so in words only.
                Err(sled::Error::Io(e)) if e.to_string().contains("WouldBlock") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(IndexError { path: path.to_owned(), reason: e.to_string() }),
            }
        };
        Ok(Self { db, path: path.to_owned(), failed: AtomicBool::new(false) })
    }

    fn error(&self, e: impl ToString) -> IndexError {
        IndexError { path: self.path.clone(), reason: e.to_string() }
    }

    fn check(&self) -> Result<(), IndexError> {
        let failed = self.failed.load(Ordering::Relaxed);
        if failed { Err(self.error("it could not be written")) } else { Ok(()) }
    }
}

impl Index for SledIndex {
    fn applied(&self) -> u64 {
        let bytes = self.db.get(APPLIED).ok().flatten();
        bytes.and_then(|b| b.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn apply(&self, events: &[(u64, Event)]) -> Result<(), IndexError> {
        self.check()?;
        let Some((latest, _)) = events.last() else { return Ok(()) };
        let mut batch = sled::Batch::default();
        for (_, event) in events {
            match event {
                Event::TrialRecorded { trial, record, seal, .. } => {
                    let mut value = Vec::with_capacity(20 + record.len());
                    value.extend_from_slice(&seal.stored.to_le_bytes());
                    value.extend_from_slice(&seal.missing.to_le_bytes());
                    value.extend_from_slice(&seal.crc32.to_le_bytes());
                    value.extend_from_slice(record);
                    batch.insert(record_key(trial), value);
                }
                Event::ReportSuperseded { trial, attempt, record } => {
                    let mut key = superseded_prefix(trial);
                    key.extend_from_slice(&attempt.get().to_be_bytes());
                    batch.insert(key, record.as_slice());
                }
                Event::TrialRetried { trial, .. } => batch.remove(record_key(trial)),
                Event::ImportedPart { content, first, records } => {
                    for (number, record) in (*first..).zip(records) {
                        batch.insert(imported_key(content, number), record.as_slice());
                    }
                }
                _ => {}
            }
        }
        batch.insert(APPLIED, &latest.to_le_bytes());
        self.db.apply_batch(batch).map_err(|e| {
            self.failed.store(true, Ordering::Relaxed);
            self.error(e)
        })
    }

    fn record(&self, trial: &TrialId) -> Result<Option<Stored>, IndexError> {
        self.check()?;
        let Some(value) = self.db.get(record_key(trial)).map_err(|e| self.error(e))? else { return Ok(None) };
        let short = || self.error(format!("the entry of trial {trial} is cut short"));
        let (stored, rest) = value.split_first_chunk().ok_or_else(short)?;
        let (missing, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (crc32, record) = rest.split_first_chunk().ok_or_else(short)?;
        let seal = Seal {
            stored: u64::from_le_bytes(*stored),
            missing: u64::from_le_bytes(*missing),
            crc32: u32::from_le_bytes(*crc32),
        };
        Ok(Some(Stored { record: record.to_vec(), seal }))
    }

    fn superseded(&self, trial: &TrialId) -> Result<Vec<(Attempt, Vec<u8>)>, IndexError> {
        self.check()?;
        let prefix = superseded_prefix(trial);
        let mut late = Vec::new();
        for entry in self.db.scan_prefix(&prefix) {
            let (key, value) = entry.map_err(|e| self.error(e))?;
            let attempt = key[prefix.len()..].try_into().map(u32::from_be_bytes).ok();
            if let Some(attempt) = attempt.and_then(|n| Attempt::try_from(n).ok()) {
                late.push((attempt, value.to_vec()));
            }
        }
        Ok(late)
    }

    fn imported(&self, content: &str, number: u64) -> Result<Vec<u8>, IndexError> {
        self.check()?;
        let found = self.db.get(imported_key(content, number)).map_err(|e| self.error(e))?;
        let missing = || self.error(format!("record {number} of the imported set {content} is not there"));
        found.map(|record| record.to_vec()).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use fleet_common::record::OutcomeClass;

    use super::*;

    fn trial(text: &str) -> TrialId {
        format!("0123456789abcdef0123456789abcdef/{text}").parse().expect("an id")
    }

    #[test]
    fn records_and_late_reports_are_found_by_trial() {
        let dir = tempfile::tempdir().expect("a folder");
        let index = SledIndex::open(dir.path()).expect("opens");
        let (a, b) = (trial("1"), trial("11"));
        let seal = Seal { stored: 7, missing: 1, crc32: 99 };
        let recorded = |trial: &TrialId, text: &str| Event::TrialRecorded {
            trial: trial.clone(),
            attempt: Attempt::FIRST,
            class: OutcomeClass::Completed,
            record: text.into(),
            seal,
            figures: Default::default(),
        };
        let late = |trial: &TrialId, text: &str| Event::ReportSuperseded {
            trial: trial.clone(),
            attempt: Attempt::FIRST,
            record: text.into(),
        };
        index.apply(&[(1, recorded(&a, "A")), (2, late(&a, "late A")), (3, late(&b, "late B"))]).expect("applies");
        assert_eq!(index.applied(), 3);
        assert_eq!(index.record(&a).expect("reads"), Some(Stored { record: b"A".to_vec(), seal }));
        assert_eq!(index.record(&b).expect("reads"), None);
        assert_eq!(index.superseded(&a).expect("reads"), [(Attempt::FIRST, b"late A".to_vec())]);
        index
            .apply(&[(4, Event::TrialRetried { trial: a.clone(), campaign: "c".parse().expect("a name") })])
            .expect("applies");
        assert_eq!(index.record(&a).expect("reads"), None, "an opened trial has no record until it ends again");
        drop(index);
        assert_eq!(SledIndex::open(dir.path()).expect("opens again").applied(), 4);
    }
}
