//! Samples of one attempt, numbered, on disk until the coordinator has them.
//!
//! ```text
//! STATE/spool/TRIAL-ATTEMPT@SLOT.samples    file := frame*    frame := length u32 | crc u32 | SampleBatch (protobuf)
//! STATE/spool/TRIAL-ATTEMPT@SLOT.ended      the attempt's energy is accounted for; only its samples are left to send
//! ```
//!
//! What was sampled since the last batch is in memory only (up to a second of it). A daemon that starts finds what an
//! earlier one has left and sends it; what the coordinator has already, it drops by its numbers.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fleet_common::energy::Readings;
use fleet_common::id::{Attempt, SlotId, TrialId};
use fleet_common::telemetry::{Channel, MonoNanos, Sample};
use fleet_common::wire::{self, MAX_SAMPLES_PER_BATCH, v1};
use prost::Message;
use tokio::sync::Notify;

use crate::clock;
use crate::metrics::Waiting;

/// The spool of one attempt.
#[derive(Debug)]
pub(super) struct Spool {
    trial: TrialId,
    attempt: Attempt,
    boot_id: String,
    path: PathBuf,
    inner: Mutex<Inner>,
    /// Rung when there is something new to send, or nothing will follow.
    pub changed: Notify,
}

#[derive(Debug)]
struct Inner {
    file: File,
    length: u64,
    /// Samples not yet in a batch.
    open: Vec<Sample>,
    next_number: u64,
    /// Numbers below this are the coordinator's.
    acknowledged: u64,
    /// Batches in the file that are not acknowledged: number behind the last sample, offset and length of the message.
    waiting: Vec<(u64, u64, u64)>,
    closed: bool,
    /// The disk refused at least once.
    refused: bool,
    removed: bool,
}

/// What an earlier daemon has left of an attempt.
pub(super) struct LeftBehind {
    /// Where it ran.
    pub slot: SlotId,
    /// Its energy is accounted for.
    pub has_ended: bool,
    /// Its samples, to be sent.
    pub spool: Spool,
    /// The same samples, to be read.
    pub readings: Readings,
}

/// What the mark's name ends in.
const ENDED: &str = "ended";

/// Bytes of a frame before its message.
const HEAD: usize = 8;

impl Spool {
    /// A new spool file in `dir`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn create(dir: &Path, trial: &TrialId, attempt: Attempt, slot: &SlotId) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{attempt}@{slot}.samples", trial.file_stem()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self {
            trial: trial.clone(),
            attempt,
            boot_id: clock::boot_id(),
            path,
            inner: Mutex::new(Inner {
                file,
                length: 0,
                open: Vec::new(),
                next_number: 0,
                acknowledged: 0,
                waiting: Vec::new(),
                closed: false,
                refused: false,
                removed: false,
            }),
            changed: Notify::new(),
        })
    }

    /// What an earlier daemon has left in `dir`: closed, and all of it to be sent. A frame that was cut short by its end
    /// and what follows it is dropped; a file without a whole frame is removed, and a mark without its file.
    pub(super) fn left_behind(dir: &Path) -> Vec<LeftBehind> {
        let entries: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        let are = |extension: &'static str| {
            entries.iter().filter(move |path| path.extension().is_some_and(|e| e == extension)).cloned()
        };
        // Of an end between the two removals.
        for mark in are(ENDED).filter(|mark| !mark.with_extension("samples").exists()) {
            let _ = std::fs::remove_file(mark);
        }
        let mut found = Vec::new();
        for path in are("samples") {
            match Self::reopen(&path) {
                Some(spool) => found.push(spool),
                None => {
                    let _ = std::fs::remove_file(path.with_extension(ENDED));
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        found
    }

    fn reopen(path: &Path) -> Option<LeftBehind> {
        let slot: SlotId = path.file_stem()?.to_str()?.rsplit_once('@')?.1.parse().ok()?;
        let bytes = std::fs::read(path).ok()?;
        let (mut waiting, mut readings, mut at) = (Vec::new(), Readings::default(), 0);
        let mut whose = None;
        while let Some(batch) = frame(&bytes[at..]) {
            let length = batch.len();
            let decoded = v1::SampleBatch::decode(batch).ok()?;
            let end = decoded.first_number + decoded.at_nanos.len() as u64;
            waiting.push((end, (at + HEAD) as u64, length as u64));
            readings.extend(wire::samples(&decoded).ok()?);
            whose = Some((decoded.trial, decoded.attempt, decoded.boot_id));
            at += HEAD + length;
        }
        let (trial, attempt, boot_id) = whose?;
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        let inner = Inner {
            file,
            length: at as u64,
            open: Vec::new(),
            next_number: waiting.last().map_or(0, |(end, _, _)| *end),
            acknowledged: 0,
            waiting,
            closed: true,
            refused: false,
            removed: false,
        };
        let spool = Self {
            trial: wire::trial(trial).ok()?,
            attempt: attempt.try_into().ok()?,
            boot_id,
            path: path.to_owned(),
            inner: Mutex::new(inner),
            changed: Notify::new(),
        };
        Some(LeftBehind { slot, has_ended: path.with_extension(ENDED).exists(), spool, readings })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose samples these are.
    pub(super) fn whose(&self) -> (&TrialId, Attempt) {
        (&self.trial, self.attempt)
    }

    /// Numbers a reading and keeps it.
    pub(super) fn push(&self, at: MonoNanos, channel: Channel, value: i64) {
        let mut inner = self.lock();
        let number = inner.next_number;
        inner.next_number += 1;
        inner.open.push(Sample { number, at, channel, value });
        if inner.open.len() >= MAX_SAMPLES_PER_BATCH {
            self.batch(&mut inner);
        }
    }

    /// Makes a batch of what was kept since the last one.
    pub(super) fn flush(&self) {
        self.batch(&mut self.lock());
    }

    fn batch(&self, inner: &mut Inner) {
        if inner.open.is_empty() {
            return;
        }
        let batch = wire::batch(&self.trial, self.attempt, &inner.open, clock::wall_offset_nanos(), &self.boot_id);
        inner.open.clear();
        let message = batch.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEAD + message.len());
        bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&message).to_le_bytes());
        bytes.extend_from_slice(&message);
        // At a place of our choice: part of a frame that the disk refused does not stand in front of the next.
        match inner.file.write_all_at(&bytes, inner.length).and_then(|()| inner.file.flush()) {
            Ok(()) => {
                let (offset, length) = (inner.length + HEAD as u64, message.len() as u64);
                inner.waiting.push((inner.next_number, offset, length));
                inner.length += bytes.len() as u64;
                self.changed.notify_one();
            }
            Err(error) => {
                tracing::error!(trial = %self.trial, %error, "samples cannot be spooled; the series will have a gap");
                inner.refused = true;
            }
        }
    }

    /// The batches behind number `after`, oldest first, at most `most`.
    ///
    /// # Errors
    /// The file cannot be read back.
    pub(super) fn unsent(&self, after: u64, most: usize) -> std::io::Result<Vec<v1::SampleBatch>> {
        let inner = self.lock();
        let mut batches = Vec::new();
        for (_, offset, length) in inner.waiting.iter().filter(|(end, _, _)| *end > after).take(most) {
            let mut bytes = vec![0; *length as usize];
            inner.file.read_exact_at(&mut bytes, *offset)?;
            batches.push(v1::SampleBatch::decode(bytes.as_slice()).map_err(std::io::Error::other)?);
        }
        Ok(batches)
    }

    /// Everything up to and including `number` is the coordinator's now.
    pub(super) fn acknowledge(&self, number: u64) {
        let mut inner = self.lock();
        inner.waiting.retain(|(end, _, _)| *end > number + 1);
        inner.acknowledged = inner.acknowledged.max(number + 1);
        drop(inner);
        self.changed.notify_one();
    }

    /// No more samples will come.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        self.batch(&mut inner);
        inner.closed = true;
        drop(inner);
        self.changed.notify_one();
    }

    /// Whether nothing is left to send, and nothing will be.
    pub(super) fn is_done(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.waiting.is_empty()
    }

    /// How many samples were numbered.
    pub(super) fn taken(&self) -> u64 {
        self.lock().next_number
    }

    /// What is not acknowledged yet.
    pub(super) fn waiting(&self) -> Waiting {
        let inner = self.lock();
        Waiting {
            samples: inner.next_number.saturating_sub(inner.acknowledged),
            bytes: inner.waiting.iter().map(|(_, _, length)| length).sum(),
            refused: inner.refused,
        }
    }

    /// Notes that a record or an account of wasted energy holds what this attempt took. Once the spool is removed nobody
    /// asks any more, and nobody would remove the mark.
    pub(super) fn ended(&self) {
        let inner = self.lock();
        if inner.removed {
            return;
        }
        if let Err(error) = File::create(self.path.with_extension(ENDED)) {
            tracing::warn!(%error, "if this daemon is killed now, the attempt's energy will be told of twice");
        }
    }

    /// Removes the file: the coordinator has everything.
    pub(super) fn remove(&self) {
        let mut inner = self.lock();
        inner.removed = true;
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension(ENDED));
    }
}

/// The message of the whole frame at the start of `bytes`.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let message = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (crc32fast::hash(message) == u32::from_le_bytes(*crc)).then_some(message)
}

#[cfg(test)]
mod tests {
    use fleet_common::telemetry::Series;

    use super::*;

    fn trial() -> TrialId {
        "0123456789abcdef0123456789abcdef/0".parse().expect("an id")
    }

    fn spool(dir: &Path) -> Spool {
        Spool::create(dir, &trial(), Attempt::FIRST, &"cuda:0".parse().expect("a slot")).expect("made")
    }

    fn push(spool: &Spool, n: u64) {
        (0..n).for_each(|i| spool.push(MonoNanos(i), Series::AllocatorLiveBytes.into(), i as i64));
    }

    fn firsts(spool: &Spool, after: u64) -> Vec<u64> {
        spool.unsent(after, 10).expect("reads").iter().map(|b| b.first_number).collect()
    }

    #[test]
    fn batches_stay_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = spool(dir.path());
        push(&spool, 3);
        assert!(spool.unsent(0, 10).expect("reads").is_empty(), "not yet a batch");
        spool.flush();
        push(&spool, 2);
        spool.flush();
        assert_eq!(firsts(&spool, 0), [0, 3]);
        assert_eq!(firsts(&spool, 3), [3]);
        assert_eq!(spool.waiting().samples, 5);
        spool.acknowledge(1);
        assert_eq!(firsts(&spool, 0), [0, 3], "an acknowledgement inside a batch does not end it");
        spool.acknowledge(2);
        assert_eq!(firsts(&spool, 0), [3]);
        let (first, both) = (spool.waiting(), spool.lock().length);
        assert!(first.samples == 2 && (1..both).contains(&first.bytes) && !first.refused, "{first:?} of {both}");
        push(&spool, 1);
        spool.close();
        assert!(!spool.is_done());
        spool.acknowledge(5);
        assert!(spool.is_done());
        assert_eq!(spool.waiting(), Waiting::default());
        assert_eq!(spool.taken(), 6);
        spool.remove();
        assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 0);
    }

    #[test]
    fn what_a_killed_daemon_has_left_is_found_again_up_to_a_torn_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = spool(dir.path());
        for _ in 0..3 {
            push(&first, 4);
            first.flush();
        }
        push(&first, 2);
        let path = first.path.clone();
        // Killed: what was not in a batch is gone, and the last frame was cut.
        drop(first);
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &bytes[..bytes.len() - 3]).expect("writes");
        std::fs::write(dir.path().join("empty-1@cpu.samples"), "").expect("writes");
        let mut found = Spool::left_behind(dir.path());
        let LeftBehind { slot, has_ended, spool, readings } = found.pop().expect("one");
        assert!(!has_ended, "nobody has accounted for it");
        assert!(found.is_empty() && !dir.path().join("empty-1@cpu.samples").exists());
        assert_eq!((slot.as_str(), spool.whose()), ("cuda:0", (&trial(), Attempt::FIRST)));
        assert_eq!((firsts(&spool, 0), spool.taken()), (vec![0, 4], 8));
        assert_eq!(readings.of(Series::AllocatorLiveBytes.into()).len(), 8);
        assert!(!spool.is_done());
        spool.ended();
        assert!(Spool::left_behind(dir.path()).pop().expect("still there").has_ended);
        spool.acknowledge(7);
        assert!(spool.is_done());
        spool.remove();
        let nothing_is_there = || std::fs::read_dir(dir.path()).expect("reads").count() == 0;
        assert!(nothing_is_there(), "the mark goes with it");
        // Told of late, while its samples were on their way out.
        spool.ended();
        assert!(nothing_is_there(), "no mark without a spool");
        // Killed between the two removals.
        std::fs::write(path.with_extension(ENDED), "").expect("writes");
        assert!(Spool::left_behind(dir.path()).is_empty() && nothing_is_there());
    }
}
