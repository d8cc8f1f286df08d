//! submit, plan, retry, cancel.

use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{LineStyle, Table, TableStyle};
use fleet_common::memory::{Expected, History, Shortage, estimate};
use fleet_common::plan::{self, Excluded, Resolution};
use fleet_common::spec;
use fleet_common::units::Bytes;
use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use prost::Message as _;
use serde::Serialize;
use tonic::transport::Channel;

use super::{Coordinator, Failure, Files, Json, Named, client, print_json, records, resolve, share};
use crate::service::rpc::operator_client::OperatorClient;

/// `fleet submit`.
#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The campaign file
    #[arg(value_name = "CAMPAIGN.toml")]
    file: PathBuf,
    #[command(flatten)]
    files: Files,
    /// Do not copy the campaign's data sets and weights to the coordinator: every agent has them, or a store that it
    /// was told of
    #[arg(long)]
    no_share: bool,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Submit {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (campaign, toml) = resolve::campaign(&self.file)?;
        let resolution = resolve::resolve(&campaign, &self.files)?;
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        if !self.no_share {
            share::campaign(&self.coordinator.coordinator, &self.files, &resolution).await?;
        }
        let reply = submit(&mut client, &self.file, toml, resolution).await?;
        if self.json.json {
            print_json(&serde_json::json!({
                "schema": "fleet.submitted/1",
                "campaign": reply.campaign,
                "trials": reply.trials,
                "new_trials": reply.new_trials,
                "warnings": reply.warnings,
            }));
        } else {
            say!("{}: {} trials, {} of them new", reply.campaign, reply.trials, reply.new_trials);
            reply.warnings.iter().for_each(|w| say!("  note: {w}"));
            say!("Follow it with `fleet watch {}`.", reply.campaign);
        }
        Ok(())
    }
}

/// Submits a campaign whose names have been looked up; all of its data must be there.
pub(super) async fn submit(
    client: &mut OperatorClient<Channel>,
    file: &Path,
    toml: String,
    resolution: Resolution,
) -> Result<v1::SubmitReply, Failure> {
    let mut datasets = Vec::new();
    for (name, identity) in resolution.datasets {
        let identity = identity.map_err(|why| unresolved(&name, &why))?;
        datasets.push(v1::ResolvedDataset {
            name: name.into(),
            fingerprint: identity.fingerprint,
            classes: identity.classes,
            train: identity.train,
            test: identity.test,
        });
    }
    let weights = resolution
        .weights
        .into_iter()
        .map(|(backbone, sha256)| v1::ResolvedWeights { backbone: backbone.name().to_owned(), sha256 })
        .collect();
    let request = v1::SubmitRequest { file_name: file.display().to_string(), toml, datasets, weights };
    let (size, most) = (Bytes(request.encoded_len() as u64), Bytes(MAX_MESSAGE_BYTES as u64));
    if size > most {
        return Err(Failure::usage(format!(
            "{} is too large to submit: {size}, and at most {most} are accepted",
            file.display()
        )));
    }
    Ok(client.submit(request).await?.into_inner())
}

/// A data set that is not here, or cannot be read.
pub(super) fn unresolved(name: &spec::DatasetName, why: &str) -> Failure {
    Failure::usage(format!("the data set {}: {why}", name.label()))
}

/// `fleet plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// The campaign file
    #[arg(value_name = "CAMPAIGN.toml")]
    file: PathBuf,
    #[command(flatten)]
    files: Files,
    /// Corrects the estimates of memory by what this coordinator's finished trials measured, and marks what its agents'
    /// devices cannot hold
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    #[command(flatten)]
    json: Json,
}

/// The `--json` form of a plan.
#[derive(Serialize)]
struct PlanDocument<'a> {
    schema: &'static str,
    campaign: &'a str,
    cells: Vec<CellDocument<'a>>,
    excluded: &'a [Excluded],
    warnings: &'a [String],
    repeats: u32,
}

#[derive(Serialize)]
struct CellDocument<'a> {
    id: &'a str,
    settings: plan::CellSettings,
    expected: &'a Expected,
    shortage: Option<Shortage>,
}

/// What is known of memory before anything runs.
#[derive(Default)]
struct Known {
    history: History,
    /// The memories of the devices that are connected, bytes.
    devices: Vec<u64>,
}

impl Known {
    /// What a coordinator knows: all its records, and its agents' devices.
    async fn of(coordinator: &str) -> Result<Self, Failure> {
        let mut client = client::connect(coordinator).await?;
        let status = client.status(v1::StatusRequest::default()).await?.into_inner();
        let campaigns = status.campaigns.into_iter().map(|c| c.name);
        let names: Vec<String> = campaigns.chain(status.imported.into_iter().map(|i| i.name)).collect();
        let mut records = Vec::new();
        for name in names {
            records.extend(records::held(&mut client, &name).await?.records);
        }
        let devices = status.agents.iter().flat_map(|a| &a.slots).map(|slot| slot.memory_bytes).collect();
        Ok(Self { history: History::of(&records), devices })
    }

    /// What to expect of each cell. Seeds share an estimate.
    fn expect(&self, cells: &[plan::PlannedCell]) -> Vec<(Expected, Option<Shortage>)> {
        // Seeds of a combination follow on each other.
        let mut latest: Option<(&plan::PlannedCell, Expected)> = None;
        let mut all = Vec::with_capacity(cells.len());
        for cell in cells {
            let settings = cell.like();
            let before = latest.take().filter(|(before, _)| before.is_beside(cell));
            let expected = before.map_or_else(|| self.history.expect(settings, &estimate(settings)), |(_, e)| e);
            latest = Some((cell, expected.clone()));
            let shortage = expected.shortage(settings.budget_bytes, &self.devices);
            all.push((expected, shortage));
        }
        all
    }
}

impl Plan {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (campaign, _) = resolve::campaign(&self.file)?;
        let resolution = resolve::resolve(&campaign, &self.files)?;
        let plan = plan::plan(&campaign, &resolution);
        let known = match &self.coordinator {
            Some(coordinator) => Known::of(coordinator).await?,
            None => Known::default(),
        };
        let expected = known.expect(&plan.cells);
        if self.json.json {
            print_json(&PlanDocument {
                schema: "fleet.plan/1",
                campaign: campaign.name.as_str(),
                cells: plan
                    .cells
                    .iter()
                    .zip(&expected)
                    .map(|(c, (expected, shortage))| CellDocument {
                        id: c.id.as_str(),
                        settings: c.settings(),
                        expected,
                        shortage: *shortage,
                    })
                    .collect(),
                excluded: &plan.excluded,
                warnings: &plan.warnings,
                repeats: plan.repeats,
            });
        } else {
            print(&campaign, &plan, &expected);
        }
        Ok(())
    }
}

fn print(campaign: &spec::Campaign, plan: &plan::Plan, expected: &[(Expected, Option<Shortage>)]) {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    table.set_header([
        "cell",
        "method",
        "backbone",
        "checkpointing",
        "data",
        "weights",
        "seed",
        "steps × batch",
        "peak",
        "budget",
    ]);
    for (cell, (expected, shortage)) in plan.cells.iter().zip(expected) {
        let s = cell.like();
        let weights = match &s.weights {
            plan::WeightsRef::Scratch => "scratch".to_owned(),
            plan::WeightsRef::File { sha256 } => sha256.chars().take(8).collect(),
            plan::WeightsRef::Folder { sha256 } => format!("published {}", sha256.chars().take(8).collect::<String>()),
        };
        table.add_row([
            cell.id.short().to_owned(),
            s.method.method().name().to_owned(),
            s.backbone.name().to_owned(),
            s.train.as_ref().map_or("–", |_| s.checkpointing.name()).to_owned(),
            s.dataset.name.clone(),
            weights,
            cell.seed.to_string(),
            s.train.as_ref().map_or_else(|| "–".to_owned(), |train| format!("{} × {}", train.steps, train.batch)),
            format!("{}{}", Bytes(expected.peak_bytes), if shortage.is_some() { " x" } else { "" }),
            s.budget_bytes.map_or_else(|| "unlimited".to_owned(), |b| Bytes(b).to_string()),
        ]);
    }
    let trials = plan.cells.len() * plan.repeats as usize;
    let per = match &campaign.hardware {
        spec::Hardware::Any => String::new(),
        spec::Hardware::Each => " per hardware class that is connected at submission".to_owned(),
        spec::Hardware::Classes(classes) => format!(" on each of {} hardware classes", classes.len()),
    };
    say!("{}: {} cells × {} repeats = {trials} trials{per}\n", campaign.name, plan.cells.len(), plan.repeats);
    say!("{table}");
    let trains = |c: &plan::PlannedCell| c.like().train.is_some();
    let without = if plan.cells.iter().all(trains) { "" } else { ", or where nothing is trained while it classifies" };
    say!("\npeak: the most that tensors will hold in a training step{without}, {}", bases(expected));
    if plan.cells.iter().any(|c| c.like().budget_scope == spec::BudgetScope::Process) {
        say!("      what the process takes beside tensors counts towards the budget here and is not in it");
    }
    short(plan, expected);
    if !plan.excluded.is_empty() {
        say!("\nLeft out:");
        for e in &plan.excluded {
            say!(
                "  {} · {} · {} · {} ({} cells): {}",
                e.method.name(),
                e.backbone.name(),
                e.checkpointing.name(),
                e.dataset,
                e.cells,
                e.reason
            );
        }
    }
    plan.warnings.iter().for_each(|w| say!("\nnote: {w}"));
}

/// Where the peaks come from.
fn bases(expected: &[(Expected, Option<Shortage>)]) -> String {
    let mut bases: Vec<String> = Vec::new();
    for basis in expected.iter().map(|(e, _)| e.basis.to_string()) {
        if !bases.contains(&basis) {
            bases.push(basis);
        }
    }
    bases.join("; ")
}

/// The combinations that will not fit, with what they need.
fn short(plan: &plan::Plan, expected: &[(Expected, Option<Shortage>)]) {
    let mut said: Vec<String> = Vec::new();
    for (cell, (expected, shortage)) in plan.cells.iter().zip(expected) {
        let Some(shortage) = shortage else { continue };
        let s = cell.like();
        let line = format!(
            "  {} · {} · {} · {}: {}",
            s.method.method().name(),
            s.backbone.name(),
            s.checkpointing.name(),
            s.dataset.name,
            expected.describe(*shortage)
        );
        if !said.contains(&line) {
            said.push(line);
        }
    }
    if !said.is_empty() {
        say!("\nx Will not fit (they are run nevertheless, and end as \"does not fit\"):\n{}", said.join("\n"));
    }
}

/// `fleet retry`.
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true, args = ["failed", "missing"])]
pub(super) struct Retry {
    #[command(flatten)]
    named: Named,
    /// Trials that crashed, were given bad input, or lost their agents
    #[arg(long)]
    failed: bool,
    /// Trials that were called off
    #[arg(long)]
    missing: bool,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Retry {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let campaign = self.named.campaign.to_string();
        let request = v1::RetryRequest { campaign: campaign.clone(), failed: self.failed, missing: self.missing };
        let trials = client.retry(request).await?.into_inner().trials;
        changed(self.json.json, &campaign, trials, "opened again");
        Ok(())
    }
}

/// `fleet cancel`.
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Cancel {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let campaign = self.named.campaign.to_string();
        let trials = client.cancel(v1::CancelRequest { campaign: campaign.clone() }).await?.into_inner().trials;
        changed(self.json.json, &campaign, trials, "called off");
        Ok(())
    }
}

fn changed(json: bool, campaign: &str, trials: u64, what: &str) {
    if json {
        print_json(&serde_json::json!({ "schema": "fleet.changed/1", "campaign": campaign, "trials": trials }));
    } else {
        say!("{campaign}: {trials} trial{} {what}", if trials == 1 { "" } else { "s" });
    }
}
