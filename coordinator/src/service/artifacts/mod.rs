//! The artifact store as agents and people reach it through the coordinator: files in parts, checked by their names.

mod incoming;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_artifacts::{Name, Store, StoreError};
use fleet_common::id::TrialId;
use fleet_common::lease::Holder;
use fleet_common::wire::{self, MAX_MESSAGE_BYTES, WireError, v1};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::Extensions;
use tonic::{Request, Response, Status, Streaming};

use self::incoming::Incoming;
use super::rpc::artifacts_server::{Artifacts as Rpc, ArtifactsServer};
use super::{Service, ServiceError};
use crate::core::{Input, Reply, Resumable, Saved};
use crate::security::Caller;

/// Bytes per message on the way out.
const PART: usize = 256 << 10;
/// Bytes per message on the way in, at most.
const LARGEST_PART: usize = 1 << 20;
/// Messages that wait for an asker who reads slowly.
const AHEAD: usize = 4;
/// An upload of which nothing comes for so long is over; what has come is kept.
const SILENCE: Duration = Duration::from_secs(60);

/// The service, on the folder or store that the artifacts are in.
#[derive(Clone)]
pub struct Artifacts {
    service: Service,
    store: Store,
    incoming: Arc<Incoming>,
    /// Where agents put artifacts themselves.
    direct: Option<String>,
    /// Names of the states that were wanted when somebody last looked, and since.
    wanted: Arc<Mutex<HashSet<String>>>,
}

impl Artifacts {
    /// The store at `address`, or the folder `artifacts` in the state folder. What arrives is collected in the state
    /// folder until it is whole.
    ///
    /// # Errors
    /// It is no address, or a folder cannot be made.
    pub fn open(service: Service, state: &Path, address: Option<&str>) -> Result<Self, StoreError> {
        let own = state.join("artifacts");
        let store = Store::open(&address.map_or_else(|| own.join("store").display().to_string(), str::to_owned))?;
        // A folder is this machine's; whoever is told of it would make one of the same name on his own.
        let direct = address.filter(|address| address.starts_with("s3")).map(str::to_owned);
        let incoming = Arc::new(Incoming::open(own.join("incoming"))?);
        Ok(Self { service, store, incoming, direct, wanted: Arc::default() })
    }

    /// The address that agents are to talk to themselves, if there is one.
    pub fn direct(&self) -> Option<String> {
        self.direct.clone()
    }

    /// Where artifacts are, for people.
    pub fn place(&self) -> String {
        self.store.to_string()
    }

    /// The service for agents and people's commands.
    pub fn server(&self) -> ArtifactsServer<Self> {
        ArtifactsServer::new(self.clone())
            .max_decoding_message_size(LARGEST_PART + (64 << 10))
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// An upload's first message, checked: what it is of must have been granted to its sender, and its folder is its
    /// trial's.
    async fn begin(&self, upload: &v1::ArtifactUpload, from: &Extensions) -> Result<Name, Status> {
        let name = name(&upload.name)?;
        let trial = wire::trial(upload.trial.clone()).map_err(ServiceError::from)?;
        let attempt = upload.attempt.try_into().map_err(WireError::from).map_err(ServiceError::from)?;
        belongs(&name, &trial)?;
        if !self.service.knows(trial.clone(), attempt, from).await? {
            return Err(Status::permission_denied(format!(
                "trial {trial} was never granted as attempt {attempt} here"
            )));
        }
        Ok(name)
    }

    /// An agent reads what a trial of its own goes on from, and nothing else.
    async fn confine_reading(&self, name: &Name, from: &Extensions) -> Result<(), ServiceError> {
        let Some(agent) = Caller::of(from).agent() else { return Ok(()) };
        let artifact = name.to_string();
        match self.service.driver.ask(|token| Input::MayRead { token, agent, artifact }).await? {
            Reply::MayRead(true) => Ok(()),
            Reply::MayRead(false) => Err(self.service.not_its_own(from, format!("{name} is of no trial that it has"))),
            _ => Err(ServiceError::WrongAnswer),
        }
    }

    /// Into the store, if its content is right.
    async fn complete(&self, name: &Name, bytes: u64) -> Result<(), Status> {
        let file = self.incoming.file(name);
        let stored = self.store.put_file(name, &file, &fleet_artifacts::Pace::unlimited()).await;
        if !stored.as_ref().is_err_and(StoreError::is_temporary) {
            self.incoming.remove(name);
        }
        stored.map_err(status)?;
        tracing::debug!(%name, bytes, "an artifact is in the store");
        Ok(())
    }

    /// Removes what nobody wants any more, beside whatever else is going on. What cannot be removed now is swept later.
    fn forget(&self, artifact: &str) {
        let Ok(name) = artifact.parse::<Name>() else { return };
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.remove(&name).await {
                tracing::warn!(%error, %name, "a state that nobody wants could not be removed; trying again later");
            }
        });
    }
}

fn name(text: &str) -> Result<Name, Status> {
    text.parse().map_err(|e: fleet_artifacts::NameError| Status::invalid_argument(e.to_string()))
}

/// `states/TRIAL` or `kept/TRIAL`: an agent writes into the folders of its trials only.
fn belongs(name: &Name, trial: &TrialId) -> Result<(), Status> {
    let stem = trial.file_stem();
    let is_right = matches!(name.folder().split_once('/'), Some(("states" | "kept", of)) if of == stem);
    match is_right {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "expected an artifact in states/{stem} or kept/{stem}, found {}",
            name.folder()
        ))),
    }
}

fn status(error: StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Absent { .. } => Status::not_found(text),
        StoreError::Damaged { .. } => Status::data_loss(text),
        StoreError::Address { .. } => Status::invalid_argument(text),
        StoreError::File { .. } => Status::resource_exhausted(text),
        StoreError::TooLarge { .. } => Status::invalid_argument(text),
        StoreError::Open { .. } | StoreError::Refused { .. } | StoreError::Unavailable { .. } => {
            Status::unavailable(text)
        }
    }
}

#[tonic::async_trait]
impl Rpc for Artifacts {
    async fn standing(&self, request: Request<v1::StandingRequest>) -> Result<Response<v1::ArtifactStanding>, Status> {
        let name = name(&request.into_inner().name)?;
        let standing = match self.store.size(&name).await.map_err(status)? {
            Some(bytes) => v1::ArtifactStanding { complete: true, bytes },
            None => v1::ArtifactStanding { complete: false, bytes: self.incoming.length(&name) },
        };
        Ok(Response::new(standing))
    }

    async fn put(
        &self,
        request: Request<Streaming<v1::ArtifactPart>>,
    ) -> Result<Response<v1::ArtifactStanding>, Status> {
        let (_, from, mut parts) = request.into_parts();
        let first = next(&mut parts).await?.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let upload = first.upload.ok_or_else(|| Status::invalid_argument("the first message lacks the upload"))?;
        let name = self.begin(&upload, &from).await?;
        if self.store.size(&name).await.map_err(status)? == Some(upload.bytes) {
            return Ok(Response::new(v1::ArtifactStanding { complete: true, bytes: upload.bytes }));
        }
        // Its room is its own until the store has it, too.
        let mut file = self.incoming.begin(&name, upload.offset, upload.bytes)?;
        file.write(&first.data).await?;
        while let Some(part) = next(&mut parts).await? {
            file.write(&part.data).await?;
        }
        let bytes = file.end().await?;
        let complete = bytes == upload.bytes;
        if complete {
            self.complete(&name, bytes).await?;
        }
        Ok(Response::new(v1::ArtifactStanding { complete, bytes }))
    }

    type GetStream = ReceiverStream<Result<v1::ArtifactBytes, Status>>;

    async fn get(&self, request: Request<v1::GetArtifactRequest>) -> Result<Response<Self::GetStream>, Status> {
        let (_, extensions, v1::GetArtifactRequest { name: text, from }) = request.into_parts();
        let name = name(&text)?;
        self.confine_reading(&name, &extensions).await?;
        let whole = self.store.size(&name).await.map_err(status)?;
        let whole = whole.ok_or_else(|| Status::not_found(format!("{name} is not in the store {}", self.store)))?;
        if from > whole {
            return Err(Status::failed_precondition(format!("{name} has {whole} bytes, and {from} were skipped")));
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        let first = v1::ArtifactBytes { data: Vec::new(), whole: Some(whole) };
        let bytes = if from < whole { Some(self.store.read(&name, from).await.map_err(status)?) } else { None };
        tokio::spawn(async move {
            if sender.send(Ok(first)).await.is_err() {
                return;
            }
            let Some(mut bytes) = bytes else { return };
            // Stores hand out what they happen to have; small messages would cost more than what they carry.
            let mut data = Vec::with_capacity(PART);
            loop {
                let more = bytes.next().await;
                let has_ended = more.is_none();
                match more.transpose() {
                    Ok(chunk) => data.extend_from_slice(&chunk.unwrap_or_default()),
                    Err(error) => {
                        let _ = sender.send(Err(status(error))).await;
                        return;
                    }
                }
                while data.len() >= PART || (has_ended && !data.is_empty()) {
                    let rest = data.split_off(data.len().min(PART));
                    let message = v1::ArtifactBytes { data: std::mem::replace(&mut data, rest), whole: None };
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                if has_ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn saved(&self, request: Request<v1::SavedRequest>) -> Result<Response<v1::SavedReply>, Status> {
        let (_, from, r) = request.into_parts();
        let wrong = |e: WireError| Status::from(ServiceError::from(e));
        let trial = wire::trial(r.trial).map_err(wrong)?;
        let agent = r.agent.parse().map_err(WireError::from).map_err(wrong)?;
        let slot = r.slot.parse().map_err(WireError::from).map_err(wrong)?;
        let holder = Holder { agent, slot };
        self.service.confine(&from, &holder.agent)?;
        let state: Resumable =
            r.state.ok_or(WireError::Missing("a state")).and_then(TryInto::try_into).map_err(wrong)?;
        let name = name(&state.artifact)?;
        belongs(&name, &trial)?;
        self.service.own(&trial, state.attempt, &from).await?;
        // What is not there must not be offered: an agent may have been told of another store than ours.
        if self.store.size(&name).await.map_err(status)? != Some(state.bytes) {
            return Err(Status::failed_precondition(format!(
                "expected {name} with {} bytes in the store {}, found none; does the agent's --artifacts name the same store?",
                state.bytes, self.store
            )));
        }
        let (step, artifact) = (state.step, state.artifact.clone());
        // Before it is noted, so that no sweep removes it in between; and its trial may have ended before anybody looks.
        let known = || self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = known().insert(artifact.clone());
        let answer = self.service.driver.ask(|token| Input::Saved { token, holder, trial, state });
        let Reply::Saved(saved) = answer.await.map_err(ServiceError::from)? else {
            return Err(ServiceError::WrongAnswer.into());
        };
        let (accepted, reason, overtaken) = match saved {
            Saved::Noted { replaced } => {
                tracing::debug!(%name, step, "a state is in the artifact store");
                replaced.iter().for_each(|artifact| self.forget(artifact));
                (true, String::new(), false)
            }
            // It stays until it is swept: who tells of it may be wrong about whose it is.
            Saved::NotWanted { reason, overtaken } => {
                if is_new {
                    known().remove(&artifact);
                }
                (false, reason, overtaken)
            }
            // It is told of again.
            Saved::TooSoon => return Err(Status::resource_exhausted("states of this trial come too fast")),
        };
        Ok(Response::new(v1::SavedReply { accepted, reason, overtaken }))
    }
}

/// The next message of an upload, in time.
async fn next(parts: &mut Streaming<v1::ArtifactPart>) -> Result<Option<v1::ArtifactPart>, Status> {
    let part = tokio::time::timeout(SILENCE, parts.message()).await;
    part.unwrap_or_else(|_| Err(Status::deadline_exceeded("nothing came for a minute; what has come is kept")))
}
