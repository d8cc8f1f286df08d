//! Initial weights: get the public ones, check them, list them.

mod check;
mod get;
mod model;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fleet_checkpoint::ModelFolder;
use fleet_common::spec::{Backbone, Foundation};
use fleet_download::published::{Published, published};
use fleet_download::source::{self, Unchecked};

use super::{Failure, share};

/// `fleet weights`.
#[derive(Debug, Subcommand)]
pub(super) enum Weights {
    /// Fetches public weights, unless they are there already.
    #[command(after_help = "Example: fleet weights get vit_small_patch16_224 --weights ~/weights\n\
        Interrupted, the same command goes on where it was. What is in the way is renamed, never overwritten.")]
    Get(get::Get),
    /// Checks weights, without the network.
    #[command(after_help = "Example: fleet weights check --weights ~/weights\n\
        or, of a folder: fleet weights check ./downloads/dinov2-small")]
    Check(check::Check),
    /// Copies weights to the coordinator, from where agents that do not have them can fetch them.
    #[command(after_help = "Example: fleet weights share vit_small_patch16_224 --weights ~/weights\n\
        `fleet submit` does it by itself. Interrupted, the same command goes on where it was.")]
    Share(share::Weights),
    /// Lists the backbones, where their public weights are, and whether they are here.
    #[command(after_help = "Example: fleet weights list --weights ~/weights")]
    List(Folder),
}

/// The folder of weights.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// Folder of the weights: one BACKBONE.safetensors (or .pth, .pth.tar, .bin) each, or a folder BACKBONE/ with the
    /// files of a model that is used as it is published
    #[arg(long, env = "FLEET_WEIGHTS", value_name = "DIR", default_value = "weights")]
    weights: PathBuf,
}

impl Weights {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Get(get) => get.run().await,
            Self::Check(check) => check.run(),
            Self::Share(share) => share.run().await,
            Self::List(folder) => list(&folder.weights),
        }
    }
}

fn list(dir: &Path) -> Result<(), Failure> {
    for backbone in Backbone::all() {
        say!("{}", backbone.name());
        if let Some(model) = backbone.foundation() {
            list_model(model, dir);
            continue;
        }
        match there(backbone, dir).map_err(Failure::usage)? {
            Some(file) => say!("  here     {}", file.display()),
            None => say!("  not here {}", place(backbone, dir).display()),
        }
        match (source::weights(backbone), source::unchecked_weights(backbone)) {
            (Some(source), _) => {
                say!("  from     {}", source.url);
                say!("  SHA-256  {}", source.content.sha256);
                say!("  terms    {}", source.terms);
            }
            (None, Some(Unchecked { page, file, .. })) => {
                say!("  from     {page} ({file}); fetch it by hand, no hash to check it against is known here");
            }
            (None, None) => {
                say!("  no public weights exist: `fleet local … --keep-weights DIR` keeps those that it trained")
            }
        }
    }
    Ok(())
}

fn list_model(model: Foundation, dir: &Path) {
    let place = dir.join(model.name());
    match ModelFolder::find(dir, model.name()) {
        Ok(Some(_)) => say!("  here     {}", place.display()),
        Ok(None) => say!("  not here {}/", place.display()),
        Err(why) => say!("  not all of it is here: {why}"),
    }
    let Published { page, files, terms } = published(model);
    say!("  from     {page}; fetch it by hand, no hashes to check it against are known here");
    say!("  files    {files}");
    say!("  terms    {terms}");
}

/// A backbone's weights of whatever kind, if they are here.
fn there(backbone: Backbone, dir: &Path) -> Result<Option<PathBuf>, String> {
    fleet_checkpoint::find(dir, backbone.name()).map_err(|e| e.to_string())
}

/// Where a backbone's public weights lie.
fn place(backbone: Backbone, dir: &Path) -> PathBuf {
    dir.join(format!("{}.safetensors", backbone.name()))
}

/// A backbone's name on the command line.
pub(in crate::cli) fn backbone(name: &str) -> Result<Backbone, String> {
    Backbone::try_from(name.to_owned())
}
