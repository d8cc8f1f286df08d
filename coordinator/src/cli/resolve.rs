//! What a campaign's names mean here: which data, which weights.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleet_checkpoint::ModelFolder;
use fleet_common::plan::{DatasetIdentity, Resolution};
use fleet_common::spec::{Backbone, Campaign, DatasetName};
use fleet_common::units::Bytes;
use fleet_dataset::Dataset;

use super::{Failure, Files};

/// Reading a data set to the end is told about when it takes longer than this.
const QUIET: Duration = Duration::from_secs(2);

/// Reads a campaign file.
pub(super) fn campaign(file: &Path) -> Result<(Campaign, String), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::usage(format!("cannot read the campaign file {}: {e}", file.display())))?;
    let campaign = Campaign::parse(&file.display().to_string(), &text).map_err(|e| Failure::usage(e.to_string()))?;
    Ok((campaign, text))
}

/// Looks up everything that the campaign names. A data set that is not there is part of the answer.
pub(super) fn resolve(campaign: &Campaign, files: &Files) -> Result<Resolution, Failure> {
    let datasets: BTreeMap<DatasetName, Result<DatasetIdentity, String>> =
        campaign.matrix.dataset.values().iter().map(|name| (name.clone(), identify(name, &files.data))).collect();
    let mut weights = BTreeMap::new();
    for backbone in campaign.matrix.backbone.values() {
        if let Some(sha256) = weights_of(*backbone, files.weights.as_deref())? {
            weights.insert(*backbone, sha256);
        }
    }
    Ok(Resolution { datasets, weights })
}

/// The identity of a data set, with progress while it is read.
pub(super) fn identify(name: &DatasetName, data: &Path) -> Result<DatasetIdentity, String> {
    let dataset = Dataset::open(name, data).map_err(|e| e.to_string())?;
    telling(name.label(), |tell| dataset.identify(tell)).map_err(|e| e.to_string())
}

/// Runs what reads `what` to its end, and tells how far it is once that takes long.
pub(super) fn telling<T>(what: &str, read: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let started = Instant::now();
    let mut told = started;
    let live = std::io::stderr().is_terminal();
    let done = read(&mut |done, of| {
        if started.elapsed() > QUIET && told.elapsed() > QUIET.min(Duration::from_millis(if live { 200 } else { 5000 }))
        {
            told = Instant::now();
            let end = if live { "\r" } else { "\n" };
            eprint!("reading {what}: {} of {}{end}", Bytes(done), Bytes(of));
        }
    });
    if live && told != started {
        eprintln!();
    }
    done
}

/// Where a backbone's weights lie.
pub(super) enum Place {
    /// A file.
    File(PathBuf),
    /// The folder of a model that is used as it was published.
    Model(ModelFolder),
}

/// Where a backbone's weights lie in `dir`, if they do.
pub(super) fn weights_place(backbone: Backbone, dir: Option<&Path>) -> Result<Option<Place>, Failure> {
    let Some(dir) = dir else { return Ok(None) };
    if !dir.is_dir() {
        return Err(Failure::usage(format!("the weights folder {} is not there", dir.display())));
    }
    let place = match backbone.foundation() {
        Some(model) => ModelFolder::find(dir, model.name()).map(|found| found.map(Place::Model)),
        None => fleet_checkpoint::find(dir, backbone.name()).map(|found| found.map(Place::File)),
    };
    place.map_err(|e| Failure::usage(e.to_string()))
}

/// SHA-256 of them: of the file, or the folder's fingerprint.
fn weights_of(backbone: Backbone, dir: Option<&Path>) -> Result<Option<String>, Failure> {
    let hash = match weights_place(backbone, dir)? {
        None => return Ok(None),
        Some(Place::File(file)) => fleet_dataset::sha256_of_file(&file)
            .map_err(|e| Failure::usage(format!("cannot read the weights {}: {e}", file.display())))?,
        Some(Place::Model(folder)) => {
            telling(backbone.name(), |tell| folder.fingerprint(tell)).map_err(|e| Failure::usage(e.to_string()))?
        }
    };
    Ok(Some(hash))
}
