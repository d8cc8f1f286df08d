//! The one thread that writes samples: group commit.
//!
//! Agents send a batch a second and need no answer at once, so batches are gathered for a moment and share one sync of
//! the intake. Their samples are then kept in memory until an attempt has enough of them for a chunk of its file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_common::id::{Attempt, TrialId};
use fleet_common::telemetry::Seal;
use fleet_common::wire::{self, v1};
use tokio::sync::{mpsc, oneshot};

use super::intake::Intake;
use super::{SamplesError, Tails, chunk, tail};

/// How long batches are gathered. An agent may have several under way, and keeps them until they are acknowledged.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes that share one sync at most.
const GROUP: usize = 4 << 20;

/// An attempt of a trial.
pub(super) type Key = (TrialId, Attempt);

/// What can be asked of the thread.
pub(super) enum Command {
    /// Store a batch durably; answered with the number that should come next.
    Store(Key, v1::SampleBatch, oneshot::Sender<Result<u64, SamplesError>>),
    /// Put all of an attempt into its chunk file and say what is in that; answered with the file, too, which is to be
    /// synced.
    Seal(Key, oneshot::Sender<Result<(Seal, PathBuf), SamplesError>>),
    /// Put everything into synced chunk files.
    Empty(oneshot::Sender<Result<(), SamplesError>>),
    /// Put everything into synced chunk files and end.
    Stop(oneshot::Sender<()>),
}

/// A batch that waits for the group's sync.
struct Waiting {
    key: Key,
    fresh: Option<v1::SampleBatch>,
    next: u64,
    answer: oneshot::Sender<Result<u64, SamplesError>>,
}

pub(super) struct Writer {
    tails: Arc<Tails>,
    intake: Intake,
}

impl Writer {
    /// A writer that has put what an earlier process left in the intake where it belongs.
    ///
    /// # Errors
    /// What was left cannot be read, or an attempt's file that it belongs to.
    pub(super) fn open(tails: Arc<Tails>) -> Result<Self, SamplesError> {
        let (intake, left) = Intake::open(&tails.dir.join("intake"))?;
        let mut writer = Self { tails, intake };
        for path in left {
            let error = |source| SamplesError::Io { path: path.clone(), doing: "read", source };
            let mut from = std::io::BufReader::new(std::fs::File::open(&path).map_err(error)?);
            while let Some(chunk) = chunk::next(&mut from).map_err(error)? {
                for batch in chunk.batches {
                    if let Some(key) = key(&batch) {
                        writer.take_in(&key, batch)?;
                    }
                }
            }
        }
        if let Err(error) = writer.empty() {
            tracing::error!(%error, "samples of before the start stay in the intake");
        }
        Ok(writer)
    }

    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut stopping = None;
        while stopping.is_none()
            && let Some(first) = inbox.blocking_recv()
        {
            std::thread::sleep(GATHER);
            let mut group = Group::default();
            let (mut seals, mut empties) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Store(key, batch, answer) => self.gather(&mut group, key, batch, answer),
                    Command::Seal(key, answer) => seals.push((key, answer)),
                    Command::Empty(answer) => empties.push(answer),
                    Command::Stop(answer) => stopping = Some(answer),
                }
                let more = stopping.is_none() && group.bytes.len() < GROUP;
                next = if more { inbox.try_recv().ok() } else { None };
            }
            self.commit(group);
            for (key, answer) in seals {
                let _ = answer.send(self.seal(&key));
            }
            for answer in empties {
                let _ = answer.send(self.empty());
            }
            if self.intake.is_full() && self.flush_all().is_ok() {
                self.intake.move_on();
            }
        }
        if let Err(error) = self.empty() {
            tracing::error!(%error, "samples stay in the intake; the next start puts them where they belong");
        }
        if let Some(answer) = stopping {
            let _ = answer.send(());
        }
    }

    fn gather(
        &self,
        group: &mut Group,
        key: Key,
        batch: v1::SampleBatch,
        answer: oneshot::Sender<Result<u64, SamplesError>>,
    ) {
        let before = match group.next.get(&key) {
            Some(next) => Ok(*next),
            None => self.tails.with(&key, |tail| tail.next()),
        };
        let taken = before.and_then(|next| {
            let Some(fresh) = tail::fresh(batch, next) else { return Ok((None, next)) };
            let error = |source| SamplesError::Io { path: self.tails.path(&key), doing: "stored", source };
            group.bytes.extend(chunk::plain(&fresh).map_err(error)?);
            let next = tail::end(&fresh);
            Ok((Some(fresh), next))
        });
        match taken {
            Ok((fresh, next)) => {
                group.next.insert(key.clone(), next);
                group.waiting.push(Waiting { key, fresh, next, answer });
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    /// Makes a group durable, then part of what is known, and then answers.
    fn commit(&mut self, group: Group) {
        let mut written = if group.bytes.is_empty() { Ok(()) } else { self.intake.append(&group.bytes) };
        if written.is_err() && self.empty().is_ok() {
            // The chunk files take less space, and the intake's was just freed.
            written = self.intake.append(&group.bytes);
        }
        if let Err(error) = written {
            tracing::error!(%error, batches = group.waiting.len(), "samples could not be stored; agents keep them");
            let words = error.to_string();
            for waiting in group.waiting {
                let _ = waiting.answer.send(Err(SamplesError::NotNow(words.clone())));
            }
            return;
        }
        for Waiting { key, fresh, next, answer } in group.waiting {
            let taken = fresh.map_or(Ok(()), |fresh| self.take_in(&key, fresh));
            let _ = answer.send(taken.map(|()| next));
        }
    }

    /// Makes a batch that is durable part of what is known. A chunk file that cannot be written gets it later.
    ///
    /// # Errors
    /// The chunk file cannot be read.
    fn take_in(&mut self, key: &Key, batch: v1::SampleBatch) -> Result<(), SamplesError> {
        let intake = &mut self.intake;
        let flushed = self.tails.with(key, |tail| {
            intake.touch(tail.path());
            if tail.push(batch) { tail.flush() } else { Ok(()) }
        })?;
        if let Err(error) = flushed {
            tracing::error!(%error, "samples stay in the intake; they are not lost");
        }
        Ok(())
    }

    fn seal(&mut self, key: &Key) -> Result<(Seal, PathBuf), SamplesError> {
        let (stored, crc32, path) = self.tails.with(key, |tail| {
            tail.flush()?;
            let (stored, crc32) = tail.contents();
            Ok::<_, SamplesError>((stored, crc32, tail.path().to_owned()))
        })??;
        Ok((Seal { stored, missing: 0, crc32 }, path))
    }

    fn flush_all(&self) -> Result<(), SamplesError> {
        self.tails.flush_all().inspect_err(|error| {
            tracing::error!(%error, "samples stay in the intake; they are not lost");
        })
    }

    /// Puts everything into chunk files and lets the intake go.
    fn empty(&mut self) -> Result<(), SamplesError> {
        self.tails.flush_all()?;
        self.intake.empty()
    }
}

/// Batches that will share a sync.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    /// The number that should come next, for attempts of this group.
    next: HashMap<Key, u64>,
}

/// Whose a batch is.
fn key(batch: &v1::SampleBatch) -> Option<Key> {
    Some((wire::trial(batch.trial.clone()).ok()?, batch.attempt.try_into().ok()?))
}
