//! Simulated agents: eight slots and one connection each, introduced, leased to and heard of as real ones are. Only what
//! would happen in a slot does not.

use std::time::Duration;

use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use fleet_coordinator::service::rpc::agents_client::AgentsClient;
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};

use super::Load;

/// Slots of one agent: as many as the largest common machine has GPUs.
const SLOTS: usize = 8;
/// Heartbeats carry progress to people who watch, as those of real agents do.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A trial that a simulated slot holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its agent's connection.
    pub client: AgentsClient<Channel>,
    /// Which.
    pub trial: v1::TrialId,
    /// Under which attempt.
    pub attempt: u32,
}

/// Agents that hold trials, and renew their leases until this is dropped.
pub struct Machines {
    /// One per slot.
    pub held: Vec<Held>,
    /// How many connections there are.
    pub connections: usize,
    _heartbeats: JoinSet<()>,
}

/// A campaign of that many short trials on data that nobody will read.
fn campaign(trials: usize) -> String {
    let seeds: Vec<String> = (0..trials).map(|seed| seed.to_string()).collect();
    format!(
        "name = \"load\"\nseeds = [{}]\nbudget = \"1GiB\"\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
         dataset = \"textures\"\n[train]\nsteps = 4\nbatch = 4\nwarm_up_steps = 1\n",
        seeds.join(", ")
    )
}

impl Machines {
    /// Submits a campaign, and has agents ask for its trials until each slot has one.
    ///
    /// # Errors
    /// The coordinator refuses something; it is said what.
    pub async fn start(url: &str, load: &Load) -> Result<Self, String> {
        let operator = Endpoint::from_shared(url.to_owned()).map_err(|e| e.to_string())?;
        let channel = operator.connect().await.map_err(|e| format!("cannot connect to {url}: {e}"))?;
        let textures = v1::ResolvedDataset {
            name: "textures".to_owned(),
            fingerprint: "ab".repeat(32),
            classes: 8,
            train: 48,
            test: 24,
        };
        let submitted = OperatorClient::new(channel)
            .submit(v1::SubmitRequest {
                file_name: "load.toml".to_owned(),
                toml: campaign(load.trials),
                datasets: vec![textures],
                weights: vec![],
            })
            .await
            .map_err(said)?
            .into_inner();
        if submitted.trials != load.trials as u64 {
            return Err(format!("expected a campaign of {} trials, found {}", load.trials, submitted.trials));
        }
        let mut machines = Self { held: Vec::new(), connections: 0, _heartbeats: JoinSet::new() };
        while machines.held.len() < load.trials {
            let slots = SLOTS.min(load.trials - machines.held.len());
            machines.add(url, slots, load.plain).await?;
        }
        Ok(machines)
    }

    /// Adds an agent, all of whose slots get a trial.
    async fn add(&mut self, url: &str, slots: usize, plain: bool) -> Result<(), String> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| e.to_string())?;
        let channel = endpoint.connect().await.map_err(|e| format!("cannot connect to {url}: {e}"))?;
        let mut client = AgentsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let agent = format!("simulated-{}", self.connections);
        self.connections += 1;
        let slots: Vec<String> = (0..slots).map(|n| format!("cuda:{n}")).collect();
        let of = |slot: &String| v1::Slot {
            slot: slot.clone(),
            hardware: "Simulated GPU (8 GiB)".to_owned(),
            memory_bytes: 8 << 30,
            ..Default::default()
        };
        let request = v1::RegisterRequest {
            agent: agent.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: agent.clone(),
            slots: slots.iter().map(of).collect(),
            ..v1::RegisterRequest::default()
        };
        client.register(request).await.map_err(said)?;
        let mut progress = Vec::new();
        for slot in slots {
            let request = v1::PullRequest { agent: agent.clone(), slot: slot.clone(), wait_ms: 10_000 };
            let lease = client.pull(request).await.map_err(said)?.into_inner().lease;
            let Some(v1::Lease { trial: Some(trial), attempt, .. }) = lease else {
                return Err(format!("expected a trial for {agent} {slot}, found none"));
            };
            let phase = "train".to_owned();
            let trial_id = Some(trial.clone());
            progress.push(v1::Progress { trial: trial_id, attempt, slot, phase, done: 1, of: 4, loss: None });
            let compressed = client.clone().send_compressed(CompressionEncoding::Zstd);
            let client = if plain { client.clone() } else { compressed };
            self.held.push(Held { client, trial, attempt });
        }
        self._heartbeats.spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                let request = v1::HeartbeatRequest {
                    agent: agent.clone(),
                    progress: progress.clone(),
                    ..v1::HeartbeatRequest::default()
                };
                // One that is lost is made up for by the next.
                let _ = client.heartbeat(request).await;
            }
        });
        Ok(())
    }
}

/// What the coordinator said.
pub(super) fn said(status: tonic::Status) -> String {
    format!("the coordinator says: {} ({:?})", status.message(), status.code())
}
