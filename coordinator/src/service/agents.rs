//! What agents call.

use std::collections::BTreeSet;
use std::pin::Pin;

use fleet_common::id::{AgentId, SlotId};
use fleet_common::lease::Holder;
use fleet_common::record::{Record, Waste};
use fleet_common::wire::{self, WireError, v1};
use fleet_content::Item;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::arrivals::{Report, Sender, span};
use super::rpc::agents_server::Agents;
use super::{Service, ServiceError, slots};
use crate::core::{Claim, Input, Progress, Reply, Reported, Verdict};
use crate::security::Caller;

/// The longest that a question for work may wait: shorter than what proxies and routers cut off.
const MAX_WAIT_MS: u64 = 55_000;

/// Data sets and weights that are noted of an agent.
const MOST_ITEMS: usize = 1000;

fn claim(agent: &AgentId, lease: v1::HeldLease) -> Result<Claim, WireError> {
    let (trial, attempt, holder) = wire::lease(agent, lease)?;
    Ok(Claim { trial, attempt, slot: holder.slot })
}

/// What an agent says that it has. It is a hint for placement, so what is no item is left out, and so is what no machine
/// has so much of.
fn items(named: Vec<String>) -> BTreeSet<Item> {
    named.into_iter().take(MOST_ITEMS).filter_map(|item| item.parse().ok()).collect()
}

fn holder(agent: &str, slot: &str) -> Result<Holder, WireError> {
    Ok(Holder { agent: agent.parse()?, slot: slot.parse::<SlotId>()? })
}

fn verdict(verdict: Verdict) -> v1::Verdict {
    v1::Verdict {
        trial: Some((&verdict.claim.trial).into()),
        attempt: verdict.claim.attempt.get(),
        keep: verdict.keep.is_ok(),
        reason: verdict.keep.err().unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl Agents for Service {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterReply>, Status> {
        let (_, from, r) = request.into_parts();
        let agent: AgentId = r.agent.parse().map_err(WireError::from).map_err(ServiceError::from)?;
        self.confine(&from, &agent)?;
        let slots = r
            .slots
            .into_iter()
            .map(slots::from_wire)
            .collect::<Result<Vec<_>, WireError>>()
            .map_err(ServiceError::from)?;
        let held =
            r.held.into_iter().map(|l| claim(&agent, l)).collect::<Result<_, _>>().map_err(ServiceError::from)?;
        tracing::info!(%agent, host = r.host, slots = slots.len(), "an agent registered");
        let (version, host, number) = (r.version, r.host, r.number);
        let content = items(r.content);
        let reply = self
            .driver
            .ask(|token| Input::Register { token, agent, version, host, slots, held, number, content })
            .await
            .map_err(ServiceError::from)?;
        let Reply::Registered(verdicts) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        self.note_claims(&from, &verdicts);
        Ok(Response::new(v1::RegisterReply {
            heartbeat_every_ms: self.driver.terms().renew_every_ms,
            verdicts: verdicts.into_iter().map(verdict).collect(),
            artifact_store: self.artifact_store.clone(),
            takes_artifacts: true,
        }))
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<v1::PullReply>, Status> {
        let (_, from, r) = request.into_parts();
        let holder = holder(&r.agent, &r.slot).map_err(ServiceError::from)?;
        self.confine(&from, &holder.agent)?;
        let (asker, wait_ms) = (holder.clone(), r.wait_ms.min(MAX_WAIT_MS));
        let reply =
            self.driver.ask(|token| Input::Pull { token, holder, wait_ms }).await.map_err(ServiceError::from)?;
        let Reply::Leased(offer) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        if let Some(offer) = &offer {
            span(&offer.trial, offer.attempt, &asker).in_scope(|| tracing::info!("a lease is granted"));
        }
        let lease = offer.map(|o| v1::Lease {
            trial: Some((&o.trial).into()),
            attempt: o.attempt.get(),
            settings_json: o.cell.settings.text(),
            dataset: o.cell.dataset.to_string(),
            keep_weights: o.keep.weights,
            keep_adapter: o.keep.adapter,
            resume: o.resume.as_ref().and_then(|r| r.as_ref().ok()).map(Into::into),
            starts_over: o.resume.and_then(Result::err),
        });
        Ok(Response::new(v1::PullReply { lease }))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatReply>, Status> {
        let (_, from, r) = request.into_parts();
        let agent: AgentId = r.agent.parse().map_err(WireError::from).map_err(ServiceError::from)?;
        self.confine(&from, &agent)?;
        let running = r
            .progress
            .into_iter()
            .map(|p| {
                let lease = v1::HeldLease { trial: p.trial, attempt: p.attempt, slot: p.slot };
                let progress = Progress { phase: p.phase, done: p.done, of: p.of, loss: p.loss };
                Ok((claim(&agent, lease)?, progress))
            })
            .collect::<Result<_, WireError>>()
            .map_err(ServiceError::from)?;
        let content = r.content.map(|content| (content.number, items(content.items)));
        let reply = self
            .driver
            .ask(|token| Input::Heartbeat { token, agent, running, content })
            .await
            .map_err(ServiceError::from)?;
        let Reply::Heartbeat(verdicts) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        self.note_claims(&from, verdicts.as_deref().unwrap_or_default());
        let register_again = verdicts.is_none();
        let verdicts = verdicts.unwrap_or_default().into_iter().map(verdict).collect();
        Ok(Response::new(v1::HeartbeatReply { verdicts, register_again }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, Status> {
        let (_, from, r) = request.into_parts();
        let holder = holder(&r.agent, &r.slot).map_err(ServiceError::from)?;
        self.confine(&from, &holder.agent)?;
        let trial = wire::trial(r.trial).map_err(ServiceError::from)?;
        let attempt = r.attempt.try_into().map_err(WireError::from).map_err(ServiceError::from)?;
        let record = Record::from_json(&r.record_json).map_err(ServiceError::BadRequest)?;
        self.confine(&from, &record.machine.agent)?;
        if record.trial != trial || record.attempt != attempt || record.settings.id() != trial.cell {
            let text = format!(
                "the record is of trial {} attempt {}, not of {trial} attempt {attempt}",
                record.trial, record.attempt
            );
            return Err(ServiceError::BadRequest(text).into());
        }
        let span = span(&trial, attempt, &holder);
        let report = Report { holder, trial, attempt, record, json: r.record_json };
        let reported = self.take(report, &from).instrument(span).await?;
        let outcome = match reported {
            Reported::Recorded => v1::report_reply::Outcome::Recorded,
            Reported::AlreadyRecorded => v1::report_reply::Outcome::AlreadyRecorded,
            Reported::Superseded => v1::report_reply::Outcome::Superseded,
            Reported::NotWanted => v1::report_reply::Outcome::NotWanted,
        };
        Ok(Response::new(v1::ReportReply { outcome: outcome.into() }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseReply>, Status> {
        let (_, from, r) = request.into_parts();
        let agent: AgentId = r.agent.parse().map_err(WireError::from).map_err(ServiceError::from)?;
        self.confine(&from, &agent)?;
        let lease = r.lease.ok_or(WireError::Missing("a lease")).map_err(ServiceError::from)?;
        let (trial, attempt, holder) = wire::lease(&agent, lease).map_err(ServiceError::from)?;
        let reason = r.reason;
        self.own(&trial, attempt, &from).await?;
        span(&trial, attempt, &holder).in_scope(|| tracing::info!(reason, "a lease is given back"));
        self.driver
            .ask(|token| Input::Release { token, holder, trial, attempt, reason })
            .await
            .map_err(ServiceError::from)?;
        Ok(Response::new(v1::ReleaseReply {}))
    }

    async fn wasted(&self, request: Request<v1::WastedRequest>) -> Result<Response<v1::WastedReply>, Status> {
        let (_, from, r) = request.into_parts();
        let agent = Caller::of(&from).agent();
        let wastes = r
            .waste_json
            .into_iter()
            .map(|document| {
                let waste = Waste::from_json(&document).map_err(ServiceError::BadRequest)?;
                self.confine(&from, &waste.agent)?;
                Ok((waste.trial, waste.attempt, document))
            })
            .collect::<Result<_, ServiceError>>()?;
        let reply =
            self.driver.ask(|token| Input::Wasted { token, agent, wastes }).await.map_err(ServiceError::from)?;
        match reply {
            Reply::Noted => Ok(Response::new(v1::WastedReply {})),
            other => Err(self.unexpected(&from, &other).into()),
        }
    }

    type SamplesStream = Pin<Box<dyn Stream<Item = Result<v1::SampleAck, Status>> + Send>>;

    async fn samples(
        &self,
        request: Request<Streaming<v1::SampleBatch>>,
    ) -> Result<Response<Self::SamplesStream>, Status> {
        let sender = Sender::of(&request);
        let (_, from, mut batches) = request.into_parts();
        let service = self.clone();
        // Few, so that an agent that does not read its acknowledgements is slowed down rather than served ahead.
        let (acks, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut known = None;
            while let Some(batch) = batches.next().await {
                let ack = match batch {
                    Ok(batch) => service.store(batch, &sender, &from, &mut known).await,
                    // The agent opens another and sends again what was not acknowledged.
                    Err(status) => {
                        if status.code() == tonic::Code::OutOfRange {
                            service.counts.refused(fleet_secure::server::Refused::MessageTooLarge);
                        }
                        let (agent, slot) = (&sender.agent, &sender.slot);
                        return tracing::debug!(agent, slot, message = status.message(), "a sample stream broke");
                    }
                };
                let failed = ack.is_err();
                if acks.send(ack.map_err(Status::from)).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
