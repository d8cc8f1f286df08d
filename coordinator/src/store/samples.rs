//! Samples on disk: one chunk file per attempt.
//!
//! ```text
//! file  := chunk*
//! chunk := length u32 | crc u32 | SampleBatch (protobuf)
//! ```
//!
//! A batch is acknowledged once its chunk is synced. Batches that arrive twice are dropped, overlaps trimmed, gaps
//! kept as gaps: the numbers tell.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::telemetry::{Sample, Seal};
use fleet_common::wire::{self, v1};
use prost::Message;

/// Why samples could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[error("samples {path} cannot be {doing}: {source}")]
pub struct SamplesError {
    path: PathBuf,
    doing: &'static str,
    source: std::io::Error,
}

/// Files that are kept open: far below what a process may open, far above the slots of a fleet.
const MOST_OPEN: usize = 256;

/// The chunk files of all attempts.
#[derive(Debug)]
pub struct Samples {
    dir: PathBuf,
    open: Mutex<Open>,
}

/// The files that are open.
#[derive(Debug, Default)]
struct Open {
    files: HashMap<(TrialId, Attempt), Kept>,
    uses: u64,
}

/// A file that is open. It has a lock of its own, so that one disk write does not hold up every agent.
#[derive(Debug)]
struct Kept {
    chunks: Arc<Mutex<Chunks>>,
    /// The number of its latest use.
    used: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One attempt's file, and what is in it.
#[derive(Debug)]
struct Chunks {
    file: File,
    path: PathBuf,
    length: u64,
    crc: crc32fast::Hasher,
    stored: u64,
    /// The number that should come next.
    next: u64,
}

impl Samples {
    /// Samples in the folder `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: Mutex::default() }
    }

    fn path(&self, trial: &TrialId, attempt: Attempt) -> PathBuf {
        let stem = trial.file_stem();
        self.dir.join(&stem[..2]).join(format!("{stem}-{attempt}.chunks"))
    }

    /// Stores a batch durably and returns the number up to which everything is stored (what came and what is known to
    /// be missing); `None` while nothing is.
    ///
    /// # Errors
    /// The disk refused; then nothing of the batch is stored.
    pub fn store(
        &self,
        trial: &TrialId,
        attempt: Attempt,
        batch: &v1::SampleBatch,
    ) -> Result<Option<u64>, SamplesError> {
        let chunks = self.chunks(trial, attempt)?;
        let mut chunks = lock(&chunks);
        let end = batch.first_number + batch.at_nanos.len() as u64;
        if end > chunks.next {
            let skip = chunks.next.saturating_sub(batch.first_number) as usize;
            let fresh = v1::SampleBatch {
                first_number: batch.first_number + skip as u64,
                at_nanos: batch.at_nanos[skip..].to_vec(),
                series: batch.series[skip..].to_vec(),
                value: batch.value[skip..].to_vec(),
                ..batch.clone()
            };
            chunks.append(&fresh)?;
        }
        Ok(chunks.next.checked_sub(1))
    }

    /// Closes an attempt's file and says what is in it. `taken` is how many samples the agent numbered.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn seal(&self, trial: &TrialId, attempt: Attempt, taken: u64) -> Result<Seal, SamplesError> {
        if !self.path(trial, attempt).exists() {
            return Ok(Seal { stored: 0, missing: taken, crc32: crc32fast::hash(&[]) });
        }
        let chunks = self.chunks(trial, attempt)?;
        lock(&self.open).files.remove(&(trial.clone(), attempt));
        let chunks = lock(&chunks);
        Ok(Seal {
            stored: chunks.stored,
            missing: taken.saturating_sub(chunks.stored),
            crc32: chunks.crc.clone().finalize(),
        })
    }

    /// All samples of an attempt, in order. Those that are not what `seal` says are given out nevertheless, and said
    /// so.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn batches(
        &self,
        trial: &TrialId,
        attempt: Attempt,
        seal: Option<&Seal>,
    ) -> Result<Vec<v1::SampleBatch>, SamplesError> {
        let path = self.path(trial, attempt);
        match std::fs::read(&path) {
            Ok(bytes) => {
                if seal.is_some_and(|s| s.crc32 != crc32fast::hash(&bytes)) {
                    tracing::warn!(file = %path.display(), "samples are not what was sealed: the file was changed or damaged");
                }
                Ok(scan(&bytes).0)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(SamplesError { path, doing: "read", source }),
        }
    }

    fn chunks(&self, trial: &TrialId, attempt: Attempt) -> Result<Arc<Mutex<Chunks>>, SamplesError> {
        let key = (trial.clone(), attempt);
        let mut open = lock(&self.open);
        open.uses += 1;
        let now = open.uses;
        if let Some(kept) = open.files.get_mut(&key) {
            kept.used = now;
            return Ok(kept.chunks.clone());
        }
        if open.files.len() >= MOST_OPEN {
            // One that is being written to stays.
            let idle = open.files.iter().filter(|(_, kept)| Arc::strong_count(&kept.chunks) == 1);
            if let Some(oldest) = idle.min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone()) {
                open.files.remove(&oldest);
            }
        }
        let chunks = Arc::new(Mutex::new(Chunks::open(self.path(trial, attempt))?));
        open.files.insert(key, Kept { chunks: chunks.clone(), used: now });
        Ok(chunks)
    }
}

impl Chunks {
    fn open(path: PathBuf) -> Result<Self, SamplesError> {
        let error = |doing| {
            let path = path.clone();
            move |source| SamplesError { path, doing, source }
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(error("stored"))?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(error("opened"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(error("read"))?;
        let (batches, length) = scan(&bytes);
        file.set_len(length as u64).map_err(error("cut"))?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..length]);
        let stored = batches.iter().map(|b| b.at_nanos.len() as u64).sum();
        let next = batches.last().map_or(0, |b| b.first_number + b.at_nanos.len() as u64);
        Ok(Self { file, path, length: length as u64, crc, stored, next })
    }

    fn append(&mut self, batch: &v1::SampleBatch) -> Result<(), SamplesError> {
        let payload = batch.encode_to_vec();
        let mut chunk = Vec::with_capacity(8 + payload.len());
        chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        chunk.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        chunk.extend_from_slice(&payload);
        let written = self.file.write_all(&chunk).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Whatever part was written must not stand in front of the next chunk.
            let _ = self.file.set_len(self.length);
            return Err(SamplesError { path: self.path.clone(), doing: "stored", source });
        }
        self.length += chunk.len() as u64;
        self.crc.update(&chunk);
        self.stored += batch.at_nanos.len() as u64;
        self.next = batch.first_number + batch.at_nanos.len() as u64;
        Ok(())
    }
}

/// The whole chunks at the start of a file, and how many bytes they take.
fn scan(bytes: &[u8]) -> (Vec<v1::SampleBatch>, usize) {
    let mut batches = Vec::new();
    let mut at = 0;
    while let Some((length, rest)) = bytes[at..].split_first_chunk::<4>()
        && let Some((crc, rest)) = rest.split_first_chunk::<4>()
    {
        let n = u32::from_le_bytes(*length) as usize;
        let Some(payload) = rest.get(..n) else { break };
        if crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
            break;
        }
        let Ok(batch) = v1::SampleBatch::decode(payload) else { break };
        batches.push(batch);
        at += 8 + n;
    }
    (batches, at)
}

/// The samples of some batches.
pub fn flatten(batches: &[v1::SampleBatch]) -> Vec<Sample> {
    batches.iter().filter_map(|b| wire::samples(b).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use fleet_common::telemetry::{MonoNanos, Series};

    use super::*;

    fn trial() -> TrialId {
        "0123456789abcdef0123456789abcdef/0/NVIDIA X (8 GiB)".parse().expect("an id")
    }

    fn batch(numbers: std::ops::Range<u64>) -> v1::SampleBatch {
        let samples: Vec<Sample> = numbers
            .map(|number| Sample {
                number,
                at: MonoNanos(number * 100),
                channel: Series::AllocatorLiveBytes.into(),
                value: number as i64,
            })
            .collect();
        wire::batch(&trial(), Attempt::FIRST, &samples, 0, "boot")
    }

    fn numbers(samples: &Samples) -> Vec<u64> {
        flatten(&samples.batches(&trial(), Attempt::FIRST, None).expect("reads")).iter().map(|s| s.number).collect()
    }

    #[test]
    fn repeats_are_dropped_overlaps_trimmed_and_gaps_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let samples = Samples::new(dir.path());
        let store = |range| samples.store(&trial(), Attempt::FIRST, &batch(range)).expect("stores");
        assert_eq!(store(0..3), Some(2));
        assert_eq!(store(0..3), Some(2));
        assert_eq!(store(1..5), Some(4));
        assert_eq!(store(8..10), Some(9));
        assert_eq!(numbers(&samples), [0, 1, 2, 3, 4, 8, 9]);
        let seal = samples.seal(&trial(), Attempt::FIRST, 12).expect("seals");
        assert_eq!((seal.stored, seal.missing), (7, 5));
        let nothing = samples.seal(&trial(), Attempt::FIRST.next(), 3).expect("seals");
        assert_eq!((nothing.stored, nothing.missing), (0, 3));
        assert!(!samples.path(&trial(), Attempt::FIRST.next()).exists());
    }

    #[test]
    fn a_restart_goes_on_where_the_file_ends_even_when_it_was_torn() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Samples::new(dir.path());
        first.store(&trial(), Attempt::FIRST, &batch(0..4)).expect("stores");
        first.store(&trial(), Attempt::FIRST, &batch(4..6)).expect("stores");
        let path = first.path(&trial(), Attempt::FIRST);
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &bytes[..bytes.len() - 3]).expect("tears");
        let second = Samples::new(dir.path());
        // The torn batch was never acknowledged durably, so the agent sends it again.
        assert_eq!(second.store(&trial(), Attempt::FIRST, &batch(4..6)).expect("stores"), Some(5));
        assert_eq!(numbers(&second), [0, 1, 2, 3, 4, 5]);
        let fresh = Samples::new(&dir.path().join("other"));
        fresh.store(&trial(), Attempt::FIRST, &batch(0..4)).expect("stores");
        fresh.store(&trial(), Attempt::FIRST, &batch(4..6)).expect("stores");
        assert_eq!(
            fresh.seal(&trial(), Attempt::FIRST, 6).expect("seals"),
            second.seal(&trial(), Attempt::FIRST, 6).expect("seals"),
            "the same content has the same seal"
        );
    }

    #[test]
    fn few_files_stay_open_however_many_attempts_there_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let samples = Samples::new(dir.path());
        let attempts: Vec<Attempt> = (1..=MOST_OPEN as u32 + 50).map(|n| n.try_into().expect("positive")).collect();
        for round in 0..2 {
            for attempt in &attempts {
                samples.store(&trial(), *attempt, &batch(round * 2..round * 2 + 2)).expect("stores");
            }
        }
        assert_eq!(lock(&samples.open).files.len(), MOST_OPEN);
        for attempt in attempts {
            assert_eq!(samples.seal(&trial(), attempt, 4).expect("seals").stored, 4);
        }
    }
}
