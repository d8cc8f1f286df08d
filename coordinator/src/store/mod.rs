//! What the coordinator keeps: the journal (the truth), the index (queryable, made again from the journal at any time),
//! the samples.
//!
//! ```text
//! STATE/lock         held while the coordinator runs
//! STATE/journal      events
//! STATE/index/       sled
//! STATE/samples/     samples, see there
//! STATE/content/     data sets and weights that were shared, by hash
//! ```

mod content;
mod index;
mod journal;
mod samples;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_common::lease::Millis;
use fleet_common::wire::v1;
use prost::Message;

pub use content::{Content, Refused, Shared};
pub use index::{Index, IndexError, SledIndex, Stored};
pub use journal::{Damage, Journal, JournalError};
pub use samples::{Keep, KeepTime, Reader, Removal, Samples, SamplesError, flatten};

use crate::core::{Event, State};

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has it.
    #[error("{path} is in use by another coordinator; stop that one, or give this one another --state folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused.
    #[error("the state folder {path} cannot be used: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// See [`JournalError`].
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// See [`IndexError`].
    #[error(transparent)]
    Index(#[from] IndexError),
    /// See [`SamplesError`].
    #[error(transparent)]
    Samples(#[from] SamplesError),
}

/// What was found when the state folder was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// Events replayed.
    pub events: u64,
    /// Stretches of the journal that could not be read.
    pub damage: Vec<Damage>,
    /// Events that were read but do not follow from those before: their forerunners are in the damage.
    pub misfits: Vec<String>,
    /// The index had to be made again.
    pub rebuilt: bool,
}

/// The state folder, open.
pub struct Store {
    journal: Journal,
    /// Shared with readers.
    pub index: Arc<dyn Index>,
    /// Shared with readers.
    pub samples: Arc<Samples>,
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens or creates a state folder and replays it.
    ///
    /// # Errors
    /// It is in use, cannot be written to, or holds something else.
    pub fn open(path: &Path) -> Result<(Self, State, Opened), StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        let (journal, replay) = Journal::open(&path.join("journal"))?;
        let mut opened = Opened { damage: replay.damage, ..Opened::default() };
        let (state, events, misfits) = fold(replay.records, Millis(0));
        opened.misfits = misfits;
        opened.events = events.len() as u64;
        let index = Self::open_index(&path.join("index"), &journal, &events, &mut opened)?;
        let samples = Arc::new(Samples::open(&path.join("samples"))?);
        let store = Self { journal, index: Arc::new(index), samples, path: path.to_owned(), _lock: lock };
        Ok((store, state, opened))
    }

    /// The index, brought up to date; made again where it cannot be opened or knows more than the journal (whose tail
    /// was cut).
    fn open_index(
        path: &Path,
        journal: &Journal,
        events: &[(u64, Event)],
        opened: &mut Opened,
    ) -> Result<SledIndex, StoreError> {
        let index = match SledIndex::open(path) {
            Ok(index) if index.applied() <= journal.latest() => index,
            _ => {
                opened.rebuilt = true;
                let io = |source| StoreError::Io { path: path.to_owned(), source };
                match std::fs::remove_dir_all(path) {
                    Ok(()) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(io(e)),
                }
                SledIndex::open(path)?
            }
        };
        let applied = index.applied();
        let behind = &events[events.partition_point(|(sequence, _)| *sequence <= applied)..];
        // In parts, so that a long journal does not become one enormous batch.
        for part in behind.chunks(1000) {
            index.apply(part)?;
        }
        Ok(index)
    }

    /// Makes events durable, with one sync for all of them, and brings the index up to date.
    ///
    /// # Errors
    /// The journal could not be written: none of the events counts. An index that fails behind a written journal is no
    /// error, because the events do count; it answers no more questions until the next start brings it up to date.
    pub fn commit(&mut self, events: Vec<(u64, Event)>) -> Result<(), StoreError> {
        let mut numbered = Vec::with_capacity(events.len());
        for (at_unix_ms, event) in events {
            numbered.push((self.journal.append(&event.to_journal(at_unix_ms).encode_to_vec())?, event));
        }
        self.journal.commit()?;
        if let Err(error) = self.index.apply(&numbered) {
            tracing::error!(%error, "results are safe in the journal, and cannot be shown");
        }
        Ok(())
    }

    /// Bytes of the journal that are durable.
    pub fn journal_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// The state as the journal has it, leases renewed at `now`: the way back after a commit failed.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn replay(&self, now: Millis) -> Result<State, StoreError> {
        Ok(fold(self.journal.read()?, now).0)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Folds journal records into a state; returns the events too, and what did not fit.
fn fold(records: Vec<(u64, Vec<u8>)>, now: Millis) -> (State, Vec<(u64, Event)>, Vec<String>) {
    let mut state = State::default();
    let mut events = Vec::new();
    let mut misfits = Vec::new();
    for (sequence, payload) in records {
        let applied = v1::JournalEvent::decode(payload.as_slice()).map_err(|e| e.to_string()).and_then(|entry| {
            let at = entry.at_unix_ms;
            let event = Event::from_journal(entry).map_err(|e| e.to_string())?;
            state.apply(&event, now, at).map_err(|e| e.to_string())?;
            Ok(event)
        });
        match applied {
            Ok(event) => events.push((sequence, event)),
            Err(why) => misfits.push(format!("event {sequence}: {why}")),
        }
    }
    (state, events, misfits)
}

#[cfg(test)]
mod tests {
    use fleet_common::id::Attempt;
    use fleet_common::lease::StateKind;
    use fleet_common::record::OutcomeClass;
    use fleet_common::telemetry::Seal;

    use super::*;
    use crate::core::{CellEntry, Submission};

    fn story() -> Vec<(u64, Event)> {
        let trial = |n: u8| format!("{n:032x}/0").parse().expect("an id");
        let submitted = Event::CampaignSubmitted(Box::new(Submission {
            name: "c".parse().expect("a name"),
            toml: String::new(),
            cells: vec![CellEntry {
                id: format!("{:032x}", 1).parse().expect("an id"),
                settings_json: "{}".into(),
                dataset: "dtd".into(),
            }],
            trials: vec![trial(1), trial(2)],
            excluded_json: vec![],
            warnings: vec![],
            keep: Default::default(),
        }));
        let holder =
            fleet_common::lease::Holder { agent: "a".parse().expect("an id"), slot: "cpu".parse().expect("a slot") };
        let granted = |n| Event::LeaseGranted { trial: trial(n), attempt: Attempt::FIRST, holder: holder.clone() };
        let recorded = |n| Event::TrialRecorded {
            trial: trial(n),
            attempt: Attempt::FIRST,
            class: OutcomeClass::Completed,
            record: vec![n; 10],
            seal: Seal::default(),
        };
        [submitted, granted(1), recorded(1), granted(2), recorded(2)].into_iter().map(|e| (1, e)).collect()
    }

    fn kinds(state: &State) -> Vec<StateKind> {
        (1..=2u8)
            .map(|n| state.trial(&format!("{n:032x}/0").parse().expect("an id")).expect("known").life.state.kind())
            .collect()
    }

    #[test]
    fn a_restart_knows_what_was_committed_and_a_second_coordinator_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut store, _, opened) = Store::open(dir.path()).expect("opens");
        assert_eq!((opened.events, opened.rebuilt), (0, false));
        store.commit(story()).expect("commits");
        assert!(matches!(Store::open(dir.path()).err(), Some(StoreError::InUse { .. })));
        assert_eq!(kinds(&store.replay(Millis(5)).expect("replays")), [StateKind::Finished; 2]);
        drop(store);
        let (store, state, opened) = Store::open(dir.path()).expect("opens again");
        assert_eq!((opened.events, opened.rebuilt), (5, false));
        assert_eq!(kinds(&state), [StateKind::Finished; 2]);
        let first = format!("{:032x}/0", 1).parse().expect("an id");
        assert_eq!(store.index.record(&first).expect("reads").expect("there").record, vec![1; 10]);
    }

    #[test]
    fn a_lost_index_and_one_ahead_of_a_cut_journal_are_made_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut store, _, _) = Store::open(dir.path()).expect("opens");
        store.commit(story()).expect("commits");
        drop(store);
        // The index is gone.
        std::fs::remove_dir_all(dir.path().join("index")).expect("removes");
        let (store, _, _) = Store::open(dir.path()).expect("opens");
        let second = format!("{:032x}/0", 2).parse().expect("an id");
        assert!(store.index.record(&second).expect("reads").is_some());
        drop(store);
        // The journal lost its last record; the index must forget it too.
        let journal = dir.path().join("journal");
        let bytes = std::fs::read(&journal).expect("reads");
        std::fs::write(&journal, &bytes[..bytes.len() - 1]).expect("cuts");
        let (store, state, opened) = Store::open(dir.path()).expect("opens");
        assert!(opened.rebuilt && opened.damage.len() == 1, "{opened:?}");
        assert_eq!(kinds(&state), [StateKind::Finished, StateKind::Leased]);
        assert!(store.index.record(&second).expect("reads").is_none());
    }

    /// A crash in the middle of an import leaves parts, which are not a set; a lost index has its records again.
    #[test]
    fn an_import_is_whole_or_not_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut store, _, _) = Store::open(dir.path()).expect("opens");
        let part = |first, records| Event::ImportedPart { content: "aa".into(), first, records };
        let name = "set".parse().expect("a name");
        let named = Event::SetImported { name, content: "aa".into(), records: 3, file_name: "f".into() };
        let events = [part(0, vec![vec![1], vec![2]]), part(2, vec![vec![3]]), named];
        store.commit(events.into_iter().map(|e| (1, e)).collect()).expect("commits");
        drop(store);
        std::fs::remove_dir_all(dir.path().join("index")).expect("removes");
        let (store, state, _) = Store::open(dir.path()).expect("opens");
        assert_eq!(state.imports().sets().len(), 1);
        let read: Vec<_> = (0..3).map(|n| store.index.imported("aa", n).expect("reads")).collect();
        assert_eq!(read, [vec![1], vec![2], vec![3]]);
        assert!(store.index.imported("aa", 3).expect_err("beyond").to_string().contains("record 3"));
        drop(store);
        let journal = dir.path().join("journal");
        let bytes = std::fs::read(&journal).expect("reads");
        std::fs::write(&journal, &bytes[..bytes.len() - 1]).expect("cuts");
        let (_, state, opened) = Store::open(dir.path()).expect("opens");
        assert!(state.imports().sets().is_empty() && opened.misfits.is_empty(), "{opened:?}");
    }

    #[test]
    fn a_hole_in_the_journal_is_reported_event_by_event() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut store, _, _) = Store::open(dir.path()).expect("opens");
        let mut events = story();
        let granted = events.remove(1);
        store.commit(vec![events.remove(0)]).expect("commits");
        let before = std::fs::metadata(dir.path().join("journal")).expect("there").len();
        store.commit(vec![granted]).expect("commits");
        store.commit(events).expect("commits");
        drop(store);
        // Damage the grant: the record behind it no longer fits.
        let journal = dir.path().join("journal");
        let mut bytes = std::fs::read(&journal).expect("reads");
        bytes[before as usize + 22] ^= 1;
        std::fs::write(&journal, &bytes).expect("writes");
        let (_, state, opened) = Store::open(dir.path()).expect("opens");
        assert_eq!(opened.damage.len(), 1);
        assert!(opened.misfits.len() == 1 && opened.misfits[0].contains("event 3"), "{:?}", opened.misfits);
        assert_eq!(kinds(&state), [StateKind::Waiting, StateKind::Finished]);
    }
}
