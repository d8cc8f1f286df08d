//! The journal: an append-only file of checksummed records, the only truth.
//!
//! ```text
//! file   := "FLEETJ01" record*
//! record := 0xF1 0xEE 0x7A 0x01 | length u32 | sequence u64 | crc u32 | payload
//! ```
//!
//! Numbers are little-endian; the CRC-32 covers length, sequence and payload. The mark at the front of each record lets
//! a reader find the next one behind damage: a damaged tail (a crash in the middle of a write) is cut, a damaged middle
//! is skipped record by record, and both are reported, never passed over in silence.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Name and version of the format.
pub const MAGIC: &[u8; 8] = b"FLEETJ01";
/// In front of every record.
const MARK: [u8; 4] = [0xF1, 0xEE, 0x7A, 0x01];
/// Mark, length, sequence, checksum.
const HEADER: usize = 4 + 4 + 8 + 4;
/// No record is larger: a length beyond it is damage, not a reason to allocate. A submitted campaign is the largest.
const MAX_PAYLOAD: usize = 64 << 20;

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
    #[error("{path} is not a journal of this version: expected it to begin with \"FLEETJ01\", found {found:?}")]
    Format {
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

/// A stretch of the file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins, bytes from the start of the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// It reaches to the end of the file, and was cut off.
    pub tail: bool,
}

/// What opening a journal found.
#[derive(Debug, Default)]
pub struct Replay {
    /// Payloads with their sequence numbers, in order.
    pub records: Vec<(u64, Vec<u8>)>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of the file that hold whole, durable records.
    durable: u64,
    next: u64,
    buffer: Vec<u8>,
    /// A failed write may have left anything behind `durable`.
    dirty: bool,
}

impl Journal {
    /// Opens or creates the journal at `path` and reads it. A damaged tail is cut off.
    ///
    /// # Errors
    /// The file cannot be read or written, or is not a journal.
    pub fn open(path: &Path) -> Result<(Self, Replay), JournalError> {
        let io = |doing| move |source| JournalError::Io { path: path.to_owned(), doing, source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io("opened"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // New, or cut short while it was being created.
            file.set_len(0).map_err(io("written"))?;
            file.seek(SeekFrom::Start(0)).map_err(io("written"))?;
            file.write_all(MAGIC).map_err(io("written"))?;
            file.sync_all().map_err(io("written"))?;
            sync_folder(path).map_err(io("written"))?;
            bytes = MAGIC.to_vec();
        }
        if !bytes.starts_with(MAGIC) {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
            return Err(JournalError::Format { path: path.to_owned(), found });
        }
        let replay = scan(&bytes);
        let durable = match replay.damage.last() {
            Some(damage) if damage.tail => damage.offset,
            _ => bytes.len() as u64,
        };
        if durable < bytes.len() as u64 {
            file.set_len(durable).map_err(io("cut"))?;
            file.sync_all().map_err(io("cut"))?;
        }
        let next = replay.records.last().map_or(1, |(sequence, _)| sequence + 1);
        Ok((Self { file, path: path.to_owned(), durable, next, buffer: Vec::new(), dirty: false }, replay))
    }

    /// Puts a payload behind those that wait for the next [`Journal::commit`]; returns its sequence number.
    ///
    /// # Errors
    /// It is larger than a reader accepts. Then nothing that waits counts.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        if payload.len() > MAX_PAYLOAD {
            self.next -= scan_count(&std::mem::take(&mut self.buffer));
            return Err(JournalError::TooLarge { bytes: payload.len() });
        }
        let sequence = self.next;
        self.next += 1;
        encode(&mut self.buffer, sequence, payload);
        Ok(sequence)
    }

    /// Makes everything appended so far durable with one write and one sync.
    ///
    /// # Errors
    /// The disk refused; then nothing of this commit counts, and the numbers are given out again.
    pub fn commit(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let outcome = self.write(&buffer);
        match outcome {
            Ok(()) => {
                self.durable += buffer.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.dirty = true;
                self.next -= scan_count(&buffer);
                Err(JournalError::Io { path: self.path.clone(), doing: "written", source })
            }
        }
    }

    fn write(&mut self, buffer: &[u8]) -> std::io::Result<()> {
        if self.dirty {
            self.file.set_len(self.durable)?;
            self.dirty = false;
        }
        self.file.seek(SeekFrom::Start(self.durable))?;
        self.file.write_all(buffer)?;
        self.file.sync_data()
    }

    /// Reads the durable records again.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Vec<(u64, Vec<u8>)>, JournalError> {
        let bytes = std::fs::read(&self.path).map_err(|source| JournalError::Io {
            path: self.path.clone(),
            doing: "read",
            source,
        })?;
        Ok(scan(&bytes[..bytes.len().min(self.durable as usize)]).records)
    }

    /// Bytes of the file that hold whole, durable records.
    pub fn bytes(&self) -> u64 {
        self.durable
    }

    /// The sequence number of the latest record; 0 if there is none.
    pub fn latest(&self) -> u64 {
        self.next - 1
    }
}

/// Puts a record behind `to`.
pub fn encode(to: &mut Vec<u8>, sequence: u64, payload: &[u8]) {
    let length = (payload.len() as u32).to_le_bytes();
    let number = sequence.to_le_bytes();
    to.extend_from_slice(&MARK);
    to.extend_from_slice(&length);
    to.extend_from_slice(&number);
    to.extend_from_slice(&checksum(&length, &number, payload).to_le_bytes());
    to.extend_from_slice(payload);
}

fn checksum(length: &[u8; 4], sequence: &[u8; 8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(sequence);
    hasher.update(payload);
    hasher.finalize()
}

/// A whole record at the start of `bytes`: its sequence number, payload and length in the file.
fn record(bytes: &[u8]) -> Option<(u64, &[u8], usize)> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let n = u32::from_le_bytes(*length) as usize;
    if n > MAX_PAYLOAD || rest.len() < n {
        return None;
    }
    let payload = &rest[..n];
    (checksum(length, sequence, payload) == u32::from_le_bytes(*crc))
        .then(|| (u64::from_le_bytes(*sequence), payload, HEADER + n))
}

/// Reads all records behind the magic, finding the way across damage by the marks.
pub fn scan(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let mut at = MAGIC.len();
    let mut latest = 0;
    while at < bytes.len() {
        match record(&bytes[at..]) {
            // A record whose number does not rise is an old one that damage brought back to light.
            Some((sequence, payload, length)) if sequence > latest => {
                replay.records.push((sequence, payload.to_vec()));
                latest = sequence;
                at += length;
            }
            _ => {
                let good = (at + 1..bytes.len())
                    .find(|&i| record(&bytes[i..]).is_some_and(|(sequence, _, _)| sequence > latest));
                let end = good.unwrap_or(bytes.len());
                replay.damage.push(Damage { offset: at as u64, bytes: (end - at) as u64, tail: good.is_none() });
                at = end;
            }
        }
    }
    replay
}

/// How many records a buffer of our own making holds.
fn scan_count(mut buffer: &[u8]) -> u64 {
    let mut n = 0;
    while let Some((_, _, length)) = record(buffer) {
        buffer = &buffer[length..];
        n += 1;
    }
    n
}

/// A new file's name is durable only once its folder is.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn journal(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("journal")
    }

    fn filled(path: &Path, payloads: &[Vec<u8>]) {
        let (mut journal, _) = Journal::open(path).expect("opens");
        for payload in payloads {
            journal.append(payload).expect("small");
            journal.commit().expect("commits");
        }
    }

    #[test]
    fn what_was_committed_is_there_and_what_was_not_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut j, replay) = Journal::open(&journal(&dir)).expect("opens");
        assert!(replay.records.is_empty() && replay.damage.is_empty());
        assert_eq!((j.append(b"one").expect("small"), j.append(b"two").expect("small")), (1, 2));
        j.commit().expect("commits");
        j.append(b"never committed").expect("small");
        drop(j);
        let (j, replay) = Journal::open(&journal(&dir)).expect("opens");
        assert_eq!(replay.records, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
        assert_eq!(j.latest(), 2);
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(journal(&dir), b"precious notes").expect("writes");
        let error = Journal::open(&journal(&dir)).expect_err("not a journal").to_string();
        assert!(error.contains("FLEETJ01") && error.contains("precious"), "{error}");
        assert_eq!(std::fs::read(journal(&dir)).expect("reads"), b"precious notes");
    }

    #[test]
    fn a_full_disk_refuses_the_commit_and_later_ones_go_on() {
        // /dev/full accepts opening and refuses writing, as a full disk does.
        let dir = tempfile::tempdir().expect("a folder");
        let (mut j, _) = Journal::open(&journal(&dir)).expect("opens");
        j.append(b"kept").expect("small");
        j.commit().expect("commits");
        let real = std::mem::replace(&mut j.file, OpenOptions::new().write(true).open("/dev/full").expect("opens"));
        assert_eq!(j.append(b"lost").expect("small"), 2);
        assert!(j.commit().expect_err("no space").to_string().contains("No space left"));
        j.file = real;
        assert_eq!(j.append(b"after").expect("small"), 2, "the number is given out again");
        j.commit().expect("commits");
        let (_, replay) = Journal::open(&journal(&dir)).expect("opens");
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
            filled(&journal(&dir), &payloads);
            let whole = std::fs::read(journal(&dir)).expect("reads");
            let keep = MAGIC.len() + ((whole.len() - MAGIC.len()) as f64 * cut) as usize;
            std::fs::write(journal(&dir), &whole[..keep]).expect("writes");
            let (mut j, replay) = Journal::open(&journal(&dir)).expect("opens");
            let n = replay.records.len();
            for (i, (sequence, payload)) in replay.records.iter().enumerate() {
                prop_assert_eq!((*sequence, payload), (i as u64 + 1, &payloads[i]));
            }
            let whole_records = MAGIC.len() + payloads[..n].iter().map(|p| HEADER + p.len()).sum::<usize>();
            prop_assert_eq!(replay.damage.is_empty(), whole_records == keep);
            j.append(b"next").expect("small");
            j.commit().expect("commits");
            let (_, again) = Journal::open(&journal(&dir)).expect("opens");
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
            filled(&journal(&dir), &payloads);
            let mut bytes = std::fs::read(journal(&dir)).expect("reads");
            let at = MAGIC.len() + ((bytes.len() - MAGIC.len()) as f64 * at) as usize;
            bytes[at] ^= flip;
            std::fs::write(journal(&dir), &bytes).expect("writes");
            let (_, replay) = Journal::open(&journal(&dir)).expect("opens");
            let mut start = MAGIC.len();
            let mut expected = Vec::new();
            for (i, payload) in payloads.iter().enumerate() {
                let end = start + HEADER + payload.len();
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
        let path = dir.path().join("journal");
        let (mut j, _) = Journal::open(&path).expect("opens");
        j.append(b"kept").expect("small");
        j.commit().expect("commits");
        j.append(b"with it").expect("small");
        assert!(matches!(j.append(&vec![0; MAX_PAYLOAD + 1]), Err(JournalError::TooLarge { .. })));
        j.commit().expect("nothing to do");
        assert_eq!(j.append(b"after").expect("small"), 2);
        j.commit().expect("commits");
        drop(j);
        let (_, replay) = Journal::open(&path).expect("opens");
        assert_eq!(replay.damage, []);
        assert_eq!(replay.records, [(1, b"kept".to_vec()), (2, b"after".to_vec())]);
    }
}
