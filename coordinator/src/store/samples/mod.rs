//! Samples on disk: one chunk file per attempt, and an intake before them.
//!
//! ```text
//! samples/intake/N.chunks             batches of all attempts as they came; one sync for many of them
//! samples/CE/CELL-REPEAT-N.chunks     an attempt's samples in compressed chunks
//! samples/removed.jsonl               what retention has removed
//! ```
//!
//! A batch is acknowledged once it is durable in the intake. Batches that arrive twice are dropped, overlaps trimmed,
//! gaps kept as gaps: the numbers tell. [`chunk`] has the form of both files, and reads what earlier versions wrote.

mod check;
mod chunk;
mod columns;
mod intake;
mod keep;
mod reader;
mod removed;
mod sweep;
mod tail;
mod tails;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fleet_common::id::{Attempt, TrialId};
use fleet_common::telemetry::{Sample, Seal};
use fleet_common::wire::{self, v1};
use tokio::sync::{mpsc, oneshot};

pub(super) use check::{check, files, intake};
pub use keep::{Keep, KeepTime};
pub use reader::Reader;
pub use removed::Removal;
pub(super) use removed::Removed;
use tails::Tails;
use writer::{Command, Writer};

/// Why samples could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// The system refused.
    #[error("samples {path} cannot be {doing}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A batch shared a sync that failed.
    #[error("{0}; try again later")]
    NotNow(String),
    /// The coordinator is on its way out.
    #[error("the coordinator is shutting down")]
    Stopped,
}

/// Questions that may wait for the writer; more make their senders wait.
const INBOX: usize = 1024;

/// The samples of all attempts.
#[derive(Debug)]
pub struct Samples {
    tails: Arc<Tails>,
    removed: Arc<Removed>,
    writer: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Samples {
    /// Samples in the folder `dir`. What a crash left in the intake is put where it belongs.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(dir: &Path) -> Result<Self, SamplesError> {
        let tails = Arc::new(Tails::new(dir));
        let removed = Arc::new(Removed::open(&dir.join("removed.jsonl"))?);
        let writer = Writer::open(tails.clone())?;
        let (sender, receiver) = mpsc::channel(INBOX);
        let thread = std::thread::Builder::new().name("samples".to_owned()).spawn(move || writer.run(receiver));
        let thread = thread.map_err(|source| SamplesError::Io { path: dir.to_owned(), doing: "written", source })?;
        Ok(Self { tails, removed, writer: Some(sender), thread: Some(thread) })
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, SamplesError> {
        let (sender, receiver) = oneshot::channel();
        let writer = self.writer.as_ref().ok_or(SamplesError::Stopped)?;
        writer.send(question(sender)).await.map_err(|_| SamplesError::Stopped)?;
        receiver.await.map_err(|_| SamplesError::Stopped)
    }

    /// Stores a batch durably and returns the number up to which everything is stored (what came and what is known to
    /// be missing); `None` while nothing is.
    ///
    /// # Errors
    /// The disk refused; then nothing of the batch is stored.
    pub async fn store(
        &self,
        trial: &TrialId,
        attempt: Attempt,
        batch: v1::SampleBatch,
    ) -> Result<Option<u64>, SamplesError> {
        let key = (trial.clone(), attempt);
        let next = self.ask(|answer| Command::Store(key, batch, answer)).await??;
        Ok(next.checked_sub(1))
    }

    /// Says what is stored of an attempt whose record has come. `taken` is how many samples the agent numbered. Samples
    /// that come later are stored behind what was sealed.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub async fn seal(&self, trial: &TrialId, attempt: Attempt, taken: u64) -> Result<Seal, SamplesError> {
        let key = (trial.clone(), attempt);
        let (seal, path) = self.ask(|answer| Command::Seal(key.clone(), answer)).await??;
        if seal.stored > 0 {
            // The journal will say what is in the file, so that must not change in a crash. Beside the writer, because
            // many trials may end at once.
            let sync = tokio::task::spawn_blocking(move || tail::sync(&path));
            sync.await.map_err(|_| SamplesError::Stopped)??;
        }
        self.tails.forget(&key);
        Ok(Seal { missing: taken.saturating_sub(seal.stored), ..seal })
    }

    /// The samples of an attempt, in order. Those that are not what `seal` says are given out nevertheless, and it is
    /// said so.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, trial: &TrialId, attempt: Attempt, seal: Option<Seal>) -> Result<Reader, SamplesError> {
        let key = (trial.clone(), attempt);
        // Where nothing is known of its end, everything is in the file.
        let (length, pending) = self.tails.snapshot(&key).unwrap_or((u64::MAX, Vec::new()));
        Reader::new(self.tails.path(&key), length, pending, seal)
    }

    /// Bytes of an attempt's chunk file, 0 while its samples are on their way there; `None` if it has none.
    pub fn size(&self, trial: &TrialId, attempt: Attempt) -> Option<u64> {
        let key = (trial.clone(), attempt);
        let file = std::fs::metadata(self.tails.path(&key)).ok().map(|file| file.len());
        file.or_else(|| self.tails.is_unfinished(&key).then_some(0))
    }

    /// That an attempt's samples were removed by retention. Some may have come since.
    pub fn removal(&self, trial: &TrialId, attempt: Attempt) -> Option<Removal> {
        self.removed.find(&tails::name(&(trial.clone(), attempt)))
    }

    /// Puts everything into chunk files and ends the writer.
    pub async fn stop(&self) {
        let _ = self.ask(Command::Stop).await;
    }
}

impl Drop for Samples {
    /// The folder is free afterwards.
    fn drop(&mut self) {
        drop(self.writer.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The name of an attempt's chunk file without its extension.
pub(super) fn name(trial: &TrialId, attempt: Attempt) -> String {
    tails::name(&(trial.clone(), attempt))
}

/// The samples of some batches.
pub fn flatten(batches: &[v1::SampleBatch]) -> Vec<Sample> {
    batches.iter().filter_map(|b| wire::samples(b).ok()).flatten().collect()
}
