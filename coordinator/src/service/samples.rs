//! Stored samples on their way out.

use std::collections::BTreeMap;

use fleet_chart::numbers::utc;
use fleet_common::id::{Attempt, CampaignName, TrialId};
use fleet_common::record::Record;
use fleet_common::wire::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::operator::Answers;
use super::{Service, ServiceError};
use crate::core::{Attempts, Input, Reply};
use crate::store::{Index, IndexError, Samples, SamplesError};

/// Messages that wait for an asker who reads slowly.
const AHEAD: usize = 16;

impl From<SamplesError> for ServiceError {
    fn from(error: SamplesError) -> Self {
        Self::Storage(error.to_string())
    }
}

impl From<IndexError> for ServiceError {
    fn from(error: IndexError) -> Self {
        Self::Storage(error.to_string())
    }
}

impl Service {
    /// The attempts of a campaign's trials that have samples.
    pub(super) async fn sampled(&self, name: CampaignName) -> Result<Answers<v1::SampledAttempt>, ServiceError> {
        let trials = match self.driver.ask(|token| Input::Attempts(token, name)).await? {
            Reply::Attempts(trials) => trials?,
            _ => return Err(ServiceError::WrongAnswer),
        };
        let (samples, index) = (self.samples.clone(), self.index.clone());
        Ok(answers(move |send| {
            for trial in &trials {
                match of_trial(&samples, index.as_ref(), trial) {
                    Ok(attempts) => {
                        if !attempts.into_iter().map(Ok).all(&send) {
                            return;
                        }
                    }
                    Err(error) => {
                        send(Err(error));
                        return;
                    }
                }
            }
        }))
    }

    /// The samples of an attempt.
    pub(super) fn samples_of(
        &self,
        trial: TrialId,
        attempt: Attempt,
    ) -> Result<Answers<v1::SampleBatch>, ServiceError> {
        if self.samples.size(&trial, attempt).is_none()
            && let Some(removal) = self.samples.removal(&trial, attempt)
        {
            let (when, rule) = (utc(removal.unix_ms), removal.rule);
            let what = format!("the samples of trial {trial}, attempt {attempt}, were removed on {when}");
            return Err(ServiceError::Removed(format!("{what}: the coordinator runs with {rule}")));
        }
        let (samples, index) = (self.samples.clone(), self.index.clone());
        Ok(answers(move |send| {
            let stored = index.record(&trial).ok().flatten();
            let of_this = stored.filter(|s| Record::from_json(&s.record).is_ok_and(|r| r.attempt == attempt));
            // What came after a removal is not what was sealed, and nobody has damaged it.
            let seal = of_this.filter(|_| samples.removal(&trial, attempt).is_none()).map(|s| s.seal);
            match samples.read(&trial, attempt, seal) {
                Ok(mut chunks) => {
                    chunks.all(|chunk| match chunk {
                        Ok(batches) => batches.into_iter().map(Ok).all(&send),
                        Err(error) => {
                            send(Err(error.into()));
                            false
                        }
                    });
                }
                Err(error) => {
                    send(Err(error.into()));
                }
            }
        }))
    }
}

/// Messages that are made on a thread which may wait for the disk, and for the asker. Sending says whether the asker is
/// still there.
pub(super) fn answers<T: Send + 'static>(
    make: impl FnOnce(&dyn Fn(Result<T, ServiceError>) -> bool) + Send + 'static,
) -> Answers<T> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        make(&|message| sender.blocking_send(message.map_err(Status::from)).is_ok());
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn of_trial(
    samples: &Samples,
    index: &dyn Index,
    Attempts { trial, latest, running }: &Attempts,
) -> Result<Vec<v1::SampledAttempt>, ServiceError> {
    let record = index.record(trial)?.and_then(|stored| Record::from_json(&stored.record).ok());
    let late = index.superseded(trial)?.into_iter().filter_map(|(_, document)| Record::from_json(&document).ok());
    let taken: BTreeMap<Attempt, u64> = late.chain(record.clone()).map(|r| (r.attempt, r.samples_taken)).collect();
    let attempts = (1..=latest.get()).filter_map(|n| Attempt::try_from(n).ok());
    let found = attempts.filter_map(|attempt| {
        let (bytes, removal) = (samples.size(trial, attempt), samples.removal(trial, attempt));
        (bytes.is_some() || removal.is_some()).then(|| v1::SampledAttempt {
            trial: Some(trial.into()),
            attempt: attempt.get(),
            running: *running && attempt == *latest,
            recorded: record.as_ref().is_some_and(|r| r.attempt == attempt),
            taken: taken.get(&attempt).copied(),
            bytes,
            removed: removal.map(|r| v1::SamplesRemoved { unix_ms: r.unix_ms, rule: r.rule }),
        })
    });
    Ok(found.collect())
}
