//! A whole campaign on one machine: a coordinator in this process, an agent beside it, real gRPC on loopback between
//! them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use fleet_common::record::Record;
use fleet_common::spec::{Campaign, Hardware};
use fleet_common::wire::v1;
use tokio::process::{Child, ChildStdin, Command};
use tonic::transport::Channel;

use super::fetch::Fetched;
use super::serve::{Kind, Leases, Retention, Running, interrupted};
use super::{Failure, Files, Json, campaign, client, report, resolve, status};
use crate::service::rpc::operator_client::OperatorClient;

/// An agent has its worker save its state and end, and gives its lease back, within this time.
const AGENT_FAREWELL: Duration = Duration::from_secs(30);

/// `fleet local`.
#[derive(Debug, Args)]
pub(super) struct Local {
    /// The campaign file
    #[arg(value_name = "CAMPAIGN.toml")]
    file: PathBuf,
    #[command(flatten)]
    files: Files,
    /// Folder for everything that is kept: the journal, samples, logs; run again with the same one to go on
    #[arg(long, value_name = "DIR", default_value = "fleet-state")]
    state: PathBuf,
    /// Where to write the HTML report [default: STATE/CAMPAIGN.html]
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
    /// Devices to use, such as cpu or cuda:0 [default: all GPUs, or the CPU where there is none]
    #[arg(long, value_name = "LIST")]
    devices: Option<String>,
    /// Threads per trial [default: all CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Seconds between states that an interrupted trial goes on from; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    save_every: u64,
    /// Seconds of rest for a device after each trial, so that one does not heat the next
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    cool_down: u64,
    /// A meter at the wall: a file or an http:// address that tells watts (see `fleet-agent run --help`)
    #[arg(long, env = "FLEET_WALL_METER", value_name = "FILE|URL")]
    wall_meter: Option<String>,
    /// Whether to look at energy meters before the first trial of a day, which takes a minute: auto or never
    #[arg(long, env = "FLEET_CHARACTERISE", value_name = "WHEN", default_value = "auto", value_parser = ["auto", "never"])]
    characterise: String,
    /// Copy the best trial's trained weights of each backbone to DIR/BACKBONE.safetensors, for --weights later
    #[arg(long, value_name = "DIR")]
    keep_weights: Option<PathBuf>,
    /// The agent program [default: fleet-agent beside this program]
    #[arg(long, env = "FLEET_AGENT", value_name = "FILE")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    terms: report::Terms,
    #[command(flatten)]
    leases: Leases,
    #[command(flatten)]
    retention: Retention,
    #[command(flatten)]
    json: Json,
}

impl Local {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (campaign, toml) = resolve::campaign(&self.file)?;
        if self.keep_weights.is_some() && !campaign.output.weights {
            return Err(Failure::usage(format!(
                "--keep-weights needs weights to keep: put `weights = true` under [output] in {}",
                self.file.display()
            )));
        }
        let resolution = resolve::resolve(&campaign, &self.files)?;
        let name = campaign.name.to_string();
        let page = self.report.clone().unwrap_or_else(|| self.state.join(format!("{name}.html")));

        let loopback = ([127, 0, 0, 1], 0).into();
        let (terms, keep) = (self.leases.terms(), self.retention.keep());
        let kind = Kind { closed: true, ..Kind::default() };
        let coordinator = Running::start(&self.state.join("coordinator"), loopback, terms, keep, kind).await?;
        let address = format!("http://{}", coordinator.address);
        let mut client = client::connect(&address).await?;
        let work = async {
            // Which hardware there is, only an agent can tell.
            let mut agent = match campaign.hardware {
                Hardware::Each => Some(Agent::start_and_wait(&self, &address, &mut client).await?),
                Hardware::Any | Hardware::Classes(_) => None,
            };
            let submitted = campaign::submit(&mut client, &self.file, toml, resolution).await;
            let outcome = match submitted {
                Ok(submitted) => {
                    eprintln!("{name}: {} trials, {} of them new", submitted.trials, submitted.new_trials);
                    submitted.warnings.iter().for_each(|w| eprintln!("note: {w}"));
                    self.work(&mut client, &name, &address, &mut agent).await
                }
                Err(failure) => Err(failure),
            };
            if let Some(agent) = &mut agent {
                agent.stop().await;
            }
            self.conclude(&mut client, &campaign, &page, &outcome?).await
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            failure = coordinator.failed() => Err(failure),
        };
        coordinator.stop().await;
        outcome
    }

    /// Runs what is left of the campaign; returns its last status.
    async fn work(
        &self,
        client: &mut OperatorClient<Channel>,
        name: &str,
        address: &str,
        agent: &mut Option<Agent>,
    ) -> Result<v1::CampaignStatus, Failure> {
        let status = client.status(v1::StatusRequest { campaign: Some(name.to_owned()) }).await?.into_inner();
        if let Some(over) = status.campaigns.into_iter().find(|c| c.waiting == 0 && c.leased == 0) {
            return Ok(over);
        }
        let agent = match agent {
            Some(agent) => agent,
            None => agent.insert(Agent::start(self, address)?),
        };
        tokio::select! {
            last = status::watch(client, name) => last,
            why = agent.ended() => Err(Failure::failed(why)),
            () = interrupted() => {
                Err(Failure::Interrupted(format!("interrupted; nothing is lost. To go on: {}", this_command())))
            }
        }
    }

    /// Shows what came out.
    async fn conclude(
        &self,
        client: &mut OperatorClient<Channel>,
        campaign: &Campaign,
        page: &Path,
        last: &v1::CampaignStatus,
    ) -> Result<(), Failure> {
        let fetched = report::show(client, campaign.name.as_str(), Some(page), self.terms, self.json.json).await?;
        if let Some(dir) = &self.keep_weights {
            keep_weights(campaign, &fetched, dir)?;
        }
        eprintln!("{}", status::conclusion(last));
        eprintln!("Report: {}", page.display());
        status::verdict(last)
    }
}

/// What was typed, for a shell to read again.
fn this_command() -> String {
    let quoted = |argument: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    std::env::args_os().map(|a| quoted(a.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

/// The agent's process.
struct Agent {
    child: Child,
    /// Open for as long as the agent is to work. Kept apart from `child`, whose `wait` would close it.
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Agent {
    fn start(local: &Local, address: &str) -> Result<Self, Failure> {
        let program = local.agent.clone().unwrap_or_else(|| {
            let here = std::env::current_exe().unwrap_or_default();
            here.with_file_name("fleet-agent")
        });
        let state = local.state.join("agent");
        let log = state.join("agent.log");
        let cannot = |e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", log.display()));
        std::fs::create_dir_all(&state).map_err(cannot)?;
        let log_file = std::fs::File::create(&log).map_err(cannot)?;
        let mut command = Command::new(&program);
        command.arg("run").arg("--exit-with-parent").args(["--coordinator", address]);
        command.arg("--state").arg(&state).arg("--data").arg(&local.files.data);
        if let Some(weights) = &local.files.weights {
            command.arg("--weights").arg(weights);
        }
        command.args(["--save-every", &local.save_every.to_string(), "--cool-down", &local.cool_down.to_string()]);
        command.args(["--characterise", &local.characterise]);
        // There is no other machine to go on with a trial.
        command.args(["--artifacts", "none"]);
        if let Some(meter) = &local.wall_meter {
            command.args(["--wall-meter", meter]);
        }
        if let Some(devices) = &local.devices {
            command.args(["--devices", devices]);
        }
        if let Some(threads) = local.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        // Its log is read below, for its last words.
        command.env_remove("FLEET_LOG_FORMAT");
        // Its standard input ends with this process, however that goes; a group of its own keeps Ctrl-C for us, so that
        // the order of leaving is ours.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log_file).process_group(0);
        let mut child = command.spawn().map_err(|e| {
            Failure::failed(format!(
                "cannot start the agent {}: {e}; build it with `cargo build --release`, or name it with --agent",
                program.display()
            ))
        })?;
        let stdin = child.stdin.take();
        tokio::spawn(tell_of_meters(log.clone()));
        Ok(Self { child, stdin, log })
    }

    /// Starts the agent and waits until the coordinator knows its hardware.
    async fn start_and_wait(
        local: &Local,
        address: &str,
        client: &mut OperatorClient<Channel>,
    ) -> Result<Self, Failure> {
        let mut agent = Self::start(local, address)?;
        let known = async {
            while client.status(v1::StatusRequest { campaign: None }).await?.into_inner().agents.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        let outcome = tokio::select! {
            known = known => known,
            why = agent.ended() => Err(Failure::failed(why)),
            () = interrupted() => Err(Failure::Interrupted("interrupted before anything was submitted".to_owned())),
        };
        match outcome {
            Ok(()) => Ok(agent),
            Err(failure) => {
                agent.stop().await;
                Err(failure)
            }
        }
    }

    /// Returns when the agent has ended by itself, with its reason.
    async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let reason = log.lines().rev().find_map(|l| l.strip_prefix("error: "));
        match (reason, status) {
            (Some(reason), _) => format!("the agent could not go on: {reason}"),
            (None, Ok(status)) => format!("the agent ended ({status}); its log is {}", self.log.display()),
            (None, Err(e)) => format!("the agent cannot be waited for: {e}"),
        }
    }

    /// Lets the agent end its work, and makes sure that it is gone.
    async fn stop(&mut self) {
        // The end of its standard input is the signal.
        drop(self.stdin.take());
        if tokio::time::timeout(AGENT_FAREWELL, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// The agent looks at meters that it does not know yet before it asks for work; whoever waits should know why.
async fn tell_of_meters(log: PathBuf) {
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if let Some((_, what)) = text.lines().find_map(|line| line.split_once(LOOKS_AT_METERS)) {
            eprintln!("first, once a day: {LOOKS_AT_METERS}{}", what.split(';').next().unwrap_or_default());
            return;
        }
    }
}

/// What the agent says then (agent/src/daemon/characterise.rs).
const LOOKS_AT_METERS: &str = "measuring idle power";

/// Copies the weights of each backbone's best completed trial.
fn keep_weights(campaign: &Campaign, fetched: &Fetched, dir: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("cannot keep weights in {}: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    // A model that is used as it is published leaves none.
    for backbone in campaign.matrix.backbone.values().iter().filter(|b| b.foundation().is_none()) {
        let accuracy = |r: &&Record| r.training.top1_percent.unwrap_or(f64::NEG_INFINITY);
        let best = fetched
            .records
            .iter()
            .filter(|r| r.settings.backbone == *backbone && r.artifact.is_some())
            .max_by(|a, b| accuracy(a).total_cmp(&accuracy(b)));
        let Some((record, artifact)) = best.and_then(|r| Some((r, r.artifact.as_ref()?))) else {
            return Err(Failure::failed(format!("no completed trial of {} left weights", backbone.name())));
        };
        let target = dir.join(format!("{}.safetensors", backbone.name()));
        let partial = target.with_extension("partial");
        std::fs::copy(&artifact.path, &partial).map_err(failed)?;
        std::fs::rename(&partial, &target).map_err(failed)?;
        eprintln!(
            "Weights of {} ({}, seed {}, {:.1} %): {}",
            backbone.name(),
            record.settings.method.method().name(),
            record.settings.seed,
            accuracy(&record),
            target.display()
        );
    }
    Ok(())
}
