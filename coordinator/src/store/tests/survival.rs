//! Snapshots, and folders that a crash or a bad disk left: they open, and what was confirmed before the damage is there.

use std::path::Path;

use proptest::prelude::*;

use super::histories::{Seed, events, fold, seeds};
use super::*;
use crate::core::Restored;

/// Everything happens often.
const LIMITS: Limits = Limits { segment_bytes: 600, snapshot_events: 7, snapshot_bytes: u64::MAX };
/// Snapshots are made at the end only.
const SELDOM: Limits = Limits { segment_bytes: 600, snapshot_events: u64::MAX, snapshot_bytes: u64::MAX };

/// Writes a history, and waits for each snapshot; ends with one if `closed`.
fn write(dir: &Path, history: &[(u64, Event)], limits: Limits, closed: bool) {
    let (mut store, mut state, _) = Store::open_with(dir, limits).expect("opens");
    for (at, event) in history {
        store.commit(vec![(*at, event.clone())]).expect("commits");
        state.apply(event, Millis(0), *at).expect("fits");
        store.upkeep(0);
        store.collect(true);
    }
    if closed {
        store.close(&state);
    }
    assert_eq!(store.health.problems(), Vec::<String>::new());
}

fn reopen(dir: &Path) -> (Store, State, Opened) {
    Store::open_with(dir, LIMITS).unwrap_or_else(|e| panic!("{e}"))
}

/// A copy of a state folder to do something to; without the lock.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("reads") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

fn snapshots(dir: &Path) -> Vec<std::path::PathBuf> {
    snapshot::list(&dir.join(SNAPSHOTS)).expect("reads")
}

/// A fixed history of some length, for tests that go through all bytes.
fn some_history() -> Vec<(u64, Event)> {
    let seeds: Vec<Seed> =
        (0..90u32).map(|n| ((n * 7 % 12) as u8, (n * 5 % 6) as u8, (n / 2 % 3) as u8, (n * 3) as u8)).collect();
    events(&seeds)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A state that goes through a snapshot is the same state.
    #[test]
    fn a_restored_state_is_the_state(seeds in seeds(120)) {
        let state = fold(&events(&seeds));
        let mut restored = Restored::default();
        state.parts(|part| restored.add(part, Millis(0))).expect("its own parts");
        prop_assert_eq!(restored.finish(), state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// A snapshot and the events behind it give what all events give, and the index knows every record.
    #[test]
    fn a_snapshot_and_the_rest_are_the_whole(seeds in seeds(60), closed in any::<bool>()) {
        let dir = tempfile::tempdir().expect("a folder");
        let history = events(&seeds);
        write(dir.path(), &history, LIMITS, closed);
        let whole = fold(&history);
        let (store, state, opened) = reopen(dir.path());
        prop_assert_eq!(&state, &whole);
        prop_assert_eq!(opened.snapshot + opened.events, history.len() as u64);
        prop_assert!(opened.snapshot > 0 || history.len() < 7);
        prop_assert!(!closed || opened.events == 0);
        prop_assert_eq!(&store.replay(Millis(0)).expect("replays"), &whole);
        check_index(&store, &history)?;
        drop(store);
        // Without the snapshots, and without the index.
        for lost in [SNAPSHOTS, INDEX] {
            std::fs::remove_dir_all(dir.path().join(lost)).or_else(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            }).expect("removes");
            let (store, state, _) = reopen(dir.path());
            prop_assert_eq!(&state, &whole);
            check_index(&store, &history)?;
        }
    }
}

/// The records that the index tells of are those that the events say.
fn check_index(store: &Store, history: &[(u64, Event)]) -> Result<(), TestCaseError> {
    let mut records = std::collections::BTreeMap::new();
    for (_, event) in history {
        match event {
            Event::TrialRecorded { trial, record, .. } => {
                records.insert(trial.clone(), record.clone());
            }
            Event::TrialRetried { trial, .. } => {
                records.remove(trial);
            }
            _ => {}
        }
    }
    for n in 0..6 {
        let trial = histories::trial(n);
        let stored = store.index.record(&trial).expect("reads").map(|s| s.record);
        prop_assert_eq!(stored.as_ref(), records.get(&trial));
    }
    Ok(())
}

/// The state folder as it is after `n` events have survived.
fn check(dir: &Path, history: &[(u64, Event)], survived: usize, what: &str) -> Opened {
    let (mut store, state, opened) = reopen(dir);
    assert_eq!(state, fold(&history[..survived]), "{what}");
    check_index(&store, &history[..survived]).unwrap_or_else(|e| panic!("{what}: {e}"));
    // It goes on, and what it then says stays.
    let next = Event::ReportSuperseded { trial: histories::trial(0), attempt: Attempt::FIRST, record: vec![9] };
    store.commit(vec![(5, next.clone())]).unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(store);
    let mut longer = history[..survived].to_vec();
    longer.push((5, next));
    assert_eq!(reopen(dir).1, fold(&longer), "{what}, and then another event");
    opened
}

/// The end of the journal is cut anywhere, in every segment's reach of a snapshot: what is whole in front counts, and no
/// snapshot of what is gone does.
#[test]
fn a_journal_that_is_cut_anywhere_opens_with_what_was_in_front() {
    let dir = tempfile::tempdir().expect("a folder");
    let history = some_history();
    write(dir.path(), &history, LIMITS, true);
    let view = View::of_folder(&dir.path().join("journal")).expect("reads");
    let mut ends = Vec::new();
    view.read(From::After(0), |entry| {
        ends.push((entry.bound.at.segment, entry.bound.at.offset + 20 + entry.bound.length));
        Ok::<_, JournalError>(())
    })
    .expect("reads");
    let segments = &view.segments;
    let last = segments.iter().rev().find(|s| s.bytes > 8).copied().expect("a segment");
    for cut in (0..last.bytes).step_by(7) {
        let torn = tempfile::tempdir().expect("a folder");
        copy(dir.path(), torn.path());
        for behind in segments.iter().filter(|s| s.first > last.first) {
            std::fs::remove_file(torn.path().join("journal").join(journal::file_name(behind.first))).expect("removes");
        }
        let path = torn.path().join("journal").join(journal::file_name(last.first));
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &bytes[..cut as usize]).expect("cuts");
        let whole = |(segment, end): &&(u64, u64)| *segment < last.first || (*segment == last.first && *end <= cut);
        let survived = ends.iter().filter(whole).count();
        let opened = check(torn.path(), &history, survived, &format!("cut at {cut}"));
        assert!(!opened.refused.is_empty(), "the snapshot of the end is told of");
    }
}

/// Any byte of the latest snapshot is wrong, or it ends too early: the one before serves, or the journal.
#[test]
fn a_bad_snapshot_is_told_of_and_not_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let history = some_history();
    write(dir.path(), &history, LIMITS, true);
    let latest = snapshots(dir.path())[0].clone();
    assert_eq!(snapshots(dir.path()).len(), 2, "the one before is kept");
    let good = std::fs::read(&latest).expect("reads");
    let name = latest.file_name().expect("a name");
    let bad = tempfile::tempdir().expect("a folder");
    copy(dir.path(), bad.path());
    let path = bad.path().join(SNAPSHOTS).join(name);
    let wrong = (0..good.len()).step_by(13).flat_map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        [(format!("cut at {at}"), good[..at].to_vec()), (format!("flipped at {at}"), flipped)]
    });
    for (what, bytes) in wrong {
        std::fs::write(&path, bytes).expect("writes");
        let (_, state, opened) = reopen(bad.path());
        assert_eq!(state, fold(&history), "{what}");
        assert_eq!(opened.refused.len(), 1, "{what}");
        assert!(opened.snapshot > 0 && opened.snapshot < history.len() as u64, "{what}: the one before is used");
    }
    for path in snapshots(bad.path()) {
        std::fs::write(path, b"FLEETS01").expect("writes");
    }
    let (_, state, opened) = reopen(bad.path());
    assert_eq!((state, opened.snapshot, opened.refused.len()), (fold(&history), 0, 2));
}

/// The end was lost, and other events took its numbers: a snapshot of the lost ones must not come back.
#[test]
fn a_snapshot_of_another_journal_is_not_used() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let history = some_history();
    write(one.path(), &history[..20], SELDOM, true);
    let mut changed = history.clone();
    for (at, _) in &mut changed {
        *at += 1;
    }
    write(other.path(), &changed, SELDOM, false);
    copy(&one.path().join(SNAPSHOTS), &other.path().join(SNAPSHOTS));
    let (_, state, opened) = reopen(other.path());
    assert_eq!(state, fold(&changed));
    assert!(opened.refused.len() == 1 && opened.refused[0].contains("has not the event 20"), "{:?}", opened.refused);
}

/// A snapshot of a later version is left alone, an event of one is not.
#[test]
fn what_a_later_version_wrote_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let history = some_history();
    write(dir.path(), &history, SELDOM, false);
    let path = dir.path().join("journal").join(journal::file_name(1));
    let mut bytes = journal::MAGIC.to_vec();
    journal::record::encode(&mut bytes, 1, &[8, 5, 0xfa, 0x3f, 2, 8, 1]);
    std::fs::write(&path, bytes).expect("writes");
    let error = Store::open(dir.path()).err().expect("refused").to_string();
    assert!(error.contains("event 1") && error.contains("a later version"), "{error}");
    std::fs::write(dir.path().join("version"), "3\n").expect("writes");
    let error = Store::open(dir.path()).err().expect("refused").to_string();
    assert!(error.contains("its layout is 3") && error.contains("fleet store export"), "{error}");
}

/// A crash behind each step of making a snapshot, of beginning a segment and of migrating a folder.
#[test]
fn a_crash_behind_any_step_is_gone_on_from() {
    let dir = tempfile::tempdir().expect("a folder");
    let history = some_history();
    write(dir.path(), &history, LIMITS, false);
    let before = dir.path();
    let after = tempfile::tempdir().expect("a folder");
    copy(before, after.path());
    let (mut store, state, _) = reopen(after.path());
    store.close(&state);
    drop(store);
    let made = snapshots(after.path())[0].clone();
    assert!(!snapshots(before).iter().any(|s| s.file_name() == made.file_name()), "one was made");
    let whole = std::fs::read(&made).expect("reads");
    let name = made.file_name().expect("a name");
    // Written in part beside; whole beside; renamed, the old ones still there.
    for (file, bytes) in [
        (Path::new(name).with_extension("new"), &whole[..whole.len() / 2]),
        (Path::new(name).with_extension("new"), &whole[..]),
        (Path::new(name).to_owned(), &whole[..]),
    ] {
        let crashed = tempfile::tempdir().expect("a folder");
        copy(before, crashed.path());
        std::fs::write(crashed.path().join(SNAPSHOTS).join(&file), bytes).expect("writes");
        let opened = check(crashed.path(), &history, history.len(), &format!("{} written", file.display()));
        assert_eq!(opened.refused, Vec::<String>::new());
        let (mut store, state, _) = reopen(crashed.path());
        store.close(&state);
        assert_eq!(snapshots(crashed.path()).len(), 2);
    }
    // A folder of one file, at each step of becoming one of segments.
    let old = tempfile::tempdir().expect("a folder");
    write(old.path(), &history, Limits { segment_bytes: u64::MAX, ..SELDOM }, false);
    let bytes = std::fs::read(old.path().join("journal").join(journal::file_name(1))).expect("reads");
    for step in 0..5 {
        let crashed = tempfile::tempdir().expect("a folder");
        let at = |name: &str| crashed.path().join(name);
        if step >= 2 {
            std::fs::create_dir(at("journal")).expect("a folder");
        }
        let file = ["journal", "journal.1", "journal.1", "journal/00000000000000000001.log"][step.min(3)];
        std::fs::write(at(file), &bytes).expect("writes");
        if step == 4 {
            std::fs::write(at("version.new"), "").expect("writes");
        }
        let opened = check(crashed.path(), &history, history.len(), &format!("step {step}"));
        assert_eq!(opened.migrated, step < 3);
        assert_eq!(std::fs::read_to_string(at("version")).expect("reads"), "2\n");
    }
}

/// Any byte of the journal is wrong: one event is missing, which is told, and with a snapshot its effect is not.
#[test]
fn a_flipped_byte_costs_one_event_and_behind_a_snapshot_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let history = some_history();
    write(dir.path(), &history, Limits { segment_bytes: u64::MAX, ..SELDOM }, true);
    let bad = tempfile::tempdir().expect("a folder");
    copy(dir.path(), bad.path());
    let path = bad.path().join("journal").join(journal::file_name(1));
    let good = std::fs::read(&path).expect("reads");
    let view = View::of_folder(&bad.path().join("journal")).expect("reads");
    let mut last = 0;
    view.read(From::After(0), |entry| {
        last = entry.bound.at.offset as usize;
        Ok::<_, JournalError>(())
    })
    .expect("reads");
    for at in (8..last).step_by(29) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x04;
        std::fs::write(&path, flipped).expect("writes");
        let (_, state, opened) = reopen(bad.path());
        assert_eq!(state, fold(&history), "flipped at {at}: the snapshot has it");
        assert_eq!(opened.snapshot, history.len() as u64);
        let rebuilt = rebuild(bad.path()).expect("rebuilds");
        assert!(!rebuilt.misfits.is_empty(), "flipped at {at}");
        assert_eq!(reopen(bad.path()).1, fold(&history), "flipped at {at}: rebuilding loses nothing");
        std::fs::remove_dir_all(bad.path().join(SNAPSHOTS)).expect("removes");
        let (_, _, opened) = reopen(bad.path());
        assert_eq!(opened.damage.len(), 1, "flipped at {at}");
        assert_eq!(opened.events + opened.misfits.len() as u64, history.len() as u64 - 1, "flipped at {at}");
        copy(&dir.path().join(SNAPSHOTS), &bad.path().join(SNAPSHOTS));
    }
}
