//! Snapshots: the state as the journal has it up to one of its records, so that a start need not read all of it.
//!
//! ```text
//! STATE/snapshots/SEQUENCE.snapshot := "FLEETS01" record*      records as in the journal, numbered from 1
//! payload                           := zstd(SnapshotPart)      head, parts of the state, end
//! ```
//!
//! A snapshot saves time and holds nothing that the journal does not. It is written beside, read back, synced and
//! renamed; the one before is kept. It names the journal's record that it ends with, by place and checksum: beside
//! another journal, or one whose end was cut, it is not used.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fleet_common::lease::Millis;
use fleet_common::wire::v1;
use fleet_common::wire::v1::snapshot_part::Part;
use prost::Message;

use super::journal::{Bound, Found, Position, Scanner, Segment, View, record};
use crate::core::{Restored, State};

/// Name and version of the file's form.
const MAGIC: &[u8; 8] = b"FLEETS01";
/// Version of what the parts mean: raised with every field that is added, because whoever does not know a field must
/// fold the journal instead of leaving it out.
pub const SNAPSHOT_VERSION: u32 = 2;
/// Snapshots that are kept.
const KEPT: usize = 2;
/// Higher levels take more time than they save space.
const LEVEL: i32 = 1;
/// No part is larger, unpacked: what says so is damage, not a reason to allocate.
const MOST: u64 = 256 << 20;
/// What a file is called until it is whole.
const UNFINISHED: &str = "new";

/// Why a snapshot was not written or is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused.
    #[error("the snapshot {path} cannot be {doing}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is damaged, of another version, or of another journal.
    #[error("the snapshot {path} is not used: {why}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The journal's record that it ends with.
    pub bound: Bound,
    /// The journal's segments then.
    pub segments: Vec<Segment>,
    /// When it was made, milliseconds since 1970.
    pub at_unix_ms: u64,
}

impl Head {
    fn to_wire(&self) -> v1::SnapshotHead {
        let Self { bound: Bound { at: Position { segment, offset }, sequence, crc, length }, segments, at_unix_ms } =
            self;
        v1::SnapshotHead {
            version: SNAPSHOT_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            at_unix_ms: *at_unix_ms,
            sequence: *sequence,
            segment: *segment,
            offset: *offset,
            crc32: *crc,
            length: *length,
            segments: segments.iter().map(|s| v1::SnapshotSegment { first: s.first, bytes: s.bytes }).collect(),
        }
    }

    fn from_wire(head: v1::SnapshotHead) -> Result<Self, String> {
        if head.version > SNAPSHOT_VERSION {
            return Err(format!(
                "version {} of fleet wrote it in form {}, and this one knows forms up to {SNAPSHOT_VERSION}",
                head.program, head.version
            ));
        }
        let at = Position { segment: head.segment, offset: head.offset };
        let bound = Bound { at, sequence: head.sequence, crc: head.crc32, length: head.length };
        let segments = head.segments.into_iter().map(|s| Segment { first: s.first, bytes: s.bytes }).collect();
        Ok(Self { bound, segments, at_unix_ms: head.at_unix_ms })
    }

    /// Why the snapshot is not one of this journal.
    pub fn mismatch(&self, journal: &View) -> Option<String> {
        match journal.has(&self.bound) {
            Ok(true) => None,
            Ok(false) => Some(format!("the journal has not the event {} that it ends with", self.bound.sequence)),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// The snapshots in the folder `dir`, the latest first.
///
/// # Errors
/// The folder cannot be read; one that is not there is empty.
pub fn list(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "snapshot") {
                    found.push(path);
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // The names are numbers of one length.
    found.sort();
    found.reverse();
    Ok(found)
}

/// Writes a snapshot into the folder `dir` and removes those that it makes superfluous; returns its size.
///
/// # Errors
/// The disk refused; what was there is as before.
pub fn write(dir: &Path, head: &Head, state: &State) -> Result<u64, SnapshotError> {
    let path = dir.join(format!("{:020}.snapshot", head.bound.sequence));
    let beside = path.with_extension(UNFINISHED);
    let io = |doing| {
        let path = path.clone();
        move |source| SnapshotError::Io { path, doing, source }
    };
    if !dir.is_dir() {
        std::fs::create_dir_all(dir).and_then(|()| super::journal::sync_folder(dir)).map_err(io("written"))?;
    }
    let written = write_file(&beside, head, state).and_then(|()| {
        // Read back before anything depends on it.
        let parts = parts(&beside, |_| Ok(())).map_err(std::io::Error::other)?;
        if parts == 0 { Err(std::io::Error::other("it cannot be read back")) } else { Ok(()) }
    });
    if let Err(source) = written {
        // It takes space that something else may need.
        let _ = std::fs::remove_file(&beside);
        return Err(io("written")(source));
    }
    std::fs::rename(&beside, &path).and_then(|()| super::journal::sync_folder(&path)).map_err(io("given its name"))?;
    let bytes = std::fs::metadata(&path).map_err(io("read"))?.len();
    for old in list(dir).map_err(io("listed"))?.into_iter().skip(KEPT) {
        let _ = std::fs::remove_file(old);
    }
    Ok(bytes)
}

fn write_file(path: &Path, head: &Head, state: &State) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(MAGIC)?;
    let mut number = 0;
    let mut buffer = Vec::new();
    let mut put = |part| -> std::io::Result<()> {
        number += 1;
        let payload = zstd::bulk::compress(&v1::SnapshotPart { part: Some(part) }.encode_to_vec(), LEVEL)?;
        if payload.len() > record::MAX_PAYLOAD {
            return Err(std::io::Error::other("a part of the state is too large for a snapshot"));
        }
        buffer.clear();
        record::encode(&mut buffer, number, &payload);
        out.write_all(&buffer)
    };
    put(Part::Head(head.to_wire()))?;
    let mut parts = 1;
    state.parts(|part| {
        parts += 1;
        put(part)
    })?;
    put(Part::End(v1::SnapshotEnd { parts }))?;
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

/// What a snapshot says of itself, without reading the rest.
///
/// # Errors
/// It cannot be read, or not by this version.
pub fn head(path: &Path) -> Result<Head, SnapshotError> {
    let unusable = |why| SnapshotError::Unusable { path: path.to_owned(), why };
    let mut found = None;
    parts(path, |part| {
        found = Some(part);
        // The first is enough.
        Err(String::new())
    })
    .or_else(|e| if e.is_empty() { Ok(0) } else { Err(unusable(e)) })?;
    match found {
        Some(Part::Head(head)) => Head::from_wire(head).map_err(unusable),
        _ => Err(unusable("it does not begin with a head".to_owned())),
    }
}

/// The state of a snapshot, leases renewed at `now`.
///
/// # Errors
/// It cannot be read, or not by this version.
pub fn read(path: &Path, now: Millis) -> Result<(Head, State), SnapshotError> {
    let mut head = None;
    let mut restored = Restored::default();
    let read = parts(path, |part| {
        match part {
            Part::Head(wire) => head = Some(Head::from_wire(wire)?),
            Part::End(_) => {}
            part => restored.add(part, now).map_err(|e| e.to_string())?,
        }
        Ok(())
    });
    let head = read.and_then(|_| head.ok_or_else(|| "it has no head".to_owned()));
    let head = head.map_err(|why| SnapshotError::Unusable { path: path.to_owned(), why })?;
    Ok((head, restored.finish()))
}

/// Reads all parts in order, the end included; returns how many there are. All of them are there if it succeeds.
fn parts(path: &Path, mut each: impl FnMut(Part) -> Result<(), String>) -> Result<u64, String> {
    let words = |e: std::io::Error| e.to_string();
    let mut file = BufReader::new(File::open(path).map_err(words)?);
    let mut magic = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(words)?;
    if magic != MAGIC {
        return Err(format!("expected it to begin with \"FLEETS01\", found {:?}", String::from_utf8_lossy(&magic)));
    }
    let mut scanner = Scanner::new(file, MAGIC.len() as u64, 0);
    let mut number = 0;
    let mut end = None;
    while let Some(found) = scanner.advance().map_err(words)? {
        let (sequence, payload) = match found {
            Found::Record { sequence, payload, .. } => (sequence, payload),
            Found::Damage { offset, .. } => return Err(format!("it is damaged at byte {offset}")),
        };
        if sequence != number + 1 || end.is_some() {
            return Err(format!("a part is missing behind the {number} that were read"));
        }
        let part = unpacked(payload).ok_or_else(|| format!("its part {sequence} cannot be read"))?;
        if let Part::End(wire) = &part {
            end = Some(wire.parts);
        }
        number = sequence;
        each(part)?;
    }
    match end {
        Some(parts) if parts + 1 == number => Ok(number),
        _ => Err("its end is missing".to_owned()),
    }
}

fn unpacked(payload: &[u8]) -> Option<Part> {
    let mut raw = Vec::new();
    zstd::stream::Decoder::new(payload).ok()?.take(MOST).read_to_end(&mut raw).ok()?;
    v1::SnapshotPart::decode(raw.as_slice()).ok()?.part
}
