//! Trained weights and adapters that campaigns have kept in the artifact store: which there are, and fetching them.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fleet_artifacts::{Name, sha256_of};
use fleet_common::id::{CampaignName, TrialId};
use fleet_common::record::{Artifact, Record};
use fleet_common::units::Bytes;
use fleet_common::wire::v1;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tonic::transport::Channel;

use super::records::held;
use super::transfer::Show;
use super::{Coordinator, Failure, Json, client, print_json, terminal_width};
use crate::report::{Align, grid};
use crate::service::rpc::artifacts_client::ArtifactsClient;

/// `fleet artifacts`.
#[derive(Debug, Subcommand)]
pub(super) enum Artifacts {
    /// Lists the trained weights and adapters that a campaign has kept.
    #[command(after_help = "Example: fleet artifacts list nightly\n\
        A campaign keeps them with `weights = true` or `adapter = true` under [output].")]
    List(List),
    /// Fetches them, and compares each with its SHA-256.
    #[command(after_help = "Example: fleet artifacts get nightly --out kept\n\
        Writes OUT/TRIAL/weights.safetensors, OUT/TRIAL/adapter/. Interrupted, the same command goes on.")]
    Get(Get),
}

/// `fleet artifacts list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// A campaign, by name
    #[arg(value_name = "NAME")]
    name: CampaignName,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

/// `fleet artifacts get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// A campaign, by name
    #[arg(value_name = "NAME")]
    name: CampaignName,
    /// Only this trial's, CELL/REPEAT or CELL/REPEAT/HARDWARE
    #[arg(long, value_name = "ID")]
    trial: Option<TrialId>,
    /// Folder to write them to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    coordinator: Coordinator,
}

/// A kept file.
#[derive(Debug, Serialize)]
struct Kept {
    trial: String,
    #[serde(skip)]
    id: TrialId,
    backbone: &'static str,
    method: &'static str,
    seed: u64,
    /// Below the trial's folder.
    file: &'static str,
    sha256: String,
    /// Where it was left.
    agent: String,
    path: String,
    /// Its name in the artifact store; `None` if it is on its agent only.
    stored: Option<String>,
}

/// `fleet.artifacts/1`.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    campaign: CampaignName,
    artifacts: Vec<Kept>,
}

impl Artifacts {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run().await,
            Self::Get(get) => tokio::select! {
                done = get.run() => done,
                _ = tokio::signal::ctrl_c() => {
                    Err(Failure::Interrupted("interrupted; what has come is kept, and the same command goes on".into()))
                }
            },
        }
    }
}

fn kept(records: &[Record]) -> Vec<Kept> {
    let files = |r: &Record| -> Vec<(&'static str, Artifact)> {
        let all = [
            ("weights.safetensors", &r.artifact),
            ("adapter/adapter_model.safetensors", &r.adapter),
            ("adapter/adapter_config.json", &r.adapter_config),
        ];
        all.into_iter().filter_map(|(file, artifact)| Some((file, artifact.clone()?))).collect()
    };
    let of = |r: &Record| -> Vec<Kept> {
        let kept = files(r).into_iter().map(|(file, artifact)| Kept {
            trial: r.trial.to_string(),
            id: r.trial.clone(),
            backbone: r.settings.backbone.name(),
            method: r.settings.method.method().name(),
            seed: r.settings.seed,
            file,
            sha256: artifact.sha256,
            agent: r.machine.agent.to_string(),
            path: artifact.path,
            stored: artifact.stored,
        });
        kept.collect()
    };
    records.iter().flat_map(of).collect()
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let kept = kept(&held(&mut client, self.name.as_str()).await?.records);
        if self.json.json {
            print_json(&Document { schema: "fleet.artifacts/1", campaign: self.name, artifacts: kept });
            return Ok(());
        }
        if kept.is_empty() {
            eprintln!("{} has kept nothing: put `weights = true` or `adapter = true` under [output]", self.name);
            return Ok(());
        }
        let head = ["trial", "backbone", "method", "seed", "file", "sha256", "where"].map(|h| (h, Align::Left));
        let row = |k: Kept| {
            let place = match k.stored {
                Some(_) => "in the store".to_owned(),
                None => format!("on {} only: {}", k.agent, k.path),
            };
            let hash = k.sha256.chars().take(12).collect();
            vec![k.trial, k.backbone.into(), k.method.into(), k.seed.to_string(), k.file.into(), hash, place]
        };
        let rows: Vec<Vec<String>> = kept.into_iter().map(row).collect();
        say!("{}", grid(&head, &rows, terminal_width()).trim_end());
        Ok(())
    }
}

impl Get {
    async fn run(self) -> Result<(), Failure> {
        let channel = client::channel(&self.coordinator.coordinator).await?;
        let records = held(&mut client::operator(channel.clone()), self.name.as_str()).await?.records;
        let mut wanted = kept(&records);
        wanted.retain(|k| self.trial.as_ref().is_none_or(|t| *t == k.id));
        let (stored, elsewhere): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|k| k.stored.is_some());
        for Kept { trial, file, agent, path, .. } in &elsewhere {
            eprintln!("note: {file} of {trial} is on {agent} only: {path}");
        }
        if stored.is_empty() {
            return Err(Failure::usage(format!(
                "nothing that {} has kept is in the artifact store; `fleet artifacts list {}` shows what there is",
                self.name, self.name
            )));
        }
        let mut bytes = 0;
        for kept in &stored {
            let name: Name = kept
                .stored
                .as_deref()
                .unwrap_or_default()
                .parse()
                .map_err(|e: fleet_artifacts::NameError| Failure::failed(e.to_string()))?;
            bytes += fetch(channel.clone(), &name, &self.out.join(kept.id.file_stem()).join(kept.file)).await?;
        }
        eprintln!("{} files, {}: {}", stored.len(), Bytes(bytes), self.out.display());
        Ok(())
    }
}

/// Fetches one file, unless it is there already; goes on with a part that an earlier command has left.
async fn fetch(channel: Channel, name: &Name, target: &Path) -> Result<u64, Failure> {
    let cannot = |e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", target.display()));
    std::fs::create_dir_all(target.parent().unwrap_or(Path::new("."))).map_err(cannot)?;
    if hash(target).await.is_some_and(|found| found == name.sha256().as_str()) {
        return std::fs::metadata(target).map(|m| m.len()).map_err(cannot);
    }
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let from = std::fs::metadata(&partial).map_or(0, |m| m.len());
    let mut show = Show::new(&target.display().to_string());
    let request = v1::GetArtifactRequest { name: name.to_string(), from };
    let mut stream = match ArtifactsClient::new(channel).get(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            // A part that is longer than the whole is of something else.
            if status.code() == tonic::Code::FailedPrecondition {
                std::fs::remove_file(&partial).map_err(cannot)?;
                return Err(Failure::failed(format!("{} was no part of it, and is removed; again", partial.display())));
            }
            return Err(status.into());
        }
    };
    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&partial).await.map_err(cannot)?;
    let (mut length, mut whole) = (from, None);
    while let Some(part) = stream.message().await? {
        whole = part.whole.or(whole);
        file.write_all(&part.data).await.map_err(cannot)?;
        length += part.data.len() as u64;
        show.amount("", length, whole);
    }
    file.flush().await.map_err(cannot)?;
    file.sync_all().await.map_err(cannot)?;
    let found = hash(&partial).await.unwrap_or_default();
    if found != name.sha256().as_str() {
        std::fs::remove_file(&partial).map_err(cannot)?;
        return Err(Failure::failed(format!(
            "what came for {} is damaged, and is removed: expected SHA-256 {}, found {found}; try again",
            target.display(),
            name.sha256()
        )));
    }
    std::fs::rename(&partial, target).map_err(cannot)?;
    Ok(length)
}

async fn hash(path: &Path) -> Option<String> {
    let path = path.to_owned();
    let found = tokio::task::spawn_blocking(move || sha256_of(&path)).await.ok()?;
    found.ok().map(|hash| hash.to_string())
}
