//! agents: who is here, with what, what is drained, and how more are started.

mod script;

use clap::{Args, Subcommand};
use comfy_table::{LineStyle, Table, TableStyle};
use fleet_common::id::{AgentId, SlotId};
use fleet_common::units::{self, Bytes};
use fleet_common::wire::v1;
use serde::Serialize;

use super::{Coordinator, Failure, Json, client, print_json};

/// `fleet agents`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Agents {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Gives an agent, or one of its slots, nothing new until it is undrained; also after a restart of the coordinator.
    /// Trials that run there end undisturbed, unless --now is said
    #[command(after_help = "Example: fleet agents drain lab-3f2a9c01/cuda:1 --reason \"new fan\"")]
    Drain(Drain),
    /// Opens an agent, or one of its slots, again
    #[command(after_help = "Example: fleet agents undrain lab-3f2a9c01")]
    Undrain(Undrain),
    /// Prints a file that starts agents, filled in: for systemd, Kubernetes, Slurm or containers.
    #[command(subcommand, after_help = script::EXAMPLES)]
    Script(Box<script::Script>),
}

/// An agent, or one of its slots.
#[derive(Debug, Clone)]
struct Whom {
    agent: AgentId,
    slot: Option<SlotId>,
}

impl std::str::FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (agent, slot) = text.split_once('/').map_or((text, None), |(agent, slot)| (agent, Some(slot)));
        let wrong = |e: fleet_common::id::IdError| {
            format!("{e}; expected AGENT or AGENT/SLOT as `fleet agents` shows them, such as lab-3f2a9c01/cuda:0")
        };
        Ok(Self { agent: agent.parse().map_err(wrong)?, slot: slot.map(str::parse).transpose().map_err(wrong)? })
    }
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.agent)?;
        self.slot.iter().try_for_each(|slot| write!(f, "/{slot}"))
    }
}

#[derive(Debug, Args)]
struct Drain {
    /// The agent, or one of its slots
    #[arg(value_name = "AGENT[/SLOT]")]
    whom: Whom,
    /// Why, for those who ask what a trial waits for
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Give back what runs there, too: it goes on elsewhere, or there once it is undrained
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
struct Undrain {
    /// The agent, or one of its slots
    #[arg(value_name = "AGENT[/SLOT]")]
    whom: Whom,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

/// The `--json` form of what changed.
#[derive(Serialize)]
struct DrainedDocument<'a> {
    schema: &'static str,
    agent: &'a str,
    slot: Option<&'a str>,
    slots: u64,
    running: u64,
    returned: u64,
}

impl Agents {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.action {
            Some(Action::Drain(drain)) => drain.run().await,
            Some(Action::Undrain(undrain)) => undrain.run().await,
            Some(Action::Script(script)) => script.run(),
            None => {
                let mut client = client::connect(&self.coordinator.coordinator).await?;
                let status = client.status(v1::StatusRequest::default()).await?.into_inner();
                if self.json.json {
                    print_json(&AgentsDocument::from(&status));
                } else {
                    print(&status.agents);
                }
                Ok(())
            }
        }
    }
}

impl Drain {
    async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let (agent, slot) = (self.whom.agent.to_string(), self.whom.slot.as_ref().map(ToString::to_string));
        let request = v1::DrainRequest { agent, slot: slot.unwrap_or_default(), reason: self.reason, now: self.now };
        let reply = client.drain(request).await?.into_inner();
        if self.json.json {
            print_json(&document(&self.whom, &reply));
            return Ok(());
        }
        say!("{}: {} drained", self.whom, slots(reply.slots));
        let left = reply.running - reply.returned;
        if reply.returned > 0 {
            say!("  {} given back, to go on elsewhere or later", trials(reply.returned));
        } else if left > 0 {
            say!("  {} there {} undisturbed; --now would give {} back", trials(left), ends(left), them(left));
        }
        say!("Open it again with `fleet agents undrain {}`.", self.whom);
        Ok(())
    }
}

impl Undrain {
    async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let (agent, slot) = (self.whom.agent.to_string(), self.whom.slot.as_ref().map(ToString::to_string));
        let request = v1::UndrainRequest { agent, slot: slot.unwrap_or_default() };
        let reply = client.undrain(request).await?.into_inner();
        if self.json.json {
            print_json(&document(&self.whom, &reply));
        } else {
            say!("{}: {} opened", self.whom, slots(reply.slots));
        }
        Ok(())
    }
}

fn document<'a>(whom: &'a Whom, reply: &v1::DrainReply) -> DrainedDocument<'a> {
    DrainedDocument {
        schema: "fleet.drained/1",
        agent: whom.agent.as_str(),
        slot: whom.slot.as_ref().map(|s| s.as_str()),
        slots: reply.slots,
        running: reply.running,
        returned: reply.returned,
    }
}

fn slots(n: u64) -> String {
    crate::scheduler::count(n as usize, "slot")
}

fn trials(n: u64) -> String {
    crate::scheduler::count(n as usize, "trial")
}

fn ends(n: u64) -> &'static str {
    if n == 1 { "ends" } else { "end" }
}

fn them(n: u64) -> &'static str {
    if n == 1 { "it" } else { "them" }
}

/// What a slot is doing, in words.
fn doing(state: &v1::SlotState) -> String {
    let runs = match (state.label.as_str(), state.seconds_left) {
        ("", _) => String::new(),
        (label, Some(left)) => format!("{label}, about {} left", units::duration(left)),
        (label, None) => label.to_owned(),
    };
    match (state.drained.as_str(), runs.as_str()) {
        ("", "") => "free".to_owned(),
        ("", runs) => runs.to_owned(),
        (drained, "") => drained.to_owned(),
        (drained, runs) => format!("{drained}; still at work: {runs}"),
    }
}

/// What else a slot says of itself, in words.
fn about(slot: &v1::Slot) -> String {
    let mut parts = Vec::new();
    if !slot.compute_capability.is_empty() {
        parts.push(format!("compute {}", slot.compute_capability));
    }
    if !slot.driver.is_empty() {
        parts.push(format!("driver {}", slot.driver));
    }
    parts.extend(slot.limit_bytes.map(|limit| format!("budgets up to {}", Bytes(limit))));
    let mut tags: Vec<_> = slot.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    tags.sort();
    parts.extend(tags);
    parts.join(", ")
}

fn print(agents: &[v1::AgentStatus]) {
    if agents.is_empty() {
        say!("No agent is connected. Start one with `fleet-agent run`.");
        return;
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    table.set_header(["agent/slot", "host", "hardware", "memory", "", "state"]);
    for agent in agents {
        for (i, slot) in agent.slots.iter().enumerate() {
            table.add_row([
                format!("{}/{}", agent.agent, slot.slot),
                agent.host.replace(char::is_control, "?"),
                slot.hardware.clone(),
                Bytes(slot.memory_bytes).to_string(),
                about(slot),
                agent.states.get(i).map_or_else(String::new, doing),
            ]);
        }
    }
    say!("{table}");
}

/// The `--json` form.
#[derive(Serialize)]
pub(super) struct AgentsDocument<'a> {
    schema: &'static str,
    agents: Vec<AgentDocument<'a>>,
}

/// An agent in documents.
#[derive(Serialize)]
pub(super) struct AgentDocument<'a> {
    agent: &'a str,
    host: &'a str,
    version: &'a str,
    silent_ms: u64,
    slots: Vec<SlotDocument<'a>>,
}

#[derive(Serialize)]
struct SlotDocument<'a> {
    slot: &'a str,
    hardware: &'a str,
    model: &'a str,
    memory_bytes: u64,
    limit_bytes: Option<u64>,
    driver: Option<&'a str>,
    compute_capability: Option<&'a str>,
    labels: std::collections::BTreeMap<&'a str, &'a str>,
    drained: Option<&'a str>,
    fault: bool,
    drained_unix_ms: Option<u64>,
    runs: Option<&'a str>,
    seconds_left: Option<f64>,
}

impl<'a> From<&'a v1::StatusReply> for AgentsDocument<'a> {
    fn from(status: &'a v1::StatusReply) -> Self {
        Self { schema: "fleet.agents/1", agents: status.agents.iter().map(Into::into).collect() }
    }
}

impl<'a> From<&'a v1::AgentStatus> for AgentDocument<'a> {
    fn from(a: &'a v1::AgentStatus) -> Self {
        let text = |text: &'a str| Some(text).filter(|t| !t.is_empty());
        let slot = |slot: &'a v1::Slot, state: Option<&'a v1::SlotState>| SlotDocument {
            slot: &slot.slot,
            hardware: &slot.hardware,
            model: &slot.model,
            memory_bytes: slot.memory_bytes,
            limit_bytes: slot.limit_bytes,
            driver: text(&slot.driver),
            compute_capability: text(&slot.compute_capability),
            labels: slot.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            drained: state.and_then(|s| text(&s.drained)),
            fault: state.is_some_and(|s| s.fault),
            drained_unix_ms: state.map(|s| s.drained_unix_ms).filter(|t| *t > 0),
            runs: state.and_then(|s| text(&s.label)),
            seconds_left: state.and_then(|s| s.seconds_left),
        };
        Self {
            agent: &a.agent,
            host: &a.host,
            version: &a.version,
            silent_ms: a.silent_ms,
            slots: a.slots.iter().enumerate().map(|(i, s)| slot(s, a.states.get(i))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_or_a_slot_is_named_as_the_table_shows_it() {
        let whom = |text: &str| text.parse::<Whom>().map(|w| w.to_string());
        assert_eq!(whom("lab-1"), Ok("lab-1".to_owned()));
        assert_eq!(whom("lab-1/cuda:0"), Ok("lab-1/cuda:0".to_owned()));
        let error = whom("lab-1/gpu0").expect_err("no slot");
        assert!(error.contains("lab-3f2a9c01/cuda:0") && error.contains("gpu0"), "{error}");
    }

    #[test]
    fn a_slots_state_is_told_in_words() {
        let state = |drained: &str, label: &str, left| v1::SlotState {
            drained: drained.into(),
            label: label.into(),
            seconds_left: left,
            ..Default::default()
        };
        assert_eq!(doing(&state("", "", None)), "free");
        assert_eq!(doing(&state("", "lora", Some(60.0))), "lora, about 1 min 00 s left");
        let both = doing(&state("drained by an operator: fan", "lora", None));
        assert_eq!(both, "drained by an operator: fan; still at work: lora");
    }
}
