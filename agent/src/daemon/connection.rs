//! Talking to the coordinator: introducing ourselves, renewing leases.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::backoff::Backoff;
use super::rpc::agents_client::AgentsClient;
use super::{Shared, trial::Running};

/// Heartbeats carry progress to people who watch, so they come more often than leases need.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// A connection that is made when it is first used and again whenever it is lost.
///
/// # Errors
/// The address is not one.
pub(super) fn channel(coordinator: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(coordinator.to_owned())
        .ok()
        .filter(|e| e.uri().scheme().is_some() && e.uri().authority().is_some())
        .with_context(|| format!("expected the coordinator's address as http://HOST:PORT, found \"{coordinator}\""))?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        // A cable that was pulled out is noticed by silence alone.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .connect_lazy())
}

/// A client on such a connection.
///
/// # Errors
/// The address is not one.
pub fn connect(coordinator: &str) -> anyhow::Result<AgentsClient<Channel>> {
    Ok(AgentsClient::new(channel(coordinator)?)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// An answer in time, or a failure: a coordinator that vanished without a word must not hold us for ever.
pub(super) async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
}

/// Introduces the agent, however long that takes.
///
/// Returns how often the coordinator wants to hear from it.
pub(super) async fn register(shared: &Shared) -> Duration {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let request = v1::RegisterRequest {
            agent: shared.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: shared.host.name.clone(),
            slots: shared
                .slots
                .iter()
                .map(|s| v1::Slot {
                    slot: s.id.to_string(),
                    hardware: s.hardware.to_string(),
                    memory_bytes: s.memory_bytes,
                })
                .collect(),
            held: shared.running().values().map(Running::held).collect(),
            content: shared.content_here(),
        };
        match answer(shared.client.clone().register(request)).await {
            Ok(reply) => {
                tracing::info!(agent = %shared.id, coordinator = shared.options.coordinator, "registered");
                shared.metrics.counts.heard();
                let reply = reply.into_inner();
                heed(shared, reply.verdicts);
                return Duration::from_millis(reply.heartbeat_every_ms.max(1));
            }
            Err(status) => {
                if !told {
                    tracing::warn!(
                        coordinator = shared.options.coordinator,
                        "the coordinator does not answer ({}); trying until it does",
                        status.message()
                    );
                    told = true;
                }
                backoff.wait().await;
            }
        }
    }
}

/// Renews all leases, at least every `wanted`, for as long as the daemon lives.
pub(super) async fn heartbeats(shared: Arc<Shared>, mut wanted: Duration) {
    // What the coordinator was told of content; what came since the introduction is told once more.
    let mut told = None;
    loop {
        tokio::time::sleep(wanted.min(HEARTBEAT)).await;
        let progress: Vec<v1::Progress> = shared.running().values().map(Running::progress).collect();
        let here = shared.content_here();
        let content = (told.as_ref() != Some(&here)).then(|| v1::ContentHere { items: here.clone() });
        let request = v1::HeartbeatRequest { agent: shared.id.to_string(), progress, content };
        match answer(shared.client.clone().heartbeat(request)).await {
            Ok(reply) => {
                shared.metrics.counts.heard();
                let reply = reply.into_inner();
                told = Some(here);
                if reply.register_again {
                    wanted = register(&shared).await;
                } else {
                    heed(&shared, reply.verdicts);
                }
            }
            // The next one may get through; the lease lasts a minute.
            Err(status) => {
                shared.metrics.counts.missed.inc();
                tracing::debug!(message = status.message(), "a heartbeat did not get through");
            }
        }
    }
}

/// Stops what the coordinator no longer wants.
fn heed(shared: &Shared, verdicts: Vec<v1::Verdict>) {
    for verdict in verdicts.into_iter().filter(|v| !v.keep) {
        let running = shared.running();
        let unwanted = running.values().find(|r| r.is(verdict.trial.as_ref(), verdict.attempt));
        if let Some(running) = unwanted {
            running.stop(verdict.reason);
        }
    }
}
