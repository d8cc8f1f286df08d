//! The artifact store as an agent uses it: states of trials on their way to wherever they may go on, and trained
//! weights that are to be kept.
//!
//! Where the store is, the coordinator says when the agent introduces itself, unless `--artifacts` does. Every artifact
//! can go through the coordinator; where there is an S3-compatible store, agents talk to that one first.

mod bundle;
mod direct;
mod handover;
mod keep;
mod leftovers;
mod relay;
mod takeover;

use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use fleet_artifacts::{Name, Pace, Store};
use fleet_common::id::{Attempt, TrialId};
use fleet_common::wire::v1;
use fleet_secure::client::Link;

use direct::Direct;
#[cfg(test)]
pub(super) use handover::note_acknowledged;
pub(super) use handover::{Handover, Sent, acknowledged};
pub(super) use keep::keep;
pub(super) use leftovers::hand_over_leftovers;
pub(super) use takeover::take_over;

use super::rpc::artifacts_client::ArtifactsClient;
use crate::half::backoff::Backoff;
use crate::metrics::Metrics;

/// Where artifacts are to go.
#[derive(Debug, Clone)]
pub enum Place {
    /// Wherever the coordinator says.
    Told,
    /// Through the coordinator.
    Coordinator,
    /// Nowhere: trials go on only here.
    Nowhere,
    /// There. It has to be the coordinator's store, under the address that it has from here.
    Store(Store),
}

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "told" => Ok(Self::Told),
            "coordinator" => Ok(Self::Coordinator),
            "none" => Ok(Self::Nowhere),
            address => Store::open(address)
                .map(Self::Store)
                .map_err(|e| format!("{e}; or \"coordinator\" to go through it, or \"none\"")),
        }
    }
}

/// The attempt that an artifact is of.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) trial: TrialId,
    pub(super) attempt: Attempt,
}

/// Why the coordinator does not want a state.
#[derive(Debug)]
pub(super) struct NotWanted {
    pub(super) reason: String,
    /// Somebody else has gone on, or the trial has its record.
    pub(super) overtaken: bool,
}

/// The ways to the store.
pub(super) struct Artifacts {
    place: Place,
    client: ArtifactsClient<Link>,
    /// What the coordinator said.
    told: Mutex<Told>,
    direct: Direct,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Told {
    takes: bool,
    /// Its store, opened, and under which address.
    store: Option<(String, Store)>,
}

impl Artifacts {
    /// Through `channel` if not otherwise; no faster than `rate` bytes per second while trials run.
    pub(super) fn new(place: Place, channel: Link, rate: u64) -> Self {
        let client = relay::client(channel);
        Self { place, client, told: Mutex::default(), direct: Direct::default(), pace: Pace::bytes_per_second(rate) }
    }

    /// The coordinator has introduced itself.
    pub(super) fn heed(&self, reply: &v1::RegisterReply) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.takes = reply.takes_artifacts;
        if told.store.as_ref().map(|(address, _)| address) == reply.artifact_store.as_ref() {
            return;
        }
        told.store = reply.artifact_store.clone().and_then(|address| match Store::open(&address) {
            Ok(store) => Some((address, store)),
            Err(error) => {
                tracing::warn!(%error, "the coordinator's artifact store cannot be opened from here; going through the coordinator");
                None
            }
        });
    }

    /// The store to talk to, and whether the coordinator takes artifacts itself; `None` if there is no way.
    fn ways(&self) -> Option<(Option<Store>, bool)> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let ways = match &self.place {
            Place::Nowhere => (None, false),
            Place::Coordinator => (None, told.takes),
            Place::Told => (told.store.as_ref().map(|(_, store)| store.clone()).filter(|_| told.takes), told.takes),
            // A coordinator that knows nothing of artifacts cannot be told of them either.
            Place::Store(store) => (Some(store.clone()).filter(|_| told.takes), told.takes),
        };
        (ways.0.is_some() || ways.1).then_some(ways)
    }

    /// Whether there is a store.
    pub(super) fn is_there(&self) -> bool {
        self.ways().is_some()
    }

    /// Transfers beside trials are limited until this is called: when none is left to be disturbed.
    pub(super) fn hurry(&self) {
        self.pace.lift();
    }

    /// Puts a file there; returns its length.
    ///
    /// # Errors
    /// No way leads there, or none works.
    pub(super) async fn put(&self, name: &Name, file: &Path, whose: &Whose) -> anyhow::Result<u64> {
        let (store, relayed) = self.ways().context("there is no artifact store")?;
        if let Some(store) = self.direct.or_not(store, relayed, name).await {
            match store.put_file(name, file, &self.pace).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if !relayed => return Err(error.into()),
                Err(error) => self.direct.failed(&error),
            }
        }
        relay::put(self.client.clone(), name, file, whose, &self.pace).await
    }

    /// Gets a file from there; returns its length.
    ///
    /// # Errors
    /// No way leads there, or none works, or what is there is damaged.
    pub(super) async fn get(&self, name: &Name, target: &Path) -> anyhow::Result<u64> {
        let (store, relayed) = self.ways().context("there is no artifact store")?;
        if let Some(store) = self.direct.or_not(store, relayed, name).await {
            match store.get_to_file(name, target).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if !relayed => return Err(error.into()),
                Err(error) => self.direct.failed(&error),
            }
        }
        relay::get(self.client.clone(), name, target).await
    }

    /// Tells that a state is there; `Ok(Err(_))` if the coordinator does not want it.
    async fn tell(&self, request: v1::SavedRequest) -> Result<Result<(), NotWanted>, tonic::Status> {
        let reply = super::connection::answer(self.client.clone().saved(request)).await?.into_inner();
        let v1::SavedReply { accepted, reason, overtaken } = reply;
        Ok(if accepted { Ok(()) } else { Err(NotWanted { reason, overtaken }) })
    }
}

/// Waits before the next try.
async fn pause(backoff: &mut Backoff) {
    let wait = backoff.step_by(&mut rand::rng());
    tokio::time::sleep(wait).await;
}

/// Counts what went to the store.
fn count_sent(metrics: &Metrics, bytes: u64) {
    metrics.counts.artifacts_sent.inc();
    metrics.counts.artifact_bytes_sent.inc_by(bytes);
}
