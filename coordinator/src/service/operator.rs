//! What people's commands call.

use std::pin::Pin;
use std::time::Duration;

use fleet_common::id::{CampaignName, TrialId};
use fleet_common::plan::{DatasetIdentity, Resolution, plan};
use fleet_common::spec::{self, Backbone, DatasetName};
use fleet_common::wire::{self, WireError, v1};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::rpc::operator_server::Operator;
use super::{Service, ServiceError, slots};
use crate::core::{CampaignView, Input, Prepared, Refusal, Reply, Snapshot, Source};

/// How often a watcher is told of changes.
const WATCH_EVERY: Duration = Duration::from_millis(500);

pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn name(text: &str) -> Result<CampaignName, ServiceError> {
    Ok(text.parse().map_err(WireError::from)?)
}

impl Service {
    pub(super) async fn snapshot(&self, campaign: Option<CampaignName>) -> Result<Snapshot, ServiceError> {
        match self.driver.ask(|token| Input::Status(token, campaign)).await? {
            Reply::Status(snapshot) => Ok(*snapshot?),
            _ => Err(ServiceError::WrongAnswer),
        }
    }

    async fn describe(&self, campaign: CampaignName) -> Result<crate::core::Description, ServiceError> {
        match self.driver.ask(|token| Input::Describe(token, campaign)).await? {
            Reply::Described(description) => Ok(*description?),
            _ => Err(ServiceError::WrongAnswer),
        }
    }

    async fn change(&self, input: impl FnOnce(crate::core::Token) -> Input) -> Result<u64, ServiceError> {
        match self.driver.ask(input).await? {
            Reply::Changed(count) => Ok(count?),
            _ => Err(ServiceError::WrongAnswer),
        }
    }
}

fn resolution(
    datasets: Vec<v1::ResolvedDataset>,
    weights: Vec<v1::ResolvedWeights>,
) -> Result<Resolution, ServiceError> {
    let mut resolution = Resolution::default();
    for d in datasets {
        let name = DatasetName::try_from(d.name).map_err(ServiceError::BadRequest)?;
        let identity = DatasetIdentity { fingerprint: d.fingerprint, classes: d.classes, train: d.train, test: d.test };
        resolution.datasets.insert(name, Ok(identity));
    }
    for w in weights {
        let backbone = Backbone::try_from(w.backbone).map_err(ServiceError::BadRequest)?;
        resolution.weights.insert(backbone, w.sha256);
    }
    Ok(resolution)
}

#[tonic::async_trait]
impl Operator for Service {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let r = request.into_inner();
        let campaign =
            spec::Campaign::parse(&r.file_name, &r.toml).map_err(|e| ServiceError::BadRequest(e.to_string()))?;
        let resolution = resolution(r.datasets, r.weights)?;
        let toml = r.toml;
        let prepared = tokio::task::spawn_blocking(move || {
            let plan = plan(&campaign, &resolution);
            Box::new(Prepared::new(campaign, toml, plan))
        })
        .await
        .map_err(|e| ServiceError::Storage(e.to_string()))?;
        if prepared.plan.cells.is_empty() {
            let reasons: Vec<&str> = prepared.plan.excluded.iter().map(|e| e.reason.as_str()).collect();
            let text =
                format!("nothing of this campaign can run: {}", reasons.first().copied().unwrap_or("it is empty"));
            return Err(ServiceError::BadRequest(text).into());
        }
        let campaign = prepared.campaign.name.to_string();
        let excluded_json = prepared.plan.excluded.iter().map(fleet_common::canonical::json).collect();
        let warnings = prepared.plan.warnings.clone();
        let reply = self.driver.ask(|token| Input::Submit(token, prepared)).await.map_err(ServiceError::from)?;
        let Reply::Submitted(outcome) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        let (trials, new_trials) = outcome.map_err(ServiceError::from)?;
        tracing::info!(campaign, trials, new_trials, "a campaign was submitted");
        Ok(Response::new(v1::SubmitReply { campaign, trials, new_trials, excluded_json, warnings }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let campaign = request.into_inner().campaign.as_deref().map(name).transpose()?;
        let storage_problems = self.driver.health().problems();
        Ok(Response::new(v1::StatusReply { storage_problems, ..status_reply(self.snapshot(campaign).await?) }))
    }

    type WatchStream = Answers<v1::StatusReply>;

    async fn watch(&self, request: Request<v1::StatusRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let campaign = request.into_inner().campaign.as_deref().map(name).transpose()?;
        let first = self.snapshot(campaign.clone()).await?;
        if let (Some(name), true) = (&campaign, first.campaigns.is_empty()) {
            return Err(ServiceError::Refused(Refusal::Imported { name: name.clone() }).into());
        }
        let (sender, receiver) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move {
            let mut snapshot = first;
            let mut told = None;
            loop {
                let over = campaign.is_some() && snapshot.campaigns.iter().all(is_over);
                let reply = status_reply(snapshot);
                if told.as_ref() != Some(&reply) && sender.send(Ok(reply.clone())).await.is_err() {
                    return;
                }
                told = Some(reply);
                if over {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                    () = sender.closed() => return,
                }
                snapshot = match service.snapshot(campaign.clone()).await {
                    Ok(snapshot) => snapshot,
                    Err(error) => {
                        let _ = sender.send(Err(error.into())).await;
                        return;
                    }
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn campaign(&self, request: Request<v1::CampaignRequest>) -> Result<Response<v1::CampaignReply>, Status> {
        let name = name(&request.into_inner().campaign)?;
        let description = self.describe(name.clone()).await?;
        let campaign = description.campaign;
        Ok(Response::new(v1::CampaignReply {
            campaign: name.to_string(),
            toml: campaign.toml,
            trials: campaign.trials.len() as u64,
            excluded_json: campaign.excluded_json,
            warnings: campaign.warnings,
            given_up: description
                .given_up
                .into_iter()
                .map(|(trial, label, reason)| v1::GivenUp { trial: Some((&trial).into()), label, reason })
                .collect(),
            wasted_json: description.wasted,
        }))
    }

    type RecordsStream = Answers<v1::RecordMessage>;

    async fn records(&self, request: Request<v1::RecordsRequest>) -> Result<Response<Self::RecordsStream>, Status> {
        let name = name(&request.into_inner().campaign)?;
        let source = match self.driver.ask(|token| Input::Locate(token, name)).await.map_err(ServiceError::from)? {
            Reply::Located(source) => source.map_err(ServiceError::from)?,
            _ => return Err(ServiceError::WrongAnswer.into()),
        };
        let (sender, receiver) = mpsc::channel(16);
        let index = self.index.clone();
        tokio::task::spawn_blocking(move || {
            let send = |message: Result<v1::RecordMessage, ServiceError>| {
                let failed = message.is_err();
                sender.blocking_send(message.map_err(Status::from)).is_ok() && !failed
            };
            match source {
                Source::Campaign(trials) => {
                    trials.iter().flat_map(|trial| messages(index.as_ref(), trial)).all(send);
                }
                Source::Imported(set) => {
                    (0..set.records).map(|number| imported(index.as_ref(), &set.content, number)).all(send);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type SampledAttemptsStream = Answers<v1::SampledAttempt>;

    async fn sampled_attempts(
        &self,
        request: Request<v1::SampledAttemptsRequest>,
    ) -> Result<Response<Self::SampledAttemptsStream>, Status> {
        let name = name(&request.into_inner().campaign)?;
        Ok(Response::new(self.sampled(name).await?))
    }

    type TrialSamplesStream = Answers<v1::SampleBatch>;

    async fn trial_samples(
        &self,
        request: Request<v1::TrialSamplesRequest>,
    ) -> Result<Response<Self::TrialSamplesStream>, Status> {
        let r = request.into_inner();
        let trial = wire::trial(r.trial).map_err(ServiceError::from)?;
        let attempt = r.attempt.try_into().map_err(WireError::from).map_err(ServiceError::from)?;
        Ok(Response::new(self.samples_of(trial, attempt)?))
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::RetryReply>, Status> {
        let v1::RetryRequest { campaign, failed, missing } = request.into_inner();
        let campaign = name(&campaign)?;
        let trials = self.change(|token| Input::Retry { token, campaign, failed, missing }).await?;
        Ok(Response::new(v1::RetryReply { trials }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        let campaign = name(&request.into_inner().campaign)?;
        let trials = self.change(|token| Input::Cancel(token, campaign)).await?;
        Ok(Response::new(v1::CancelReply { trials }))
    }

    async fn import(
        &self,
        request: Request<tonic::Streaming<v1::ImportChunk>>,
    ) -> Result<Response<v1::ImportReply>, Status> {
        let (name, file_name, set) = super::import::receive(request.into_inner()).await?;
        let set_name = name.to_string();
        let import = |token| Input::Import { token, name, file_name, set };
        let reply = self.driver.ask(import).await.map_err(ServiceError::from)?;
        let Reply::Imported(outcome) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        let (records, new) = outcome.map_err(ServiceError::from)?;
        tracing::info!(set = set_name, records, new, "records were imported");
        Ok(Response::new(v1::ImportReply { records, new }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainReply>, Status> {
        let what = request.into_inner().what;
        let reply = self.driver.ask(|token| Input::Explain(token, what)).await.map_err(ServiceError::from)?;
        let Reply::Explained(outcome) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        let explained = outcome.map_err(ServiceError::from)?;
        let trial_json = explained.iter().map(|e| fleet_common::canonical::json(e).into_bytes()).collect();
        Ok(Response::new(v1::ExplainReply { trial_json }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        let v1::DrainRequest { agent, slot, reason, now } = request.into_inner();
        let (agent, slot) = slots::named(&agent, &slot).map_err(ServiceError::from)?;
        let reason = slots::plain(&reason);
        tracing::info!(%agent, slot = slot.as_ref().map_or("all", |s| s.as_str()), reason, now, "slots are drained");
        self.drained(|token| Input::Drain { token, agent, slot, reason, now }).await
    }

    async fn undrain(&self, request: Request<v1::UndrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        let v1::UndrainRequest { agent, slot } = request.into_inner();
        let (agent, slot) = slots::named(&agent, &slot).map_err(ServiceError::from)?;
        tracing::info!(%agent, slot = slot.as_ref().map_or("all", |s| s.as_str()), "slots are undrained");
        self.drained(|token| Input::Undrain { token, agent, slot }).await
    }

    type BackupStream = Answers<v1::BackupPart>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Ok(Response::new(self.backed_up(request.into_inner()).await?))
    }
}

/// A record of an imported set. The coordinator has none of its samples.
fn imported(index: &dyn crate::store::Index, content: &str, number: u64) -> Result<v1::RecordMessage, ServiceError> {
    let record_json = index.imported(content, number).map_err(|e| ServiceError::Storage(e.to_string()))?;
    Ok(v1::RecordMessage { record_json, samples_stored: 0, samples_missing: 0, superseded: false })
}

/// A trial's record, if it has one, and its late reports.
fn messages(index: &dyn crate::store::Index, trial: &TrialId) -> Vec<Result<v1::RecordMessage, ServiceError>> {
    let storage = |e: crate::store::IndexError| ServiceError::Storage(e.to_string());
    let mut messages = Vec::new();
    match index.record(trial) {
        Ok(Some(stored)) => messages.push(Ok(v1::RecordMessage {
            record_json: stored.record,
            samples_stored: stored.seal.stored,
            samples_missing: stored.seal.missing,
            superseded: false,
        })),
        Ok(None) => {}
        Err(e) => messages.push(Err(storage(e))),
    }
    match index.superseded(trial) {
        Ok(late) => messages.extend(late.into_iter().map(|(_, record_json)| {
            Ok(v1::RecordMessage { record_json, samples_stored: 0, samples_missing: 0, superseded: true })
        })),
        Err(e) => messages.push(Err(storage(e))),
    }
    messages
}

fn is_over(campaign: &CampaignView) -> bool {
    campaign.waiting == 0 && campaign.running.is_empty()
}

fn status_reply(snapshot: Snapshot) -> v1::StatusReply {
    let campaigns = snapshot
        .campaigns
        .into_iter()
        .map(|c| v1::CampaignStatus {
            name: c.name.into(),
            submitted_unix_ms: c.submitted_unix_ms,
            waiting: c.waiting,
            leased: c.running.len() as u64,
            finished: c
                .finished
                .into_iter()
                .map(|(class, count)| v1::OutcomeCount { class: class.name().to_owned(), count })
                .collect(),
            cancelled: c.cancelled,
            running: c
                .running
                .into_iter()
                .map(|r| v1::RunningTrial {
                    trial: Some((&r.trial).into()),
                    attempt: r.attempt.map_or(0, |a| a.get()),
                    agent: r.holder.agent.into(),
                    slot: r.holder.slot.into(),
                    label: r.label,
                    phase: r.progress.phase,
                    done: r.progress.done,
                    of: r.progress.of,
                    loss: r.progress.loss,
                    running_ms: r.running_ms,
                })
                .collect(),
            waits: c.waits.into_iter().map(|(reason, count)| v1::WaitReason { reason, count }).collect(),
            eta: c.eta.map(slots::eta),
            priority: c.priority.get().into(),
        })
        .collect();
    let agents = snapshot
        .agents
        .into_iter()
        .map(|a| v1::AgentStatus {
            agent: a.agent.into(),
            host: a.host,
            version: a.version,
            slots: a.slots.into_iter().map(slots::to_wire).collect(),
            silent_ms: a.silent_ms,
            states: a.states.into_iter().map(slots::state).collect(),
        })
        .collect();
    let imported = snapshot
        .imported
        .into_iter()
        .map(|(name, set)| v1::ImportedStatus {
            name: name.into(),
            records: set.records,
            file_name: set.file_name,
            imported_unix_ms: set.imported_unix_ms,
        })
        .collect();
    v1::StatusReply { campaigns, agents, imported, ..Default::default() }
}
