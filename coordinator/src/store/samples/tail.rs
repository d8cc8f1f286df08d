//! Where an attempt's samples end: its chunk file, and the batches that are not in it yet.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::wire::v1;

use super::{SamplesError, chunk};

/// Samples that make a chunk: 20 seconds of ten series at 20 Hz. Larger ones hardly compress better, and what waits for
/// its chunk is held in memory.
const CHUNK: usize = 4096;

/// The end of one attempt's samples.
#[derive(Debug)]
pub(super) struct Tail {
    trial: TrialId,
    attempt: Attempt,
    path: PathBuf,
    /// Bytes of whole chunks in the file.
    length: u64,
    /// Of those bytes.
    crc: crc32fast::Hasher,
    /// Samples in those chunks.
    stored: u64,
    /// The number that should come next, behind the file and what is pending.
    next: u64,
    /// Batches that the intake holds and the file does not, without the trial's id.
    pending: Vec<v1::SampleBatch>,
    waiting: usize,
}

impl Tail {
    /// The end of what is in the file `path`, which may not be there. What a crash left behind the last whole chunk is
    /// cut off.
    ///
    /// # Errors
    /// The file cannot be read or cut.
    pub(super) fn open(path: PathBuf, trial: &TrialId, attempt: Attempt) -> Result<Self, SamplesError> {
        let mut tail = Self {
            trial: trial.clone(),
            attempt,
            path,
            length: 0,
            crc: crc32fast::Hasher::new(),
            stored: 0,
            next: 0,
            pending: Vec::new(),
            waiting: 0,
        };
        let file = match OpenOptions::new().read(true).write(true).open(&tail.path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(tail),
            Err(source) => return Err(tail.error("opened", source)),
        };
        let mut from = BufReader::new(&file);
        while let Some(chunk) = chunk::next(&mut from).map_err(|e| tail.error("read", e))? {
            tail.length += chunk.bytes.len() as u64;
            tail.crc.update(&chunk.bytes);
            tail.stored += count(&chunk.batches);
            tail.next = chunk.batches.last().map_or(tail.next, end);
        }
        file.set_len(tail.length).map_err(|e| tail.error("cut", e))?;
        Ok(tail)
    }

    fn error(&self, doing: &'static str, source: std::io::Error) -> SamplesError {
        SamplesError::Io { path: self.path.clone(), doing, source }
    }

    /// The chunk file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file that hold whole chunks, and the batches behind them.
    pub(super) fn snapshot(&self) -> (u64, Vec<v1::SampleBatch>) {
        let named = |batch: &v1::SampleBatch| v1::SampleBatch {
            trial: Some((&self.trial).into()),
            attempt: self.attempt.get(),
            ..batch.clone()
        };
        (self.length, self.pending.iter().map(named).collect())
    }

    /// The number that should come next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether everything is in the file.
    pub(super) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes in a batch that is durable in the intake; what of it came before is dropped. Says whether there is enough
    /// for a chunk.
    pub(super) fn push(&mut self, batch: v1::SampleBatch) -> bool {
        if let Some(fresh) = fresh(batch, self.next) {
            self.next = end(&fresh);
            self.waiting += fresh.at_nanos.len();
            self.pending.push(v1::SampleBatch { trial: None, ..fresh });
        }
        self.waiting >= CHUNK
    }

    /// Writes what is pending to the file. That does not sync it.
    ///
    /// # Errors
    /// The disk refused: what is not in the file stays pending.
    pub(super) fn flush(&mut self) -> Result<(), SamplesError> {
        while !self.pending.is_empty() {
            // More than one chunk is pending where the disk refused before.
            let mut samples = 0;
            let fits = self.pending.iter().take_while(|batch| {
                samples += batch.at_nanos.len();
                samples <= CHUNK
            });
            let batches = fits.count().max(1);
            let of_chunk = &self.pending[..batches];
            let packed = chunk::packed((&self.trial).into(), self.attempt.get(), of_chunk);
            let written = packed.and_then(|chunk| self.append(&chunk).map(|()| chunk));
            let chunk = written.map_err(|e| self.error("stored", e))?;
            let samples = count(of_chunk);
            self.length += chunk.len() as u64;
            self.crc.update(&chunk);
            self.stored += samples;
            self.waiting -= samples as usize;
            self.pending.drain(..batches);
        }
        self.pending.shrink_to_fit();
        Ok(())
    }

    fn append(&self, chunk: &[u8]) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        file.write_all(chunk).inspect_err(|_| {
            // Whatever part was written must not stand in front of the next chunk.
            let _ = file.set_len(self.length);
        })
    }

    /// Samples in the file, and the checksum over it.
    pub(super) fn contents(&self) -> (u64, u32) {
        (self.stored, self.crc.clone().finalize())
    }
}

/// The number behind a batch.
pub(super) fn end(batch: &v1::SampleBatch) -> u64 {
    batch.first_number.saturating_add(batch.at_nanos.len() as u64)
}

/// Samples of some batches.
pub(super) fn count(batches: &[v1::SampleBatch]) -> u64 {
    batches.iter().map(|b| b.at_nanos.len() as u64).sum()
}

/// What of a batch is numbered `next` or higher, if anything.
pub(super) fn fresh(mut batch: v1::SampleBatch, next: u64) -> Option<v1::SampleBatch> {
    if end(&batch) <= next {
        return None;
    }
    let skip = next.saturating_sub(batch.first_number) as usize;
    if skip > 0 {
        batch.first_number += skip as u64;
        batch.at_nanos.drain(..skip);
        batch.series.drain(..skip);
        batch.value.drain(..skip);
    }
    Some(batch)
}

/// Makes a chunk file durable, and its name.
///
/// # Errors
/// The disk refused.
pub(super) fn sync(path: &Path) -> Result<(), SamplesError> {
    let error = |source| SamplesError::Io { path: path.to_owned(), doing: "synced", source };
    match File::open(path) {
        Ok(file) => file.sync_data().map_err(error)?,
        // Somebody has removed it since.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(error(e)),
    }
    // Its folder, and the folder's own name in the one above.
    for folder in path.ancestors().skip(1).take(2) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)?;
    }
    Ok(())
}
