//! The journal as it can be read: segments up to the bytes that are durable. Reading needs no lock and no open journal,
//! so that snapshots, backups and checks read beside the writer.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::record::{self, HEADER};
use super::scan::{Found, Scanner};
use super::{JournalError, MAGIC};

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The segment, by the sequence number that it begins with.
    pub segment: u64,
    /// Bytes from the segment's start.
    pub offset: u64,
}

/// A record by which to know a journal again: no other record at this place has its number and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Where it is.
    pub at: Position,
    /// Its number.
    pub sequence: u64,
    /// Its checksum.
    pub crc: u32,
    /// Bytes of its payload.
    pub length: u64,
}

impl Bound {
    /// Where the next record begins, if it is in the same segment.
    fn end(&self) -> u64 {
        self.at.offset + HEADER as u64 + self.length
    }
}

/// A record as it is read.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where it is, with its number and checksum.
    pub bound: Bound,
    /// What it holds.
    pub payload: &'a [u8],
}

/// A stretch that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which file.
    pub file: PathBuf,
    /// Where it begins, bytes from the start of the file.
    pub offset: u64,
    /// How long it is; 0 for a segment that is not there.
    pub bytes: u64,
    /// It reaches to the end of the journal, and was cut off.
    pub tail: bool,
}

impl Damage {
    /// What became of it.
    pub fn consequence(&self) -> &'static str {
        match (self.tail, self.bytes) {
            (true, _) => "the rest was cut off",
            (false, 0) => "what stands in front of this place is missing",
            (false, _) => "this part was skipped",
        }
    }
}

/// A segment of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number that it begins with.
    pub first: u64,
    /// Bytes that hold whole, durable records, the magic included.
    pub bytes: u64,
}

/// What to read.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// Every record with a higher number than this.
    After(u64),
    /// Every record behind this one.
    Behind(Bound),
}

/// Segments in a folder, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The folder.
    pub dir: PathBuf,
    /// The segments, the one at work last.
    pub segments: Vec<Segment>,
    /// The only segment's file, where a journal is one file.
    pub one: Option<PathBuf>,
}

/// The name of a segment's file.
pub fn file_name(first: u64) -> String {
    format!("{first:020}.log")
}

impl View {
    /// The segments that lie in `dir`, as long as their files are.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of_folder(dir: &Path) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: dir.to_owned(), doing: "read", source };
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let first = name.to_str().and_then(|n| n.strip_suffix(".log")).filter(|n| n.len() == 20);
            if let Some(first) = first.and_then(|n| n.parse().ok()) {
                segments.push(Segment { first, bytes: entry.metadata().map_err(io)?.len() });
            }
        }
        segments.sort_by_key(|s| s.first);
        Ok(Self { dir: dir.to_owned(), segments, one: None })
    }

    /// A journal of one file, as earlier versions wrote it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self, JournalError> {
        let file = std::fs::metadata(path);
        let bytes = file.map_err(|source| JournalError::Io { path: path.to_owned(), doing: "read", source })?.len();
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { dir, segments: vec![Segment { first: 1, bytes }], one: Some(path.to_owned()) })
    }

    /// A segment's file.
    pub fn path(&self, first: u64) -> PathBuf {
        self.one.clone().unwrap_or_else(|| self.dir.join(file_name(first)))
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Reads records in order, one at a time; returns what could not be read.
    ///
    /// # Errors
    /// A file cannot be read or is no segment, or `each` failed.
    pub fn read<E: std::convert::From<JournalError>>(
        &self,
        from: From,
        mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<Vec<Damage>, E> {
        let (after, begin) = match from {
            From::After(after) => (after, None),
            From::Behind(bound) => (bound.sequence, Some(bound)),
        };
        let start = self.segments.partition_point(|s| s.first <= after.saturating_add(1)).saturating_sub(1);
        let start = begin.map_or(Some(start), |b| self.segments.iter().position(|s| s.first == b.at.segment));
        let mut damage = Vec::new();
        let mut latest = None;
        for segment in &self.segments[start.unwrap_or(self.segments.len())..] {
            let path = self.path(segment.first);
            let missing = match latest {
                // What the first segment of a whole journal lacks in front is seen, too.
                None => begin.is_none() && segment.first > after.saturating_add(1),
                Some(latest) => segment.first > latest + 1,
            };
            if missing {
                damage.push(Damage { file: path.clone(), offset: 0, bytes: 0, tail: false });
            }
            let begins = begin.filter(|b| b.at.segment == segment.first);
            let offset = begins.map_or(MAGIC.len() as u64, |b| b.end());
            let below = begins.map_or(segment.first.saturating_sub(1), |b| b.sequence);
            let (mut scanner, is_named) = self.scanner(segment, offset, below.max(latest.unwrap_or(0)))?;
            if !is_named {
                damage.push(Damage { file: path.clone(), offset: 0, bytes: MAGIC.len() as u64, tail: false });
            }
            latest = Some(below.max(latest.unwrap_or(0)));
            let io = |source| JournalError::Io { path: path.clone(), doing: "read", source };
            while let Some(found) = scanner.advance().map_err(io)? {
                match found {
                    Found::Record { offset, sequence, crc, payload } => {
                        latest = Some(sequence);
                        let at = Position { segment: segment.first, offset };
                        if sequence > after {
                            let bound = Bound { at, sequence, crc, length: payload.len() as u64 };
                            each(Entry { bound, payload })?;
                        }
                    }
                    Found::Damage { offset, bytes, tail } => {
                        let tail = tail && self.segments.last() == Some(segment);
                        damage.push(Damage { file: path.clone(), offset, bytes, tail });
                    }
                }
            }
        }
        Ok(damage)
    }

    /// The records of a segment, and whether it begins as segments do. One among others that does not is damaged there,
    /// as it may be anywhere; the one at work, or a journal of one file, is something else.
    fn scanner(
        &self,
        segment: &Segment,
        offset: u64,
        after: u64,
    ) -> Result<(Scanner<std::io::Take<File>>, bool), JournalError> {
        let path = self.path(segment.first);
        let io = |source| JournalError::Io { path: path.clone(), doing: "read", source };
        let mut file = File::open(&path).map_err(io)?;
        let mut magic = Vec::new();
        file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
        // Cut short while it was being begun: there is nothing in it.
        let mut is_named = true;
        if magic.len() == MAGIC.len() || !MAGIC.starts_with(&magic) {
            match super::check_magic(&path, &magic) {
                Err(JournalError::Format { .. }) if self.one.is_none() && self.segments.last() != Some(segment) => {
                    is_named = false;
                }
                checked => checked?,
            }
        }
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        Ok((Scanner::new(file.take(segment.bytes.saturating_sub(offset)), offset, after), is_named))
    }

    /// The payload of the record at `at`; `None` where there is no whole one of this number.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn payload(file: &File, offset: u64, sequence: u64) -> std::io::Result<Option<Vec<u8>>> {
        let mut head = [0; HEADER];
        match file.read_exact_at(&mut head, offset) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let Some(header) = record::header(&head).filter(|h| h.sequence == sequence) else { return Ok(None) };
        let mut payload = vec![0; header.length];
        match file.read_exact_at(&mut payload, offset + HEADER as u64) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        Ok(header.fits(&payload).then_some(payload))
    }

    /// Whether this journal has that record in that place.
    ///
    /// # Errors
    /// The file cannot be read; one that is not there is no error.
    pub fn has(&self, bound: &Bound) -> Result<bool, JournalError> {
        let Some(segment) = self.segments.iter().find(|s| s.first == bound.at.segment) else { return Ok(false) };
        let path = self.path(segment.first);
        let found = File::open(&path).and_then(|file| Self::payload(&file, bound.at.offset, bound.sequence));
        let found = found.map_err(|source| JournalError::Io { path, doing: "read", source })?;
        let mut again = Vec::new();
        let same = found.is_some_and(|payload| record::encode(&mut again, bound.sequence, &payload) == bound.crc);
        Ok(same && bound.end() <= segment.bytes)
    }
}
