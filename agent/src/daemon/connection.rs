//! Talking to the coordinator: introducing ourselves, renewing leases.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use fleet_common::wire::{self, MAX_MESSAGE_BYTES, WireError, v1};
use fleet_content::Item;
use fleet_secure::client::{Link, endpoint};
use fleet_secure::join::keep_renewing;
use tonic::Status;

use super::identity::identity;
use super::rpc::agents_client::AgentsClient;
use super::{Shared, describe, trial::Running};
use crate::half::{Held, Told, Unwanted};

/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// The client of the coordinator's service for agents.
pub type Client = AgentsClient<Link>;

/// A connection that is made when it is first used and again whenever it is lost; to an https address with the
/// certificate in the state folder.
///
/// # Errors
/// The address is not one, or there is no certificate.
pub(super) fn link(coordinator: &str, state: &Path) -> anyhow::Result<Link> {
    let endpoint = endpoint(coordinator)?
        // A cable that was pulled out is noticed by silence alone.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    Ok(Link::new(endpoint, &identity(state))?)
}

/// A client on such a connection, whose certificate it renews in time.
///
/// # Errors
/// The address is not one, or there is no certificate.
pub fn connect(coordinator: &str, state: &Path) -> anyhow::Result<Client> {
    let link = link(coordinator, state)?;
    tokio::spawn(keep_renewing(link.clone()));
    Ok(AgentsClient::new(link)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// An answer in time, or a failure: a coordinator that vanished without a word must not hold us for ever.
pub(super) async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
}

/// Introduces the agent, claiming what it holds.
pub(super) async fn introduce(
    shared: &Shared,
    number: u64,
    held: Vec<Held>,
    here: &BTreeSet<Item>,
) -> Result<v1::RegisterReply, Status> {
    let request = v1::RegisterRequest {
        agent: shared.id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: shared.host.name.clone(),
        slots: shared.slots.iter().map(|slot| describe::slot(shared, slot)).collect(),
        held: held.iter().map(Into::into).collect(),
        number,
        content: names(here),
    };
    Ok(answer(shared.client.clone().register(request)).await?.into_inner())
}

fn names(here: &BTreeSet<Item>) -> Vec<String> {
    here.iter().map(Item::to_string).collect()
}

/// Renews what the agent holds, and says how far it is.
pub(super) async fn renew(shared: &Shared, held: Vec<Held>, told: Option<Told>) -> Result<v1::HeartbeatReply, Status> {
    let progress = {
        let running = shared.running();
        let of = |held: &Held| running.get(&held.slot).filter(|r| r.is(held)).map(Running::progress);
        // What has no place at work any more waits to be delivered or given back.
        held.iter().map(|held| of(held).unwrap_or_else(|| waiting(held))).collect()
    };
    let content = told.map(|told| v1::ContentHere { number: told.number, items: names(&told.here) });
    let request = v1::HeartbeatRequest { agent: shared.id.to_string(), progress, content };
    Ok(answer(shared.client.clone().heartbeat(request)).await?.into_inner())
}

fn waiting(held: &Held) -> v1::Progress {
    v1::Progress {
        trial: Some((&held.trial).into()),
        attempt: held.attempt.get(),
        slot: held.slot.to_string(),
        phase: "delivering".to_owned(),
        ..v1::Progress::default()
    }
}

/// The claims that the coordinator does not accept. One that cannot be read is none of ours.
pub(super) fn unwanted(verdicts: Vec<v1::Verdict>) -> Vec<Unwanted> {
    let refused = verdicts.into_iter().filter(|v| !v.keep);
    let parsed = refused.map(|v| {
        Ok::<_, WireError>(Unwanted { trial: wire::trial(v.trial)?, attempt: v.attempt.try_into()?, reason: v.reason })
    });
    parsed.filter_map(Result::ok).collect()
}

impl From<&Held> for v1::HeldLease {
    fn from(held: &Held) -> Self {
        Self { trial: Some((&held.trial).into()), attempt: held.attempt.get(), slot: held.slot.to_string() }
    }
}
