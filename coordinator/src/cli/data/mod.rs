//! Data sets: get the public ones, check them, look at them, or write the procedural textures.

mod check;
mod get;
mod set;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use fleet_common::spec::DatasetName;
use fleet_dataset::synth::{self, TextureSet, TextureSpec};

use super::{Failure, Json, print_json, resolve, share};

/// `fleet data`.
#[derive(Debug, Subcommand)]
pub(super) enum Data {
    /// Fetches a public data set, unless it is there already.
    #[command(after_help = "Example: fleet data get cifar100 --data ~/data\n\
        Interrupted, the same command goes on where it was. What is in the way is renamed, never overwritten.")]
    Get(get::Get),
    /// Checks a public data set, without the network.
    #[command(after_help = "Example: fleet data check dtd --data ~/data")]
    Check(check::Check),
    /// Writes a set of procedural textures in DTD's layout, the same on every machine.
    #[command(after_help = "Example: fleet data synth --data data --name textures")]
    Synth(Synth),
    /// Copies a data set to the coordinator, from where agents that do not have it can fetch it.
    #[command(after_help = "Example: fleet data share dtd --data ~/data\n\
        `fleet submit` does it by itself. Interrupted, the same command goes on where it was.")]
    Share(share::Data),
    /// Shows what a data set is: classes, images, fingerprint.
    #[command(after_help = "Example: fleet data info dtd --data ~/data")]
    Info(Info),
}

/// `fleet data synth`.
#[derive(Debug, Args)]
pub(super) struct Synth {
    /// Folder of the data sets
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Name of the set: textures, or a name that begins with textures-
    #[arg(long, default_value = "textures")]
    name: String,
    /// Which families of textures: A or B, which share none
    #[arg(long, default_value = "A")]
    set: TextureSet,
    /// Images per class; a third each for training, validation and test
    #[arg(long, value_name = "N", default_value_t = 150)]
    per_class: u32,
    /// Side of an image in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 96)]
    size: u32,
    /// Seed of the images
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// `fleet data info`.
#[derive(Debug, Args)]
pub(super) struct Info {
    /// cifar100, dtd, textures…, or a path to an image folder (with a '/')
    #[arg(value_name = "DATA SET")]
    name: String,
    /// Folder of the data sets
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    #[command(flatten)]
    json: Json,
}

impl Data {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Get(get) => get.run().await,
            Self::Check(check) => check.run(),
            Self::Synth(synth) => synth.run(),
            Self::Share(share) => share.run().await,
            Self::Info(info) => info.run(),
        }
    }
}

impl Synth {
    fn run(self) -> Result<(), Failure> {
        let name = match DatasetName::try_from(self.name.clone()) {
            Ok(name @ DatasetName::Textures(_)) => name,
            _ => {
                return Err(Failure::usage(format!(
                    "--name: expected textures or a name that begins with textures-, found \"{}\"",
                    self.name
                )));
            }
        };
        let dir = self.data.join(&self.name);
        let spec = TextureSpec { seed: self.seed, set: self.set, per_class: self.per_class, size: self.size };
        let mut told = Instant::now();
        let live = std::io::stderr().is_terminal();
        std::fs::create_dir_all(&self.data)
            .map_err(|e| Failure::failed(format!("cannot make the folder {}: {e}", self.data.display())))?;
        synth::write(&dir, &spec, &mut |done, of| {
            if told.elapsed() > Duration::from_millis(if live { 200 } else { 2000 }) {
                told = Instant::now();
                eprint!("writing textures: {done} of {of}{}", if live { "\r" } else { "\n" });
            }
        })
        .map_err(|e| Failure::failed(e.to_string()))?;
        let identity = resolve::identify(&name, &self.data).map_err(Failure::failed)?;
        say!(
            "{}: {} classes, {} training and {} test images",
            dir.display(),
            identity.classes,
            identity.train,
            identity.test
        );
        Ok(())
    }
}

impl Info {
    fn run(self) -> Result<(), Failure> {
        let name = DatasetName::try_from(self.name.clone()).map_err(Failure::usage)?;
        let dataset = fleet_dataset::Dataset::open(&name, &self.data).map_err(|e| Failure::usage(e.to_string()))?;
        let identity = resolve::identify(&name, &self.data).map_err(Failure::usage)?;
        if self.json.json {
            print_json(&serde_json::json!({
                "schema": "fleet.dataset/1",
                "name": name.label(),
                "identity": identity,
                "class_names": dataset.classes(),
            }));
        } else {
            say!("{}", name.label());
            say!("  classes      {}: {}", identity.classes, dataset.classes().join(", "));
            say!("  training     {} images", identity.train);
            say!("  test         {} images", identity.test);
            say!("  fingerprint  {}", identity.fingerprint);
        }
        Ok(())
    }
}
