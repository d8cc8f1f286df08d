//! Reference folders through our implementation: is what we compute what the reference computes?
//!
//! A folder holds `config.json`, `weights.safetensors` (or says that its weights follow from a formula, or that they
//! are those of a neighbouring folder) and `io.safetensors`, the reference's inputs, outputs, losses and gradients.
//! `kind` and `architecture` in the configuration choose what is run, never the folder's name. What cannot be run is an
//! error, not a pass.

mod architecture;
mod backbone;
mod compare;
mod contrastive;
mod features;
mod folder;
mod frozen;
mod merge;
mod preprocess;
mod procedural;
mod quantization;
mod scan;
mod tokenizer;
mod trace;
mod vlm;

use std::path::Path;

use compare::Checks;
use fleet_common::verify::{Report, Verdict};
use folder::Folder;
use tch::Device;

use crate::torch::guard;

/// Why a folder could not be run.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    /// Nothing here runs that.
    #[error("{0}")]
    Unsupported(String),
    /// The folder is not as its configuration says, or our implementation failed on it.
    #[error("{0:#}")]
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for VerifyError {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<crate::torch::TorchError> for VerifyError {
    fn from(error: crate::torch::TorchError) -> Self {
        Self::Broken(error.into())
    }
}

/// Runs the reference at `dir` on `device`. Packing and preprocessing are the CPU's in any case, as in a trial.
pub fn run(dir: &Path, device: Device) -> Verdict {
    match report(dir, device) {
        Ok(report) => Verdict::of(report),
        Err(error) => Verdict::CannotRun { reason: error.to_string() },
    }
}

fn report(dir: &Path, device: Device) -> Result<Report, VerifyError> {
    let mut folder = Folder::open(dir)?;
    let mut checks = Checks::default();
    let kind = folder.text("kind")?.to_owned();
    if matches!(kind.as_str(), "backbone" | "training_trace" | "merge" | "scan" | "features" | "contrastive" | "vlm") {
        folder.device = device;
    }
    // A panic of tch's operators (a shape that does not fit) is an error about this folder.
    guard(|| match kind.as_str() {
        "backbone" => backbone::run(&folder, &mut checks),
        "training_trace" => trace::run(&folder, &mut checks),
        "merge" => merge::run(&folder, &mut checks),
        "quantization" => quantization::run(&folder, &mut checks),
        "preprocess" => preprocess::run(&folder, &mut checks),
        "scan" => scan::run(&folder, &mut checks),
        "features" => features::run(&folder, &mut checks),
        "contrastive" => contrastive::run(&folder, &mut checks),
        "vlm" => vlm::run(&folder, &mut checks),
        "tokenizer" => tokenizer::run(dir, &mut checks),
        other => Err(VerifyError::Unsupported(format!(
            "the kind \"{other}\" cannot be verified; expected backbone, training_trace, merge, quantization, preprocess, \
             scan, features, contrastive, vlm or tokenizer"
        ))),
    })??;
    let architecture = folder.config["architecture"].as_str().unwrap_or("none").to_owned();
    Ok(Report { kind, architecture, checks: checks.done()? })
}
