//! The queryable state: where trials' records are in the journal, behind a trait. It can always be made again from it.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::telemetry::Seal;
use fleet_common::wire::v1;
use prost::Message;

use super::journal::{Position, View, file_name};
use crate::core::Event;

/// What reading the index may run into.
#[derive(Debug, thiserror::Error)]
#[error("the index {path} failed: {reason}. Nothing is lost: it is made again from the journal once there is space")]
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

/// An event in its place in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Its number.
    pub sequence: u64,
    /// Where its record is.
    pub at: Position,
    /// The event.
    pub event: Event,
}

/// Where a trial's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the event that holds it.
    pub sequence: u64,
    /// Where that event is in the journal.
    pub at: Position,
}

/// What can be asked about finished trials.
pub trait Index: Send + Sync {
    /// The sequence number of the latest event that is in.
    fn applied(&self) -> u64;

    /// Takes in events, all or none of them.
    ///
    /// # Errors
    /// The storage refused. From then on every question and every further event is refused, until [`Index::reopen`]:
    /// what came between would be missing without a trace.
    fn apply(&self, events: &[Placed]) -> Result<(), IndexError>;

    /// Tries again after a refusal; what is missing behind [`Index::applied`] must be taken in again.
    ///
    /// # Errors
    /// The storage still refuses.
    fn reopen(&self) -> Result<(), IndexError>;

    /// A trial's record.
    ///
    /// # Errors
    /// The storage refused, or the journal has not the record that the index tells of.
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
/// Trials' records stay in the journal, and the index holds their places: sled reads all that it has when it is opened.
pub struct SledIndex {
    /// None after a reopening that failed.
    db: RwLock<Option<sled::Db>>,
    path: PathBuf,
    /// The folder of the journal's segments.
    journal: PathBuf,
    /// Segments that were read from.
    open: Mutex<HashMap<u64, Arc<File>>>,
    /// An event could not be taken in.
    failed: AtomicBool,
}

/// How long a database that was just closed may keep its lock.
const FAREWELL: Duration = Duration::from_secs(2);
/// Version of what keys and values mean. Another one is made again.
const INDEX_VERSION: u8 = 2;
/// Bytes that sled keeps in memory: entries are small, and the journal is what is large.
const CACHE: u64 = 64 << 20;
/// Segments that stay open for reading.
const OPEN: usize = 64;

/// Keys: version and applied number, records' places by trial, late reports by trial and attempt, imported records by
/// set and number.
const VERSION: &[u8] = b"version";
const APPLIED: &[u8] = b"applied";

const PLACE: &[u8] = b"p/";

fn place_key(trial: &TrialId) -> Vec<u8> {
    format!("p/{trial}").into_bytes()
}

/// A NUL ends the trial's id, so that one id is never the prefix of another's keys.
fn superseded_prefix(trial: &TrialId) -> Vec<u8> {
    format!("s/{trial}\0").into_bytes()
}

/// Ordered by number.
fn imported_key(content: &str, number: u64) -> Vec<u8> {
    [b"i/", content.as_bytes(), b"\0", &number.to_be_bytes()].concat()
}

fn place_value(sequence: u64, at: Position) -> [u8; 24] {
    let mut value = [0; 24];
    value[..8].copy_from_slice(&sequence.to_le_bytes());
    value[8..16].copy_from_slice(&at.segment.to_le_bytes());
    value[16..].copy_from_slice(&at.offset.to_le_bytes());
    value
}

fn place(value: &[u8]) -> Option<Place> {
    let number = |i: usize| value.get(i..i + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    Some(Place { sequence: number(0)?, at: Position { segment: number(8)?, offset: number(16)? } })
}

impl SledIndex {
    /// Opens or creates the database in `path`, of the journal in the folder `journal`.
    ///
    /// # Errors
    /// It is in use, damaged, or the disk refuses.
    pub fn open(path: &Path, journal: &Path) -> Result<Self, IndexError> {
        let db = open(path).map_err(|reason| IndexError { path: path.to_owned(), reason })?;
        let (path, journal) = (path.to_owned(), journal.to_owned());
        let index =
            Self { db: RwLock::new(Some(db)), path, journal, open: Mutex::default(), failed: AtomicBool::new(false) };
        let db = index.db()?;
        if db.is_empty() {
            db.insert(VERSION, &[INDEX_VERSION]).map_err(|e| index.error(e))?;
        }
        Ok(index)
    }

    /// Whether what is in it is of this version.
    ///
    /// # Errors
    /// The storage refused.
    pub fn is_current(&self) -> Result<bool, IndexError> {
        let version = self.db()?.get(VERSION).map_err(|e| self.error(e))?;
        Ok(version.is_some_and(|v| v.as_ref() == [INDEX_VERSION]))
    }

    /// All places of records, as trials' ids in words.
    ///
    /// # Errors
    /// The storage refused.
    pub fn places(&self) -> Result<Vec<(String, Option<Place>)>, IndexError> {
        let entries = self.db()?.scan_prefix(PLACE).map(|entry| {
            let (key, value) = entry.map_err(|e| self.error(e))?;
            Ok((String::from_utf8_lossy(&key[PLACE.len()..]).into_owned(), place(&value)))
        });
        entries.collect()
    }

    /// Writes everything down.
    ///
    /// # Errors
    /// The storage refused.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db()?.flush().map(drop).map_err(|e| self.error(e))
    }

    fn error(&self, e: impl ToString) -> IndexError {
        IndexError { path: self.path.clone(), reason: e.to_string() }
    }

    fn db(&self) -> Result<sled::Db, IndexError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(self.error("it could not be written"));
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner).clone();
        db.ok_or_else(|| self.error("it could not be opened again"))
    }

    fn segment(&self, first: u64) -> std::io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&first) {
            return Ok(file.clone());
        }
        if open.len() >= OPEN {
            open.clear();
        }
        let file = Arc::new(File::open(self.journal.join(file_name(first)))?);
        open.insert(first, file.clone());
        Ok(file)
    }

    fn read(&self, trial: &TrialId, place: Place) -> Result<Stored, IndexError> {
        let Position { segment, offset } = place.at;
        let payload = self.segment(segment).and_then(|file| View::payload(&file, offset, place.sequence));
        let payload = payload.map_err(|e| self.error(e))?;
        let event = payload.and_then(|p| v1::JournalEvent::decode(p.as_slice()).ok()?.event);
        match event {
            Some(v1::journal_event::Event::TrialRecorded(r)) => Ok(Stored {
                record: r.record_json,
                seal: Seal { stored: r.samples_stored, missing: r.samples_missing, crc32: r.samples_crc32 },
            }),
            _ => Err(self.error(format!(
                "the journal has not the record of trial {trial} at byte {offset} of segment {segment}; stop the \
                 coordinator, and `fleet store verify` says what is damaged"
            ))),
        }
    }
}

fn open(path: &Path) -> Result<sled::Db, String> {
    let until = Instant::now() + FAREWELL;
    loop {
        match sled::Config::new().path(path).cache_capacity(CACHE).open() {
            Ok(db) => return Ok(db),
            // sled keeps its lock for a moment after it was closed, and says so in words only.
            Err(sled::Error::Io(e)) if e.to_string().contains("WouldBlock") && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

impl Index for SledIndex {
    fn applied(&self) -> u64 {
        let bytes = self.db().ok().and_then(|db| db.get(APPLIED).ok().flatten());
        bytes.and_then(|b| b.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn apply(&self, events: &[Placed]) -> Result<(), IndexError> {
        let db = self.db()?;
        let Some(latest) = events.last() else { return Ok(()) };
        let mut batch = sled::Batch::default();
        for Placed { sequence, at, event } in events {
            match event {
                Event::TrialRecorded { trial, .. } => batch.insert(place_key(trial), &place_value(*sequence, *at)),
                Event::ReportSuperseded { trial, attempt, record } => {
                    let mut key = superseded_prefix(trial);
                    key.extend_from_slice(&attempt.get().to_be_bytes());
                    batch.insert(key, record.as_slice());
                }
                Event::TrialRetried { trial, .. } => batch.remove(place_key(trial)),
                Event::ImportedPart { content, first, records } => {
                    for (number, record) in (*first..).zip(records) {
                        batch.insert(imported_key(content, number), record.as_slice());
                    }
                }
                _ => {}
            }
        }
        batch.insert(APPLIED, &latest.sequence.to_le_bytes());
        db.apply_batch(batch).map_err(|e| {
            self.failed.store(true, Ordering::Relaxed);
            self.error(e)
        })
    }

    fn reopen(&self) -> Result<(), IndexError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // sled refuses everything after its first refusal, so it is closed; readers may be at work for a moment.
        drop(db.take());
        let fresh = open(&self.path).or_else(|_| {
            std::fs::remove_dir_all(&self.path).map_err(|e| e.to_string())?;
            open(&self.path)
        });
        let fresh = fresh.and_then(|fresh| {
            fresh.insert(VERSION, &[INDEX_VERSION]).and_then(|_| fresh.flush()).map_err(|e| e.to_string())?;
            Ok(fresh)
        });
        *db = Some(fresh.map_err(|e| self.error(e))?);
        self.failed.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn record(&self, trial: &TrialId) -> Result<Option<Stored>, IndexError> {
        let Some(value) = self.db()?.get(place_key(trial)).map_err(|e| self.error(e))? else { return Ok(None) };
        let place = place(&value).ok_or_else(|| self.error(format!("the entry of trial {trial} is cut short")))?;
        self.read(trial, place).map(Some)
    }

    fn superseded(&self, trial: &TrialId) -> Result<Vec<(Attempt, Vec<u8>)>, IndexError> {
        let prefix = superseded_prefix(trial);
        let mut late = Vec::new();
        for entry in self.db()?.scan_prefix(&prefix) {
            let (key, value) = entry.map_err(|e| self.error(e))?;
            let attempt = key[prefix.len()..].try_into().map(u32::from_be_bytes).ok();
            if let Some(attempt) = attempt.and_then(|n| Attempt::try_from(n).ok()) {
                late.push((attempt, value.to_vec()));
            }
        }
        Ok(late)
    }

    fn imported(&self, content: &str, number: u64) -> Result<Vec<u8>, IndexError> {
        let found = self.db()?.get(imported_key(content, number)).map_err(|e| self.error(e))?;
        let missing = || self.error(format!("record {number} of the imported set {content} is not there"));
        found.map(|record| record.to_vec()).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use fleet_common::record::OutcomeClass;

    use super::*;
    use crate::store::journal::Journal;

    fn trial(text: &str) -> TrialId {
        format!("0123456789abcdef0123456789abcdef/{text}").parse().expect("an id")
    }

    #[test]
    fn records_and_late_reports_are_found_by_trial() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, segments) = (dir.path().join("index"), dir.path().join("journal"));
        let (mut journal, _) = Journal::open(&segments).expect("opens");
        let index = SledIndex::open(&path, &segments).expect("opens");
        assert!(index.is_current().expect("reads"));
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
        let mut place = |event: Event| {
            let bound = journal.append(&event.to_journal(1).encode_to_vec()).expect("small");
            journal.commit().expect("commits");
            Placed { sequence: bound.sequence, at: bound.at, event }
        };
        let events = [recorded(&a, "A"), late(&a, "late A"), late(&b, "late B")].map(&mut place);
        index.apply(&events).expect("applies");
        assert_eq!(index.applied(), 3);
        assert_eq!(index.record(&a).expect("reads"), Some(Stored { record: b"A".to_vec(), seal }));
        assert_eq!(index.record(&b).expect("reads"), None);
        assert_eq!(index.superseded(&a).expect("reads"), [(Attempt::FIRST, b"late A".to_vec())]);
        let retried = place(Event::TrialRetried { trial: a.clone(), campaign: "c".parse().expect("a name") });
        index.apply(&[retried]).expect("applies");
        assert_eq!(index.record(&a).expect("reads"), None, "an opened trial has no record until it ends again");
        drop(index);
        let index = SledIndex::open(&path, &segments).expect("opens again");
        assert_eq!(index.applied(), 4);
        index.reopen().expect("opens again");
        assert_eq!(index.applied(), 4);
    }

    #[test]
    fn what_an_earlier_version_kept_is_told_apart() {
        let dir = tempfile::tempdir().expect("a folder");
        let db = sled::open(dir.path().join("index")).expect("opens");
        db.insert(format!("r/{}", trial("1")), b"a record, as version 1 kept it").expect("writes");
        db.insert(APPLIED, &7u64.to_le_bytes()).expect("writes");
        drop(db);
        let index = SledIndex::open(&dir.path().join("index"), dir.path()).expect("opens");
        assert!(!index.is_current().expect("reads"));
    }
}
