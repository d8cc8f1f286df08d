//! The state folder, with damage, and what a whole state is moved in.

use std::path::Path;

use fleet_coordinator::core::State;
use fleet_coordinator::store::journal::{MAGIC, file_name, record};
use fleet_coordinator::store::{Store, StoreError, export, import, verify};
use prost::Message;

use crate::archives::tar;
use crate::bytes::Choices;
use crate::events::event;
use crate::folder::Folder;

/// A folder with a journal of events and of anything, in segments, some of it damaged before and after a first start;
/// with samples of anything. A start, a check and a second start make no noise, and the second finds what the first
/// had.
pub fn store(bytes: &[u8]) {
    let mut c = Choices(bytes);
    let folder = Folder::new();
    let samples = c.some(256);
    if !samples.is_empty() {
        folder.write("samples/00/00000000000000000000000000000000-0-1.chunks", samples);
    }
    for (first, segment) in segments(&mut c) {
        folder.write(&format!("journal/{}", file_name(first)), &segment);
    }
    let Ok(_) = open(folder.path()) else { return };
    damage(&mut c, folder.path());
    let Ok(state) = open(folder.path()) else { return };
    let _ = verify(folder.path(), &mut |_, _, _| ()).expect("it can be read");
    let again = open(folder.path()).expect("it has just been opened");
    assert_eq!(state, again);
}

/// Opens the folder and leaves it in good order, with a snapshot.
fn open(dir: &Path) -> Result<State, StoreError> {
    let (mut store, state, _) = Store::open(dir)?;
    store.close(&state);
    Ok(state)
}

/// Segments of a few records.
fn segments(c: &mut Choices<'_>) -> Vec<(u64, Vec<u8>)> {
    let (mut segments, mut sequence) = (Vec::new(), 0);
    for _ in 0..=c.u8() % 3 {
        let mut segment = MAGIC.to_vec();
        let first = sequence + 1;
        for _ in 0..c.u8() % 16 {
            sequence += if c.u8() == 255 { c.number() % 4 } else { 1 };
            let payload = match c.u8() {
                254 => c.some(64).to_vec(),
                _ => event(c, sequence).encode_to_vec(),
            };
            record::encode(&mut segment, sequence, &payload);
        }
        alter(c, &mut segment);
        segments.push((first, segment));
    }
    segments
}

/// Mostly nothing; a few bytes changed, or the end gone.
fn alter(c: &mut Choices<'_>, bytes: &mut Vec<u8>) {
    let place = |n: u16| usize::from(n) % bytes.len().max(1);
    match c.u8() {
        1 => {
            let (at, with) = (place(c.u16()), c.u8());
            bytes.iter_mut().skip(at).take(3).for_each(|b| *b ^= with);
        }
        2 => {
            let end = place(c.u16());
            bytes.truncate(end);
        }
        3 => bytes.extend(c.some(32)),
        _ => {}
    }
}

/// Alters journal and snapshots.
fn damage(c: &mut Choices<'_>, dir: &Path) {
    for folder in ["journal", "snapshots"] {
        let files = std::fs::read_dir(dir.join(folder)).into_iter().flatten().filter_map(Result::ok);
        let mut files: Vec<_> = files.map(|f| f.path()).collect();
        files.sort();
        for path in files {
            let mut bytes = std::fs::read(&path).expect("it is there");
            let before = bytes.clone();
            alter(c, &mut bytes);
            if bytes != before {
                std::fs::write(&path, bytes).expect("there is room");
            }
        }
    }
}

const NAMES: [&str; 9] = [
    "fleet-state/export.json",
    "fleet-state/journal",
    "fleet-state/complete.json",
    "fleet-state/samples/intake",
    "fleet-state/samples/00/00000000000000000000000000000000-0-1.chunks",
    "fleet-state/samples/../../../x",
    "fleet-state/version",
    "/fleet-state/journal",
    "elsewhere",
];

/// An exported state. What is taken in can be exported, and taken in again.
pub fn archive(bytes: &[u8]) {
    let mut c = Choices(bytes);
    let file = match c.u8() % 4 {
        0 => c.take(usize::MAX).to_vec(),
        1 => zstd::bulk::compress(&built(&mut c), 1).expect("into memory"),
        _ => built(&mut c),
    };
    let folder = Folder::new();
    folder.write("in", &file);
    let state = |n: &str| folder.path().join(n);
    if import(&state("in"), &state("one"), &mut |_| ()).is_err() {
        assert!(!state("one").exists(), "all of it or nothing");
        return;
    }
    let mut out = Vec::new();
    let moved = export(&state("one"), &mut out, &mut |_| ()).expect("it was taken in");
    folder.write("out", &out);
    assert_eq!(import(&state("out"), &state("two"), &mut |_| ()).expect("our own export"), moved);
    assert_eq!(open(&state("two")).expect("opens"), open(&state("one")).expect("opens"));
}

fn built(c: &mut Choices<'_>) -> Vec<u8> {
    let (files, size) = (c.u8() % 4, c.u16());
    tar(c, &NAMES, |c| match c.u8() % 5 {
        0 => br#"{"schema":"fleet.state-export/1"}"#.to_vec(),
        1 => format!(r#"{{"files":{files},"bytes":{size}}}"#).into_bytes(),
        2 => c.some(64).to_vec(),
        3 => MAGIC.to_vec(),
        _ => {
            let mut journal = MAGIC.to_vec();
            for n in 1..=u64::from(c.u8() % 4) {
                record::encode(&mut journal, n, &event(c, n).encode_to_vec());
            }
            alter(c, &mut journal);
            journal
        }
    })
}
