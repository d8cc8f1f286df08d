//! What agents deliver, records and samples, and whose line in the log is whose.

use fleet_common::id::{AgentId, Attempt, SlotId, TrialId};
use fleet_common::lease::Holder;
use fleet_common::record::Record;
use fleet_common::wire::{self, AGENT_HEADER, SLOT_HEADER, WireError, v1};
use fleet_observe::log;
use prost::Message as _;
use tonic::Request;
use tonic::codegen::http::Extensions;
use tracing::{Instrument as _, Span};

use super::{Service, ServiceError};
use crate::core::{Input, Reply, Reported};
use crate::scheduler::Figures;
use crate::security::Caller;
use crate::store::Part;

/// What is logged of an attempt.
pub(super) fn span(trial: &TrialId, attempt: Attempt, holder: &Holder) -> Span {
    log::trial_span(&trial.cell, trial.repeat, attempt.get(), &holder.agent, &holder.slot)
}

impl Service {
    /// Whether an attempt was ever granted.
    async fn knows(&self, trial: TrialId, attempt: Attempt, from: &Extensions) -> Result<bool, ServiceError> {
        let agent = Caller::of(from).agent();
        match self.driver.ask(|token| Input::Knows { token, agent, trial, attempt }).await? {
            Reply::Knows(known) => Ok(known),
            other => Err(self.unexpected(from, &other)),
        }
    }

    /// Whether the sender may speak of this attempt: not, if it says who it is and the attempt was granted to another.
    pub(super) async fn own(&self, trial: &TrialId, attempt: Attempt, from: &Extensions) -> Result<(), ServiceError> {
        if Caller::of(from).identity().is_some() {
            self.knows(trial.clone(), attempt, from).await?;
        }
        Ok(())
    }

    /// Seals the samples of a record and hands it to the core.
    pub(super) async fn take(&self, report: Report, from: &Extensions) -> Result<Reported, ServiceError> {
        let Report { holder, trial, attempt, record, json } = report;
        // Before anything is sealed: another's samples are none of its business.
        self.own(&trial, attempt, from).await?;
        let seal = self.samples.seal(&trial, attempt, record.samples_taken).await?;
        let class = record.outcome.kind();
        tracing::info!(outcome = class.name(), samples_missing = seal.missing, "a record arrived");
        let reason = record.outcome.reason().unwrap_or_default();
        let figures = Figures::of(&record);
        let input = |token| Input::Report { token, holder, trial, attempt, class, reason, record: json, seal, figures };
        let Reply::Reported(reported) = self.driver.ask(input).await? else { return Err(ServiceError::WrongAnswer) };
        self.counts.reported(&record, reported, &seal);
        Ok(reported)
    }

    /// Stores a batch. `known` is the attempt that was last found to be known.
    pub(super) async fn store(
        &self,
        batch: v1::SampleBatch,
        sender: &Sender,
        from: &Extensions,
        known: &mut Option<(TrialId, Attempt)>,
    ) -> Result<v1::SampleAck, ServiceError> {
        wire::check(&batch)?;
        let trial = wire::trial(batch.trial.clone())?;
        let attempt: Attempt = batch.attempt.try_into().map_err(WireError::from)?;
        let span = log::trial_span(&trial.cell, trial.repeat, attempt.get(), &sender.agent, &sender.slot);
        self.keep(batch, trial, attempt, from, known).instrument(span).await
    }

    /// Keeps a batch. One of an attempt that is not known (this coordinator's state is younger than the agent's) is
    /// acknowledged and dropped, as its record will be.
    async fn keep(
        &self,
        batch: v1::SampleBatch,
        trial: TrialId,
        attempt: Attempt,
        from: &Extensions,
        known: &mut Option<(TrialId, Attempt)>,
    ) -> Result<v1::SampleAck, ServiceError> {
        let key = Some((trial.clone(), attempt));
        if *known != key && self.knows(trial.clone(), attempt, from).await? {
            *known = key.clone();
        }
        let ack = v1::SampleAck { trial: batch.trial.clone(), attempt: batch.attempt, number: 0 };
        if *known != key {
            self.counts.unknown(batch.at_nanos.len());
            tracing::warn!("samples of an attempt that was never granted here are dropped");
            let end = batch.first_number + batch.at_nanos.len() as u64;
            return Ok(v1::SampleAck { number: end.saturating_sub(1), ..ack });
        }
        let (count, bytes) = (batch.at_nanos.len(), batch.encoded_len());
        let stored = self.samples.store(&trial, attempt, batch).await;
        self.counts.batch(count, bytes, stored.is_ok());
        match &stored {
            Ok(_) => self.driver.health().works(Part::Samples),
            Err(error) => self.driver.health().fails(Part::Samples, error),
        }
        let number = stored.inspect_err(|error| tracing::warn!(%error, "the agent will send again"))?;
        Ok(v1::SampleAck { number: number.unwrap_or(0), ..ack })
    }
}

/// A record on its way to the core.
pub(super) struct Report {
    pub holder: Holder,
    pub trial: TrialId,
    pub attempt: Attempt,
    pub record: Record,
    pub json: Vec<u8>,
}

/// Who sends samples, for the log: batches do not say it.
pub(super) struct Sender {
    pub agent: String,
    pub slot: String,
}

impl Sender {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let said = |key| request.metadata().get(key).and_then(|v| v.to_str().ok()).unwrap_or_default();
        // Only what could be a name gets into the log.
        Self {
            agent: said(AGENT_HEADER).parse::<AgentId>().map_or_else(|_| String::new(), |a| a.to_string()),
            slot: said(SLOT_HEADER).parse::<SlotId>().map_or_else(|_| String::new(), |s| s.to_string()),
        }
    }
}
