//! The journal: append-only segments of checksummed records, the only truth.
//!
//! ```text
//! folder  := segment*            named by the sequence number that they begin with
//! segment := "FLEETJ01" record*
//! ```
//!
//! [`record`] has the form of records. A damaged tail of the last segment (a crash in the middle of a write) is cut, a
//! damaged middle is skipped record by record, and both are reported, never passed over in silence. A segment that is
//! full is closed and never written again; none is ever removed, because the records of trials are read from them.

pub mod record;
mod scan;
#[cfg(test)]
mod tests;
mod view;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub use scan::{Found, Scanner};
pub use view::{Bound, Damage, Entry, From, Position, Segment, View, file_name};

use record::MAX_PAYLOAD;

/// Name and version of the format.
pub const MAGIC: &[u8; 8] = b"FLEETJ01";
/// Name of the format, without its version.
const NAME: &[u8; 6] = b"FLEETJ";
/// Bytes after which a segment is closed: a start reads the last one whole, which takes a tenth of a second.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("the journal {path} cannot be {doing}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{path} is not a journal: expected it to begin with \"FLEETJ01\", found {found:?}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// A later version wrote it.
    #[error(
        "{path} was written by a later version of fleet (its format is {found:?}, this version knows \"FLEETJ01\"); \
         use that version, or let it write a file for this one with `fleet store export`"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// A record is larger than a reader accepts.
    #[error("an event of {bytes} bytes is too large for the journal, which takes up to {MAX_PAYLOAD}")]
    TooLarge {
        /// How large.
        bytes: usize,
    },
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    view: View,
    /// The last segment.
    file: File,
    next: u64,
    buffer: Vec<u8>,
    /// Records in the buffer.
    waiting: u64,
    /// A failed write may have left anything behind what is durable.
    dirty: bool,
    /// Bytes after which a segment is closed.
    full: u64,
}

impl Journal {
    /// Opens or creates the journal in the folder `dir`. A damaged tail is cut off, and returned.
    ///
    /// # Errors
    /// A file cannot be read or written, or is no segment of this version.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Damage>), JournalError> {
        Self::open_with(dir, SEGMENT_BYTES)
    }

    /// The same with other segments.
    ///
    /// # Errors
    /// As above.
    pub fn open_with(dir: &Path, full: u64) -> Result<(Self, Vec<Damage>), JournalError> {
        let io = |source| JournalError::Io { path: dir.to_owned(), doing: "created", source };
        if !dir.is_dir() {
            std::fs::create_dir_all(dir).and_then(|()| sync_folder(dir)).map_err(io)?;
        }
        let mut view = View::of_folder(dir)?;
        let (file, next, damage) = loop {
            let Some(last) = view.segments.last().copied() else {
                break (create(&mut view, 1)?, 1, Vec::new());
            };
            let (file, latest, damage) = reopen(&mut view, last)?;
            // The end of the segment before, if this one has no record yet.
            if latest.is_none() && view.segments.len() > 1 {
                let mut before = view.clone();
                before.segments.pop();
                let mut end = 0;
                before.read(From::After(before.segments.last().map_or(0, |s| s.first.saturating_sub(1))), |entry| {
                    end = entry.bound.sequence;
                    Ok::<_, JournalError>(())
                })?;
                if end >= last.first {
                    // It could not be begun when its time came, and the one before went on.
                    let path = view.path(last.first);
                    let removed = std::fs::remove_file(&path).and_then(|()| sync_folder(&path));
                    removed.map_err(|source| JournalError::Io { path, doing: "removed", source })?;
                    view.segments.pop();
                    continue;
                }
            }
            break (file, latest.unwrap_or(last.first.saturating_sub(1)) + 1, damage);
        };
        let mut journal = Self { view, file, next, buffer: Vec::new(), waiting: 0, dirty: false, full };
        journal.rotate_if_full();
        Ok((journal, damage))
    }

    /// Puts a payload behind those that wait for the next [`Journal::commit`]; returns where it will be.
    ///
    /// # Errors
    /// It is larger than a reader accepts. Then nothing that waits counts.
    pub fn append(&mut self, payload: &[u8]) -> Result<Bound, JournalError> {
        if payload.len() > MAX_PAYLOAD {
            self.forget();
            return Err(JournalError::TooLarge { bytes: payload.len() });
        }
        let last = self.last();
        let at = Position { segment: last.first, offset: last.bytes + self.buffer.len() as u64 };
        let sequence = self.next;
        let crc = record::encode(&mut self.buffer, sequence, payload);
        self.next += 1;
        self.waiting += 1;
        Ok(Bound { at, sequence, crc, length: payload.len() as u64 })
    }

    /// Makes what waits durable, with one write and one sync.
    ///
    /// # Errors
    /// The disk refused: nothing of it counts, and its numbers are given out again.
    pub fn commit(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(source) = self.write() {
            self.dirty = true;
            self.forget();
            return Err(JournalError::Io { path: self.path(), doing: "written", source });
        }
        let written = self.buffer.len() as u64;
        if let Some(last) = self.view.segments.last_mut() {
            last.bytes += written;
        }
        self.waiting = 0;
        self.buffer.clear();
        self.rotate_if_full();
        Ok(())
    }

    fn write(&mut self) -> std::io::Result<()> {
        let durable = self.last().bytes;
        if self.dirty {
            self.file.set_len(durable)?;
            self.dirty = false;
        }
        self.file.seek(SeekFrom::Start(durable))?;
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()
    }

    /// Nothing that waits counts.
    fn forget(&mut self) {
        self.next -= self.waiting;
        self.waiting = 0;
        self.buffer.clear();
    }

    /// Begins another segment. Where that is refused, the one at work goes on, and it is tried again later.
    fn rotate_if_full(&mut self) {
        if self.last().bytes < self.full || self.dirty {
            return;
        }
        match create(&mut self.view, self.next) {
            Ok(file) => self.file = file,
            Err(error) => tracing::warn!(%error, "the journal goes on in the segment that it has"),
        }
    }

    fn last(&self) -> Segment {
        self.view.segments.last().copied().unwrap_or(Segment { first: 1, bytes: MAGIC.len() as u64 })
    }

    fn path(&self) -> PathBuf {
        self.view.path(self.last().first)
    }

    /// What is durable, for readers.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Bytes of all segments that are durable.
    pub fn bytes(&self) -> u64 {
        self.view.bytes()
    }

    /// The sequence number of the latest record, durable or waiting; 0 if there is none.
    pub fn latest(&self) -> u64 {
        self.next - 1
    }
}

/// Begins a segment. A file of that name can only be what an earlier try left.
fn create(view: &mut View, first: u64) -> Result<File, JournalError> {
    let path = view.path(first);
    let make = || {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.write_all(MAGIC)?;
        file.sync_all()?;
        sync_folder(&path)?;
        Ok(file)
    };
    let file = make().map_err(|source| {
        // Best effort: what stays behind is recognised at the next start.
        let _ = std::fs::remove_file(&path);
        JournalError::Io { path: path.clone(), doing: "begun", source }
    })?;
    view.segments.push(Segment { first, bytes: MAGIC.len() as u64 });
    Ok(file)
}

/// Opens the last segment, cuts what is damaged at its end, and says what its latest record's number is.
fn reopen(view: &mut View, last: Segment) -> Result<(File, Option<u64>, Vec<Damage>), JournalError> {
    let path = view.path(last.first);
    let io = |doing| {
        let path = path.clone();
        move |source| JournalError::Io { path, doing, source }
    };
    let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io("opened"))?;
    if last.bytes < MAGIC.len() as u64 {
        let found = std::fs::read(&path).map_err(io("read"))?;
        if !MAGIC.starts_with(&found) {
            return Err(format_error(&path, &found));
        }
        // Cut short while it was being created.
        file.seek(SeekFrom::Start(0)).map_err(io("written"))?;
        file.write_all(MAGIC).and_then(|()| file.sync_all()).map_err(io("written"))?;
    }
    let bytes = last.bytes.max(MAGIC.len() as u64);
    if let Some(last) = view.segments.last_mut() {
        last.bytes = bytes;
    }
    let only = View { segments: vec![Segment { first: last.first, bytes }], ..view.clone() };
    let mut latest = None;
    let mut damage = only.read(From::After(last.first.saturating_sub(1)), |entry| {
        latest = Some(entry.bound.sequence);
        Ok::<_, JournalError>(())
    })?;
    damage.retain(|d| d.tail);
    if let Some(tail) = damage.last() {
        file.set_len(tail.offset).and_then(|()| file.sync_all()).map_err(io("cut"))?;
        if let Some(last) = view.segments.last_mut() {
            last.bytes = tail.offset;
        }
    }
    Ok((file, latest, damage))
}

fn check_magic(path: &Path, found: &[u8]) -> Result<(), JournalError> {
    if found == MAGIC { Ok(()) } else { Err(format_error(path, found)) }
}

fn format_error(path: &Path, found: &[u8]) -> JournalError {
    let (path, text) = (path.to_owned(), String::from_utf8_lossy(&found[..found.len().min(8)]).into_owned());
    let version = found.strip_prefix(NAME).filter(|v| v.len() >= 2 && v[..2].iter().all(u8::is_ascii_digit));
    match version {
        Some(version) if version[..2] > MAGIC[NAME.len()..] => JournalError::Newer { path, found: text },
        _ => JournalError::Format { path, found: text },
    }
}

/// A new file's name is durable only once its folder is.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
