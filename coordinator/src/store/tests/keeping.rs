//! Folders of earlier versions, and what `verify`, `export` and `import` make of folders.

use std::path::Path;

use fleet_common::lease::StateKind;

use super::survival::copy;
use super::*;
use crate::store::{ArchiveError, export, import, rebuild, verify};

/// What a coordinator of each layout left: two finished trials with samples, two that were called off, an imported set.
fn fixture(layout: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/state-{layout}")), dir.path());
    dir
}

fn no_word(_: &str, _: u64, _: Option<u64>) {}

/// Checks that a folder holds all of the fixtures.
fn holds_all(dir: &Path, what: &str) -> Opened {
    let (store, state, opened) = Store::open(dir).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(opened.damage.is_empty() && opened.misfits.is_empty() && opened.refused.is_empty(), "{what}: {opened:?}");
    let first = &state.campaigns()[&"first".parse().expect("a name")];
    assert_eq!(first.trials.len(), 2);
    for trial in &first.trials {
        let stored = store.index.record(trial).expect("reads").expect("a record");
        let record = fleet_common::record::Record::from_json(&stored.record).expect("a record");
        assert_eq!(record.trial, *trial);
        let batches = store.samples.read(trial, record.attempt, Some(stored.seal)).expect("opens");
        let samples: u64 = batches.map(|b| flatten(&b.expect("reads")).len() as u64).sum();
        assert_eq!(samples, stored.seal.stored, "{what}");
        assert!(samples > 0);
    }
    let second = &state.campaigns()[&"second".parse().expect("a name")];
    let called_off =
        second.trials.iter().filter(|t| state.trial(t).expect("known").life.state.kind() == StateKind::Cancelled);
    assert_eq!(called_off.count(), 2);
    let set = &state.imports().sets()[&"copy".parse().expect("a name")];
    assert_eq!(set.records, 2);
    assert!(store.index.imported(&set.content, 1).is_ok());
    opened
}

#[test]
fn folders_of_every_version_are_opened_and_have_everything() {
    for layout in 1..=LAYOUT {
        let dir = fixture(layout);
        let before = verify(dir.path(), &mut no_word).expect("verifies");
        assert_eq!((before.layout, before.findings), (layout, vec![]));
        assert_eq!(holds_all(dir.path(), "at first").migrated, layout == 1);
        assert!(!holds_all(dir.path(), "again").migrated);
        let after = verify(dir.path(), &mut no_word).expect("verifies");
        assert_eq!((after.layout, &after.findings[..]), (LAYOUT, &[][..]));
        assert_eq!((after.events, after.trials, after.records), (before.events, before.trials, before.records));
        assert_eq!((after.records, after.sample_files), (2, 2));
    }
}

/// The file that this test would write is what `tests/fixtures/state-2` holds.
#[test]
fn the_latest_fixture_is_of_this_layout() {
    let dir = fixture(LAYOUT);
    assert_eq!(layout::look(dir.path()).expect("reads"), Layout::Known(LAYOUT));
    assert_eq!(snapshot::list(&dir.path().join(SNAPSHOTS)).expect("reads").len(), 1);
    let opened = holds_all(dir.path(), "from its snapshot");
    assert_eq!((opened.events, opened.rebuilt), (0, false));
}

#[test]
fn an_export_is_opened_by_the_first_layout_and_imported_whole() {
    let dir = fixture(LAYOUT);
    drop(holds_all(dir.path(), "before"));
    let mut file = Vec::new();
    let moved = export(dir.path(), &mut file, &mut |_| {}).expect("exports");
    assert_eq!(moved.files, 2);
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("moved.tar");
    std::fs::write(&path, &file).expect("writes");
    let new = place.path().join("new");
    assert_eq!(import(&path, &new, &mut |_| {}).expect("imports"), moved);
    assert_eq!(holds_all(&new, "imported").events, 0, "a snapshot was made");
    assert_eq!(verify(&new, &mut no_word).expect("verifies").findings, []);
    // By hand, as an earlier version would be given it.
    let by_hand = place.path().join("by-hand");
    tar::Archive::new(file.as_slice()).unpack(&by_hand).expect("unpacks");
    let old = by_hand.join("fleet-state");
    assert_eq!(layout::look(&old).expect("reads"), Layout::Known(1));
    holds_all(&old, "unpacked by hand");
    // Compressed, it is known by itself.
    std::fs::write(&path, zstd::bulk::compress(&file, 3).expect("packs")).expect("writes");
    import(&path, &place.path().join("packed"), &mut |_| {}).expect("imports");
    assert!(matches!(import(&path, &new, &mut |_| {}), Err(ArchiveError::Exists { .. })));
    // Cut anywhere, nothing comes of it.
    for cut in (0..file.len() - 1024).step_by(997) {
        std::fs::write(&path, &file[..cut]).expect("writes");
        let torn = place.path().join("torn");
        let error = import(&path, &torn, &mut |_| {}).expect_err("cut").to_string();
        assert!(error.contains("moved.tar is not used"), "{error}");
        assert!(!torn.exists() && !place.path().join("torn.partial").exists());
    }
}

#[test]
fn a_file_that_leads_out_of_the_folder_is_refused() {
    let place = tempfile::tempdir().expect("a folder");
    let mut tar = tar::Builder::new(Vec::new());
    let add = |tar: &mut tar::Builder<Vec<u8>>, name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, text.as_bytes()).expect("appends");
    };
    add(&mut tar, "fleet-state/export.json", "{\"schema\":\"fleet.state-export/1\"}");
    add(&mut tar, "fleet-state/samples/../../../escaped", "x");
    let path = place.path().join("bad.tar");
    std::fs::write(&path, tar.into_inner().expect("ends")).expect("writes");
    let error = import(&path, &place.path().join("new"), &mut |_| {}).expect_err("refused").to_string();
    assert!(error.contains("which no export has"), "{error}");
    assert!(!place.path().join("escaped").exists() && !place.path().parent().expect("one").join("escaped").exists());
}

/// What is broken, and what is said of it: whether something is lost, and where.
#[test]
fn verify_finds_what_is_wrong_and_where() {
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).expect("reads");
        let at = if at == usize::MAX { bytes.len() - 1 } else { at };
        bytes[at] ^= 1;
        std::fs::write(path, bytes).expect("writes");
    };
    let found = |what: &str, damage: &dyn Fn(&Path), is_loss: bool, place: &str, wrong: &str| {
        let dir = fixture(LAYOUT);
        drop(holds_all(dir.path(), what));
        damage(dir.path());
        let verified = verify(dir.path(), &mut no_word).expect("verifies");
        let hit = verified.findings.iter().find(|f| f.place.contains(place) && f.wrong.contains(wrong));
        assert!(hit.is_some_and(|f| f.is_loss == is_loss), "{what}: {:?}", verified.findings);
        assert_eq!(verified.is_whole(), !is_loss, "{what}: {:?}", verified.findings);
        dir
    };
    let segment = |dir: &Path| dir.join("journal").join(journal::file_name(1));
    let chunks = |dir: &Path| samples::files(&dir.join("samples")).expect("reads").into_values().next().expect("one");
    found("a flipped byte", &|d| flip(&segment(d), 5000), true, "journal", "are no events");
    found("a torn end", &|d| flip(&segment(d), usize::MAX), false, "journal", "are no events");
    found(
        "a snapshot",
        &|d| flip(&snapshot::list(&d.join(SNAPSHOTS)).expect("reads")[0], 60),
        false,
        "snapshots",
        "damaged",
    );
    found("samples", &|d| flip(&chunks(d), 20), true, ".chunks", "not what was sealed");
    found("samples gone", &|d| std::fs::remove_file(chunks(d)).expect("removes"), true, "samples", "is missing");
    // A snapshot that is whole and says something else.
    let other = |d: &Path| {
        let path = snapshot::list(&d.join(SNAPSHOTS)).expect("reads")[0].clone();
        let (head, _) = snapshot::read(&path, Millis(0)).expect("reads");
        snapshot::write(&d.join(SNAPSHOTS), &head, &State::default()).expect("writes");
    };
    let dir = found("another state", &other, false, "snapshots", "not what the journal's events add up to");
    rebuild(dir.path()).expect("rebuilds");
    assert_eq!(verify(dir.path(), &mut no_word).expect("verifies").findings, []);
    // An index that points elsewhere.
    let wrong_index = |d: &Path| {
        let index = SledIndex::open(&d.join(INDEX), &d.join("journal")).expect("opens");
        let (trial, _) = index.places().expect("reads")[0].clone();
        let campaign = "first".parse().expect("a name");
        let event = Event::TrialRetried { trial: trial.parse().expect("an id"), campaign };
        let at = journal::Position { segment: 1, offset: 8 };
        index.apply(&[Placed { sequence: index.applied(), at, event }]).expect("applies");
    };
    let dir = found("the index", &wrong_index, true, "index", "1 records are not where it says");
    rebuild(dir.path()).expect("rebuilds");
    assert_eq!(verify(dir.path(), &mut no_word).expect("verifies").findings, []);
    let store = Store::open(dir.path()).expect("opens").0;
    assert!(matches!(verify(dir.path(), &mut no_word), Err(StoreError::InUse { .. })));
    drop(store);
    let empty = tempfile::tempdir().expect("a folder");
    assert!(matches!(verify(empty.path(), &mut no_word), Err(StoreError::NoState { .. })));
    assert_eq!(std::fs::read_dir(empty.path()).expect("reads").count(), 0, "nothing was made");
}
