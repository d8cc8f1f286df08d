//! Putting the model of a job together.

use fleet_common::record::LoadSummary;
use fleet_common::worker::Job;
use tch::{Device, Kind, Tensor};

use crate::checkpointing::CheckpointingExecutor;
use crate::models::{self, Model};
use crate::nn::{BuildError, Builder, Params, Seed, Weights};
use crate::peft;

/// A model, ready to train.
pub(super) struct Built {
    pub model: Box<dyn Model>,
    pub params: Params,
    pub executor: CheckpointingExecutor,
    pub loaded: Option<LoadSummary>,
}

/// Builds the model that a job names, with a head for `classes`.
pub(super) fn build(job: &Job, classes: &[String], device: Device, seed: Seed) -> anyhow::Result<Built> {
    let settings = &job.settings;
    let weights = job.weights.as_deref().map(Weights::read).transpose()?;
    if let Some(name) = weights.iter().flat_map(Weights::names).find(|n| n.contains(".lora_")) {
        return Err(BuildError {
            problems: vec![format!(
                "the weights hold an adapter that was not merged ({name}); without it they are not what was trained"
            )],
        }
        .into());
    }
    let other_classes = weights.as_ref().and_then(Weights::classes).is_some_and(|theirs| theirs != classes);
    let mut b = Builder::new(peft::method(&settings.method), weights, seed.named("weights"), device, Kind::Float);
    if other_classes {
        b = b.with_fresh_head();
    }
    let model = models::build(settings.backbone, settings.image_size, classes.len() as i64, &b);
    let (params, loaded) = b.finish()?;
    Ok(Built { model, params, executor: CheckpointingExecutor::new(settings.checkpointing), loaded })
}

/// Multiply-accumulates per image.
pub(super) fn count_macs(built: &Built, image_size: u32, device: Device) -> u64 {
    let side = i64::from(image_size);
    let image = Tensor::zeros([1, 3, side, side], (Kind::Float, device));
    models::count_macs(built.model.as_ref(), &image, &built.executor)
}
