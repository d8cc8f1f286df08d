//! status and watch.

use clap::Args;
use fleet_common::id::CampaignName;
use fleet_common::record::OutcomeClass;
use fleet_common::units::{self, Bytes};
use fleet_common::wire::v1;
use serde::Serialize;
use tonic::transport::Channel;

use super::agents::AgentDocument;
use super::progress::{Progress, ended, stage};
use super::{Coordinator, Failure, Json, Named, client, print_json};
use crate::service::rpc::operator_client::OperatorClient;

/// `fleet status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Only this campaign or imported set
    #[arg(value_name = "CAMPAIGN")]
    campaign: Option<CampaignName>,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Status {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let campaign = self.campaign.map(String::from);
        let status = client.status(v1::StatusRequest { campaign }).await?.into_inner();
        if self.json.json {
            print_json(&StatusDocument::from(&status));
        } else {
            print(&status);
        }
        Ok(())
    }
}

fn print(status: &v1::StatusReply) {
    if status.campaigns.is_empty() && status.imported.is_empty() {
        say!("No campaign has been submitted. Submit one with `fleet submit CAMPAIGN.toml`.");
    }
    for c in &status.campaigns {
        let total = ended(c) + c.waiting + c.leased;
        say!("{}: {} of {total} trials ended, {} running, {} waiting", c.name, ended(c), c.leased, c.waiting);
        for f in &c.finished {
            say!("  {:<14}{}", f.class, f.count);
        }
        if c.cancelled > 0 {
            say!("  {:<14}{}", "cancelled", c.cancelled);
        }
        for r in &c.running {
            let time = units::duration(r.running_ms as f64 / 1e3);
            say!("  running       {}: {} ({} on {}, {time})", r.label, stage(r), r.slot, r.agent);
        }
        let mut waits: Vec<_> = c.waits.iter().collect();
        waits.sort_by_key(|w| std::cmp::Reverse(w.count));
        for w in waits.iter().take(MOST_REASONS) {
            say!("  waiting       {}: {}", w.count, w.reason);
        }
        if let Some(rest) = waits.get(MOST_REASONS..).filter(|rest| !rest.is_empty()) {
            let trials: u64 = rest.iter().map(|w| w.count).sum();
            say!("  waiting       {trials}: {} more reasons; `fleet explain CELL` tells a trial's", rest.len());
        }
        if let Some(eta) = &c.eta {
            say!("  over          {}", in_words(eta));
        }
    }
    for set in &status.imported {
        // A file's name comes from another machine: it must not steer this terminal.
        let file = set.file_name.replace(char::is_control, "?");
        say!("{}: {} imported records, from {file}", set.name, set.records);
    }
    for problem in &status.storage_problems {
        say!("the coordinator's storage: {problem}");
    }
    say!("");
    if status.agents.is_empty() {
        say!("No agent is connected. Start one with `fleet-agent run`.");
    }
    for a in &status.agents {
        let silent = if a.silent_ms > 5000 {
            format!(", silent for {}", units::duration(a.silent_ms as f64 / 1e3))
        } else {
            String::new()
        };
        say!("agent {} on {}{silent}", a.agent, a.host);
        for (i, s) in a.slots.iter().enumerate() {
            let drained = a.states.get(i).map(|s| s.drained.as_str()).filter(|d| !d.is_empty());
            let drained = drained.map(|d| format!("; {d}")).unwrap_or_default();
            say!("  {:<14}{}, {}{drained}", s.slot, s.hardware, Bytes(s.memory_bytes));
        }
    }
}

/// Reasons that are shown one by one.
const MOST_REASONS: usize = 8;

/// "in about 2 h 10 min (90 %: 2 h 50 min)", or why nobody knows.
pub(super) fn in_words(eta: &v1::Eta) -> String {
    let note = if eta.note.is_empty() { String::new() } else { format!(", {}", eta.note) };
    match (eta.seconds, eta.seconds_90) {
        (Some(s), Some(most)) => format!("in about {} (90 %: {}){note}", units::duration(s), units::duration(most)),
        _ => format!("at a time that cannot be told: {}", eta.note),
    }
}

/// The `--json` form.
#[derive(Serialize)]
struct StatusDocument<'a> {
    schema: &'static str,
    campaigns: Vec<CampaignDocument<'a>>,
    imported: Vec<ImportedDocument<'a>>,
    agents: Vec<AgentDocument<'a>>,
    storage_problems: &'a [String],
}

#[derive(Serialize)]
struct ImportedDocument<'a> {
    name: &'a str,
    records: u64,
    file_name: &'a str,
    imported_unix_ms: u64,
}

#[derive(Serialize)]
struct CampaignDocument<'a> {
    name: &'a str,
    submitted_unix_ms: u64,
    waiting: u64,
    running: Vec<RunningDocument<'a>>,
    finished: std::collections::BTreeMap<&'a str, u64>,
    cancelled: u64,
    waits: std::collections::BTreeMap<&'a str, u64>,
    priority: i32,
    eta: Option<EtaDocument<'a>>,
}

#[derive(Serialize)]
struct EtaDocument<'a> {
    seconds: Option<f64>,
    seconds_90: Option<f64>,
    note: &'a str,
}

#[derive(Serialize)]
struct RunningDocument<'a> {
    cell: &'a str,
    repeat: u32,
    attempt: u32,
    label: &'a str,
    agent: &'a str,
    slot: &'a str,
    phase: &'a str,
    done: u64,
    of: u64,
    loss: Option<f64>,
    running_ms: u64,
}

impl<'a> From<&'a v1::StatusReply> for StatusDocument<'a> {
    fn from(status: &'a v1::StatusReply) -> Self {
        let campaigns = status
            .campaigns
            .iter()
            .map(|c| CampaignDocument {
                name: &c.name,
                submitted_unix_ms: c.submitted_unix_ms,
                waiting: c.waiting,
                running: c
                    .running
                    .iter()
                    .map(|r| RunningDocument {
                        cell: r.trial.as_ref().map_or("", |t| &t.cell),
                        repeat: r.trial.as_ref().map_or(0, |t| t.repeat),
                        attempt: r.attempt,
                        label: &r.label,
                        agent: &r.agent,
                        slot: &r.slot,
                        phase: &r.phase,
                        done: r.done,
                        of: r.of,
                        loss: r.loss,
                        running_ms: r.running_ms,
                    })
                    .collect(),
                finished: c.finished.iter().map(|f| (f.class.as_str(), f.count)).collect(),
                cancelled: c.cancelled,
                waits: c.waits.iter().map(|w| (w.reason.as_str(), w.count)).collect(),
                priority: c.priority,
                eta: c.eta.as_ref().map(|e| EtaDocument {
                    seconds: e.seconds,
                    seconds_90: e.seconds_90,
                    note: &e.note,
                }),
            })
            .collect();
        let agents = status.agents.iter().map(Into::into).collect();
        let imported = status
            .imported
            .iter()
            .map(|s| ImportedDocument {
                name: &s.name,
                records: s.records,
                file_name: &s.file_name,
                imported_unix_ms: s.imported_unix_ms,
            })
            .collect();
        let storage_problems = &status.storage_problems;
        Self { schema: "fleet.status/1", campaigns, imported, agents, storage_problems }
    }
}

/// `fleet watch`.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    coordinator: Coordinator,
}

impl Watch {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let name = self.named.campaign.to_string();
        let last = tokio::select! {
            last = watch(&mut client, &name) => last?,
            () = super::serve::interrupted() => {
                return Err(Failure::Interrupted(format!("no longer watching; {name} goes on without that")));
            }
        };
        say!("{}", conclusion(&last));
        say!("See the comparison with `fleet report {name}`.");
        verdict(&last)
    }
}

/// Shows a campaign's progress until it is over; returns its last status.
pub(super) async fn watch(client: &mut OperatorClient<Channel>, name: &str) -> Result<v1::CampaignStatus, Failure> {
    let request = v1::StatusRequest { campaign: Some(name.to_owned()) };
    let mut stream = client.watch(request).await?.into_inner();
    let mut progress = Progress::new();
    let mut last = None;
    while let Some(status) = stream.message().await? {
        if let Some(campaign) = status.campaigns.into_iter().next() {
            progress.show(&campaign);
            last = Some(campaign);
        }
    }
    progress.finish();
    last.ok_or_else(|| Failure::failed("the coordinator told nothing about the campaign"))
}

/// One line on how a campaign ended.
pub(super) fn conclusion(c: &v1::CampaignStatus) -> String {
    let mut parts: Vec<String> = c.finished.iter().map(|f| format!("{} {}", f.count, f.class)).collect();
    if c.cancelled > 0 {
        parts.push(format!("{} cancelled", c.cancelled));
    }
    format!("{}: {}", c.name, parts.join(", "))
}

/// A campaign with trials that failed has failed; results like "does not fit" are none.
pub(super) fn verdict(c: &v1::CampaignStatus) -> Result<(), Failure> {
    let failed = |f: &&v1::OutcomeCount| !OutcomeClass::from_name(&f.class).is_some_and(OutcomeClass::is_result);
    if c.finished.iter().any(|f| failed(&f)) { Err(Failure::FailedTrials) } else { Ok(()) }
}
