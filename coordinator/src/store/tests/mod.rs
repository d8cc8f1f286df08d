//! The state folder as a whole.

mod histories;
mod keeping;
mod survival;

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
            settings: fleet_common::plan::SettingsText::of("{}"),
            dataset: "dtd".into(),
        }],
        trials: vec![trial(1), trial(2)],
        excluded_json: vec![],
        warnings: vec![],
        keep: Default::default(),
        scheduling: Default::default(),
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
        figures: Default::default(),
    };
    [submitted, granted(1), recorded(1), granted(2), recorded(2)].into_iter().map(|e| (1, e)).collect()
}

/// The first segment of the journal.
fn segment(dir: &Path) -> PathBuf {
    dir.join("journal").join(journal::file_name(1))
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
    let journal = segment(dir.path());
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
    let journal = segment(dir.path());
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
    let before = std::fs::metadata(segment(dir.path())).expect("there").len();
    store.commit(vec![granted]).expect("commits");
    store.commit(events).expect("commits");
    drop(store);
    // Damage the grant: the record behind it no longer fits.
    let journal = segment(dir.path());
    let mut bytes = std::fs::read(&journal).expect("reads");
    bytes[before as usize + 22] ^= 1;
    std::fs::write(&journal, &bytes).expect("writes");
    let (_, state, opened) = Store::open(dir.path()).expect("opens");
    assert_eq!(opened.damage.len(), 1);
    assert!(opened.misfits.len() == 1 && opened.misfits[0].contains("event 3"), "{:?}", opened.misfits);
    assert_eq!(kinds(&state), [StateKind::Waiting, StateKind::Finished]);
}

/// An index that refuses when it is told to, as sled does from a full disk on.
struct Refusing {
    inner: SledIndex,
    refuses: std::sync::atomic::AtomicBool,
    failed: std::sync::atomic::AtomicBool,
}

impl Refusing {
    fn check(&self) -> Result<(), IndexError> {
        use std::sync::atomic::Ordering::Relaxed;
        let refuses = self.refuses.load(Relaxed) || self.failed.load(Relaxed);
        if refuses { Err(index_error()) } else { Ok(()) }
    }
}

fn index_error() -> IndexError {
    let nowhere = Path::new("/dev/null/index");
    SledIndex::open(nowhere, nowhere).err().expect("a device has no folder")
}

impl Index for Refusing {
    fn applied(&self) -> u64 {
        self.inner.applied()
    }

    fn apply(&self, events: &[Placed]) -> Result<(), IndexError> {
        self.check().and_then(|()| self.inner.apply(events)).inspect_err(|_| {
            self.failed.store(true, std::sync::atomic::Ordering::Relaxed);
        })
    }

    fn reopen(&self) -> Result<(), IndexError> {
        self.failed.store(false, std::sync::atomic::Ordering::Relaxed);
        self.check()
    }

    fn record(&self, trial: &fleet_common::id::TrialId) -> Result<Option<Stored>, IndexError> {
        self.check().and_then(|()| self.inner.record(trial))
    }

    fn superseded(&self, trial: &fleet_common::id::TrialId) -> Result<Vec<(Attempt, Vec<u8>)>, IndexError> {
        self.inner.superseded(trial)
    }

    fn imported(&self, content: &str, number: u64) -> Result<Vec<u8>, IndexError> {
        self.inner.imported(content, number)
    }
}

#[test]
fn an_index_that_refused_takes_in_what_it_lacks_once_it_can() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut store, _, _) = Store::open(dir.path()).expect("opens");
    let folder = dir.path().join("other");
    let inner = SledIndex::open(&folder, &dir.path().join("journal")).expect("opens");
    let refusing = Arc::new(Refusing { inner, refuses: true.into(), failed: false.into() });
    store.index = refusing.clone();
    let mut events = story();
    let last = events.pop().expect("one");
    store.commit(events).expect("the journal takes them");
    assert!(store.health.problems()[0].starts_with("index: "), "{:?}", store.health.problems());
    let [first, second] = [1, 2].map(|n| format!("{n:032x}/0").parse().expect("an id"));
    assert!(store.index.record(&first).is_err(), "better no answer than half of one");
    store.upkeep(2);
    assert!(store.health.is_failing(Part::Index), "it still refuses");
    refusing.refuses.store(false, std::sync::atomic::Ordering::Relaxed);
    store.commit(vec![last]).expect("commits");
    store.upkeep.index_not_before = None;
    store.upkeep(2);
    assert_eq!(store.health.problems(), Vec::<String>::new());
    for trial in [first, second] {
        assert!(store.index.record(&trial).expect("reads").is_some());
    }
    assert_eq!(store.index.applied(), 5);
}
