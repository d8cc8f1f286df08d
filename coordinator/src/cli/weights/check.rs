//! `fleet weights check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use fleet_common::spec::Backbone;
use fleet_download::source;
use fleet_download::weights::{self, Holds};

use super::{Folder, backbone, model, place, there};
use crate::cli::Failure;

/// `fleet weights check`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// Of which backbone, or the folder of a published model (with a '/'); without it, all that are there
    #[arg(value_name = "BACKBONE|FOLDER", value_parser = what)]
    what: Option<What>,
    #[command(flatten)]
    folder: Folder,
}

/// What is to be checked.
#[derive(Debug, Clone)]
enum What {
    Backbone(Backbone),
    Folder(PathBuf),
}

fn what(text: &str) -> Result<What, String> {
    if text.contains('/') {
        return Ok(What::Folder(text.into()));
    }
    let known = backbone(text).map(What::Backbone);
    known.map_err(|why| format!("{why} (the path of a folder has a '/', such as \"./{text}\")"))
}

/// What was found right.
pub(super) struct Found {
    file: PathBuf,
    holds: Holds,
    sha256: String,
    checks: &'static str,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = &self.folder.weights;
        let wanted: Vec<Backbone> = match self.what {
            Some(What::Folder(folder)) => {
                return model::check(&folder, model::called(&folder)).map(|found| found.say()).map_err(Failure::usage);
            }
            Some(What::Backbone(backbone)) => vec![backbone],
            // Two files for one are something to check, too.
            None => Backbone::all().filter(|b| is_there(*b, dir)).collect(),
        };
        if wanted.is_empty() {
            return Err(Failure::usage(format!(
                "there are no weights in {}; expected files such as vit_tiny_patch16_224.safetensors. `fleet weights get` \
                 fetches them",
                dir.display()
            )));
        }
        // All are looked at, and the first that is wrong is the error.
        let mut wrong = Vec::new();
        for backbone in wanted {
            let checked = match backbone.foundation() {
                Some(model) => model::check(&dir.join(model.name()), Some(model)).map(|found| found.say()),
                None => check(backbone, dir).map(|found| found.say(backbone)),
            };
            wrong.extend(checked.err());
        }
        if wrong.is_empty() { Ok(()) } else { Err(Failure::usage(wrong.join("\nerror: "))) }
    }
}

/// Whether there is anything to check.
fn is_there(backbone: Backbone, dir: &Path) -> bool {
    match backbone.foundation() {
        Some(model) => dir.join(model.name()).exists(),
        None => there(backbone, dir) != Ok(None),
    }
}

/// Checks a backbone's file: whether it can be read, and whether it is the public one where there is one.
pub(super) fn check(backbone: Backbone, dir: &Path) -> Result<Found, String> {
    let file = there(backbone, dir)?.ok_or_else(|| {
        let file = place(backbone, dir);
        let (name, fetches) = (backbone.name(), source::weights(backbone).is_some());
        let how = if fetches { "fetches it" } else { "says where it could come from" };
        format!("{} is not there; `fleet weights get {name}` {how}", file.display())
    })?;
    let holds = weights::read(&file).map_err(|e| e.to_string())?;
    let unreadable = |e| format!("{}: cannot read it: {e}", file.display());
    let checks = match source::weights(backbone) {
        Some(source) => {
            source.content.compare(&file).map_err(unreadable)?.map_err(|wrong| {
                format!(
                    "{} can be read, but is not what is published: {wrong}. Weights of your own are used as they are; `fleet \
                     weights get` fetches those that are published, and renames these",
                    file.display()
                )
            })?;
            source.content.checks()
        }
        None if source::unchecked_weights(backbone).is_some() => {
            "header only; no hash of the public weights is known here to compare with"
        }
        None => "header only; none are published to compare with",
    };
    let sha256 = fleet_dataset::sha256_of_file(&file).map_err(unreadable)?;
    Ok(Found { file, holds, sha256, checks })
}

impl Found {
    /// Says it.
    pub(super) fn say(&self, backbone: Backbone) {
        say!("{}", backbone.name());
        say!("  place    {}", self.file.display());
        say!("  tensors  {}", tensors(self.holds.tensors, &self.holds.types, self.holds.numbers));
        if !self.holds.beside.is_empty() {
            say!("  besides  {}", listed(&self.holds.beside));
        }
        say!("  checked  {}", self.checks);
        say!("  SHA-256  {}", self.sha256);
    }
}

/// How many tensors of which types there are, with how many numbers.
pub(super) fn tensors(count: usize, types: &BTreeMap<String, usize>, numbers: u64) -> String {
    let types: Vec<_> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    format!("{count} ({}), {numbers} numbers", types.join(", "))
}

/// The first few, and how many more there are.
pub(super) fn listed(all: &[String]) -> String {
    const SHOWN: usize = 8;
    let first = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{first} and {} more", all.len() - SHOWN) } else { first }
}
