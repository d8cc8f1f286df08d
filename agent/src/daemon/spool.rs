//! An attempt's samples on the agent's disk, until the coordinator has acknowledged them.
//!
//! Samples are numbered as they come, put into batches, and appended to a file; what was acknowledged is remembered by
//! number. After an outage the batches behind that number are read back and sent again, in order.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::telemetry::{Channel, MonoNanos, Sample};
use fleet_common::wire::{self, MAX_SAMPLES_PER_BATCH, v1};
use prost::Message;
use tokio::sync::Notify;

use super::clock;
use crate::metrics::Waiting;

/// The samples of one attempt.
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
    /// Batches in the file that are not acknowledged: number behind the last sample, offset, length.
    waiting: Vec<(u64, u64, u64)>,
    closed: bool,
    /// The disk refused; samples since then are numbered but gone, which the numbers show.
    failed: Option<String>,
}

impl Spool {
    /// A new spool file in `dir`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn create(dir: &Path, trial: &TrialId, attempt: Attempt) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{attempt}.samples", trial.file_stem()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let inner = Inner {
            file,
            length: 0,
            open: Vec::new(),
            next_number: 0,
            acknowledged: 0,
            waiting: Vec::new(),
            closed: false,
            failed: None,
        };
        Ok(Self {
            trial: trial.clone(),
            attempt,
            boot_id: clock::boot_id(),
            path,
            inner: Mutex::new(inner),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        let bytes = batch.encode_to_vec();
        match inner.file.write_all(&bytes) {
            Ok(()) => {
                let (offset, length) = (inner.length, bytes.len() as u64);
                inner.waiting.push((inner.next_number, offset, length));
                inner.length += length;
                self.changed.notify_one();
            }
            Err(error) => {
                tracing::error!(trial = %self.trial, %error, "samples cannot be spooled; the series will have a gap");
                inner.failed = Some(error.to_string());
                // Part of the batch may be in the file; go on behind it.
                inner.length = inner.file.metadata().map_or(inner.length, |m| m.len());
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
            refused: inner.failed.is_some(),
        }
    }

    /// Removes the file: its attempt is over.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use fleet_common::telemetry::Series;

    use super::*;

    #[test]
    fn batches_stay_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().expect("a folder");
        let trial: TrialId = "0123456789abcdef0123456789abcdef/0".parse().expect("an id");
        let spool = Spool::create(dir.path(), &trial, Attempt::FIRST).expect("made");
        let push = |n: u64| (0..n).for_each(|i| spool.push(MonoNanos(i), Series::AllocatorLiveBytes.into(), i as i64));
        push(3);
        assert!(spool.unsent(0, 10).expect("reads").is_empty(), "not yet a batch");
        spool.flush();
        push(2);
        spool.flush();
        let firsts =
            |after| -> Vec<u64> { spool.unsent(after, 10).expect("reads").iter().map(|b| b.first_number).collect() };
        assert_eq!(firsts(0), [0, 3]);
        assert_eq!(firsts(3), [3]);
        assert_eq!(spool.waiting().samples, 5);
        spool.acknowledge(1);
        assert_eq!(firsts(0), [0, 3], "an acknowledgement inside a batch does not end it");
        spool.acknowledge(2);
        assert_eq!(firsts(0), [3]);
        let (first, both) = (spool.waiting(), spool.inner.lock().expect("no panic").length);
        assert!(first.samples == 2 && (1..both).contains(&first.bytes) && !first.refused, "{first:?} of {both}");
        push(1);
        spool.close();
        assert!(!spool.is_done());
        spool.acknowledge(5);
        assert!(spool.is_done());
        assert_eq!(spool.waiting(), Waiting::default());
        assert_eq!(spool.taken(), 6);
        spool.remove();
        assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 0);
    }
}
