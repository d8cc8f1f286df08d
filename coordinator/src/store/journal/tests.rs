//! The journal against a disk that tears, flips and refuses.

use proptest::prelude::*;

use super::*;
use record::MARK;

fn folder(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("journal")
}

/// The first segment.
fn file(dir: &tempfile::TempDir) -> PathBuf {
    folder(dir).join(file_name(1))
}

/// What opening finds.
struct Replay {
    records: Vec<(u64, Vec<u8>)>,
    damage: Vec<Damage>,
}

fn read(view: &View, from: From) -> Replay {
    let mut records = Vec::new();
    let damage = view.read(from, |entry| {
        records.push((entry.bound.sequence, entry.payload.to_vec()));
        Ok::<_, JournalError>(())
    });
    Replay { records, damage: damage.expect("reads") }
}

fn open(dir: &tempfile::TempDir) -> (Journal, Replay) {
    let (journal, tail) = Journal::open(&folder(dir)).expect("opens");
    let mut replay = read(journal.view(), From::After(0));
    replay.damage.extend(tail);
    (journal, replay)
}

fn append(journal: &mut Journal, payload: &[u8]) -> u64 {
    journal.append(payload).expect("small").sequence
}

fn filled(dir: &tempfile::TempDir, payloads: &[Vec<u8>]) {
    let (mut journal, _) = open(dir);
    for payload in payloads {
        journal.append(payload).expect("small");
        journal.commit().expect("commits");
    }
}

#[test]
fn what_was_committed_is_there_and_what_was_not_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut j, replay) = open(&dir);
    assert!(replay.records.is_empty() && replay.damage.is_empty());
    assert_eq!((append(&mut j, b"one"), append(&mut j, b"two")), (1, 2));
    j.commit().expect("commits");
    j.append(b"never committed").expect("small");
    drop(j);
    let (j, replay) = open(&dir);
    assert_eq!(replay.records, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    assert_eq!(j.latest(), 2);
}

#[test]
fn another_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder(&dir)).expect("a folder");
    std::fs::write(file(&dir), b"precious notes").expect("writes");
    let error = Journal::open(&folder(&dir)).expect_err("not a journal").to_string();
    assert!(error.contains("FLEETJ01") && error.contains("precious"), "{error}");
    assert_eq!(std::fs::read(file(&dir)).expect("reads"), b"precious notes");
}

#[test]
fn a_full_disk_refuses_the_commit_and_later_ones_go_on() {
    // /dev/full accepts opening and refuses writing, as a full disk does.
    let dir = tempfile::tempdir().expect("a folder");
    let (mut j, _) = open(&dir);
    j.append(b"kept").expect("small");
    j.commit().expect("commits");
    let real = std::mem::replace(&mut j.file, OpenOptions::new().write(true).open("/dev/full").expect("opens"));
    assert_eq!(append(&mut j, b"lost"), 2);
    assert!(j.commit().expect_err("no space").to_string().contains("No space left"));
    j.file = real;
    assert_eq!(append(&mut j, b"after"), 2, "the number is given out again");
    j.commit().expect("commits");
    let (_, replay) = open(&dir);
    assert_eq!(replay.records, [(1, b"kept".to_vec()), (2, b"after".to_vec())]);
    assert!(replay.damage.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Cut anywhere: a prefix of the records survives, the cut one is reported, and appending goes on.
    #[test]
    fn a_torn_tail_is_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
        cut in 0.0f64..1.0,
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        filled(&dir, &payloads);
        let whole = std::fs::read(file(&dir)).expect("reads");
        let keep = MAGIC.len() + ((whole.len() - MAGIC.len()) as f64 * cut) as usize;
        std::fs::write(file(&dir), &whole[..keep]).expect("writes");
        let (mut j, replay) = open(&dir);
        let n = replay.records.len();
        for (i, (sequence, payload)) in replay.records.iter().enumerate() {
            prop_assert_eq!((*sequence, payload), (i as u64 + 1, &payloads[i]));
        }
        let whole_records = MAGIC.len() + payloads[..n].iter().map(|p| record::HEADER + p.len()).sum::<usize>();
        prop_assert_eq!(replay.damage.is_empty(), whole_records == keep);
        j.append(b"next").expect("small");
        j.commit().expect("commits");
        let (_, again) = open(&dir);
        prop_assert_eq!(again.records.len(), n + 1);
        prop_assert!(again.damage.is_empty());
    }

    /// Flip a byte anywhere: every record that it does not touch is still read.
    #[test]
    fn damage_in_the_middle_costs_one_record(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 2..8),
        at in 0.0f64..1.0,
        flip in 1u8..255,
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        filled(&dir, &payloads);
        let mut bytes = std::fs::read(file(&dir)).expect("reads");
        let at = MAGIC.len() + ((bytes.len() - MAGIC.len()) as f64 * at) as usize;
        bytes[at] ^= flip;
        std::fs::write(file(&dir), &bytes).expect("writes");
        let (_, replay) = open(&dir);
        let mut start = MAGIC.len();
        let mut expected = Vec::new();
        for (i, payload) in payloads.iter().enumerate() {
            let end = start + record::HEADER + payload.len();
            if !(start..end).contains(&at) {
                expected.push((i as u64 + 1, payload.clone()));
            }
            start = end;
        }
        prop_assert_eq!(replay.records, expected);
        prop_assert_eq!(replay.damage.len(), 1);
    }
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut j, _) = open(&dir);
    j.append(b"kept").expect("small");
    j.commit().expect("commits");
    j.append(b"with it").expect("small");
    assert!(matches!(j.append(&vec![0; MAX_PAYLOAD + 1]), Err(JournalError::TooLarge { .. })));
    j.commit().expect("nothing to do");
    assert_eq!(append(&mut j, b"after"), 2);
    j.commit().expect("commits");
    drop(j);
    let (_, replay) = open(&dir);
    assert_eq!(replay.damage, []);
    assert_eq!(replay.records, [(1, b"kept".to_vec()), (2, b"after".to_vec())]);
}

#[test]
fn a_later_version_is_told_from_another_file() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder(&dir)).expect("a folder");
    std::fs::write(file(&dir), b"FLEETJ02 and whatever it means").expect("writes");
    let error = Journal::open(&folder(&dir)).expect_err("later").to_string();
    assert!(error.contains("later version") && error.contains("fleet store export"), "{error}");
}

/// Segments of a few records each.
fn segmented(dir: &tempfile::TempDir, records: u64) -> Journal {
    let (mut journal, _) = Journal::open_with(&folder(dir), 100).expect("opens");
    for n in 1..=records {
        append(&mut journal, format!("record {n}").as_bytes());
        journal.commit().expect("commits");
    }
    journal
}

#[test]
fn full_segments_are_closed_and_reading_begins_anywhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = segmented(&dir, 20);
    assert!(journal.view().segments.len() > 4);
    assert_eq!(View::of_folder(&folder(&dir)).expect("reads"), *journal.view());
    let mut bounds = Vec::new();
    let all = journal.view().read(From::After(0), |entry| {
        bounds.push(entry.bound);
        Ok::<_, JournalError>(())
    });
    assert_eq!((all.expect("reads"), bounds.len()), (vec![], 20));
    for bound in bounds {
        assert!(journal.view().has(&bound).expect("reads"));
        assert!(!journal.view().has(&Bound { crc: bound.crc ^ 1, ..bound }).expect("reads"));
        let numbers: Vec<u64> = (bound.sequence + 1..=20).collect();
        for from in [From::Behind(bound), From::After(bound.sequence)] {
            let rest = read(journal.view(), from);
            assert_eq!(rest.records.iter().map(|(n, _)| *n).collect::<Vec<_>>(), numbers);
            assert_eq!(rest.damage, []);
        }
    }
    drop(journal);
    assert_eq!(segmented(&dir, 1).latest(), 21);
}

#[test]
fn a_segment_that_is_not_there_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = segmented(&dir, 20);
    let lost = journal.view().segments[2].first;
    drop(journal);
    std::fs::remove_file(folder(&dir).join(file_name(lost))).expect("removes");
    let (journal, replay) = open(&dir);
    assert_eq!(journal.latest(), 20);
    assert_eq!(replay.damage.len(), 1);
    assert_eq!(replay.damage[0].consequence(), "what stands in front of this place is missing");
}

/// Only that which names it is gone: its records are there.
#[test]
fn a_closed_segment_whose_name_is_damaged_is_read_and_told_of() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = segmented(&dir, 20);
    let path = journal.view().path(journal.view().segments[1].first);
    drop(journal);
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[2] ^= 0x40;
    std::fs::write(&path, bytes).expect("writes");
    let (journal, replay) = open(&dir);
    assert_eq!((journal.latest(), replay.records.len()), (20, 20));
    assert_eq!(replay.damage, [Damage { file: path.clone(), offset: 0, bytes: 8, tail: false }]);
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[..8].copy_from_slice(b"FLEETJ02");
    std::fs::write(&path, bytes).expect("writes");
    let read = journal.view().read(From::After(0), |_| Ok::<_, JournalError>(()));
    assert!(matches!(read, Err(JournalError::Newer { .. })));
}

/// A crash or a full disk leaves a new segment in any state of being begun; the one before may have gone on since.
#[test]
fn a_segment_that_was_hardly_begun_disturbs_nobody() {
    for left in [&b""[..], &MAGIC[..3], &MAGIC[..]] {
        for went_on in [false, true] {
            let dir = tempfile::tempdir().expect("a folder");
            filled(&dir, &[b"one".to_vec(), b"two".to_vec()]);
            std::fs::write(folder(&dir).join(file_name(3)), left).expect("writes");
            if went_on {
                let mut bytes = std::fs::read(file(&dir)).expect("reads");
                record::encode(&mut bytes, 3, b"three");
                std::fs::write(file(&dir), bytes).expect("writes");
            }
            let (mut journal, replay) = open(&dir);
            assert_eq!((replay.records.len(), replay.damage.len()), (if went_on { 3 } else { 2 }, 0));
            let next = append(&mut journal, b"next");
            assert_eq!(next, if went_on { 4 } else { 3 });
            journal.commit().expect("commits");
            let (_, replay) = open(&dir);
            assert_eq!(replay.records.last(), Some(&(next, b"next".to_vec())));
            assert_eq!(replay.damage, []);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However a stream arrives, and whatever stands between the records: each whole one is found, at its place.
    #[test]
    fn records_are_found_between_anything(
        parts in prop::collection::vec(
            (prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&MARK[..])], 0..30), any::<bool>()),
            0..12,
        ),
        step in 1usize..40,
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (part, is_record) in parts {
            if is_record {
                expected.push((bytes.len() as u64, expected.len() as u64 + 1, part.clone()));
                record::encode(&mut bytes, expected.len() as u64, &part);
            } else {
                bytes.extend(part);
            }
        }
        let mut scanner = Scanner::new(Steps(&bytes, step), 0, 0);
        let (mut found, mut covered) = (Vec::new(), 0);
        while let Some(next) = scanner.advance().expect("reads") {
            let (offset, length) = match next {
                Found::Record { offset, sequence, payload, .. } => {
                    found.push((offset, sequence, payload.to_vec()));
                    (offset, (record::HEADER + payload.len()) as u64)
                }
                Found::Damage { offset, bytes, .. } => (offset, bytes),
            };
            prop_assert_eq!(offset, covered, "nothing is passed over");
            covered += length;
        }
        prop_assert_eq!(covered, bytes.len() as u64);
        prop_assert_eq!(found, expected);
    }
}

/// A stream that gives out a few bytes at a time.
struct Steps<'a>(&'a [u8], usize);

impl std::io::Read for Steps<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.1.min(to.len()).min(self.0.len());
        to[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}
