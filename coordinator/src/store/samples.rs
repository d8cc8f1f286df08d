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
use std::sync::{Mutex, PoisonError};

use fleet_common::canonical::sha256_hex;
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

/// The chunk files of all attempts.
#[derive(Debug)]
pub struct Samples {
    dir: PathBuf,
    open: Mutex<HashMap<(TrialId, Attempt), Chunks>>,
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

    /// A trial's file name: its id may hold spaces and brackets, so a hardware class becomes a hash.
    fn path(&self, trial: &TrialId, attempt: Attempt) -> PathBuf {
        let class = trial.hardware.as_ref().map(|h| format!("-{}", &sha256_hex(h.as_str().as_bytes())[..8]));
        let cell = trial.cell.as_str();
        self.dir.join(&cell[..2]).join(format!("{cell}-{}{}-{attempt}.chunks", trial.repeat, class.unwrap_or_default()))
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
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = self.chunks(&mut open, trial, attempt)?;
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
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = self.chunks(&mut open, trial, attempt)?;
        let seal = Seal {
            stored: chunks.stored,
            missing: taken.saturating_sub(chunks.stored),
            crc32: chunks.crc.clone().finalize(),
        };
        open.remove(&(trial.clone(), attempt));
        Ok(seal)
    }

    /// All samples of an attempt, in order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn batches(&self, trial: &TrialId, attempt: Attempt) -> Result<Vec<v1::SampleBatch>, SamplesError> {
        let path = self.path(trial, attempt);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(scan(&bytes).0),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(SamplesError { path, doing: "read", source }),
        }
    }

    fn chunks<'a>(
        &self,
        open: &'a mut HashMap<(TrialId, Attempt), Chunks>,
        trial: &TrialId,
        attempt: Attempt,
    ) -> Result<&'a mut Chunks, SamplesError> {
        match open.entry((trial.clone(), attempt)) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(Chunks::open(self.path(trial, attempt))?))
            }
        }
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
                series: Series::AllocatorLiveBytes,
                value: number as i64,
            })
            .collect();
        wire::batch(&trial(), Attempt::FIRST, &samples, 0, "boot")
    }

    fn numbers(samples: &Samples) -> Vec<u64> {
        flatten(&samples.batches(&trial(), Attempt::FIRST).expect("reads")).iter().map(|s| s.number).collect()
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
        let nothing = samples.seal(&trial(), Attempt::FIRST.next(), 0).expect("seals");
        assert_eq!((nothing.stored, nothing.missing), (0, 0));
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
}
