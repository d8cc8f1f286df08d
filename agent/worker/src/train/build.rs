//! Putting the model of a job together.

use std::path::Path;
use std::rc::Rc;

use anyhow::Context as _;
use fleet_common::plan::{CellSettings, TrainSettings};
use fleet_common::record::{BlockChoice, Cap, LoadSummary};
use fleet_common::spec::{BatchNorm, Checkpointing, Preprocessing, Recipe};
use tch::{Device, Kind, Tensor};

use crate::checkpointing::{Adaptive, CheckpointingExecutor, Policy, Uniform};
use crate::models::{self, Model};
use crate::nn::{BuildError, Builder, Params, Seed, Weights};
use crate::peft::{self, Method};

/// A model, ready to train.
pub(super) struct Built {
    pub model: Box<dyn Model>,
    pub params: Params,
    pub executor: CheckpointingExecutor,
    pub method: Rc<dyn Method>,
    pub loaded: Option<LoadSummary>,
    /// What images go through before the model.
    pub recipe: Recipe,
    /// What they went through when the initial weights were trained.
    pub weights_recipe: Option<Recipe>,
    /// How it is trained.
    pub train: TrainSettings,
}

/// Builds the model that settings name, from a file of weights or fresh, with a head for `classes`.
pub(super) fn build(
    settings: &CellSettings,
    train: &TrainSettings,
    weights: Option<&Path>,
    classes: &[String],
    device: Device,
    cap: Option<Cap>,
    seed: Seed,
) -> anyhow::Result<Built> {
    let weights = weights.map(Weights::read).transpose()?.map(Weights::without_wrapper);
    if let Some(name) = weights.iter().flat_map(Weights::names).find(|n| n.contains(".lora_")) {
        return Err(BuildError {
            problems: vec![format!(
                "the weights hold an adapter that was not merged ({name}); without it they are not what was trained"
            )],
        }
        .into());
    }
    let other_classes = weights.as_ref().and_then(Weights::classes).is_some_and(|theirs| theirs != classes);
    // Weights that we wrote know their recipe; public ones are known by the backbone that they are of.
    let weights_recipe = weights.as_ref().map(|w| w.recipe().unwrap_or_else(|| settings.backbone.recipe()));
    let recipe = match train.preprocessing {
        Preprocessing::Protocol => Recipe::PROTOCOL,
        Preprocessing::Weights => weights_recipe.unwrap_or_else(|| settings.backbone.recipe()),
    };
    let method = peft::method(&settings.method);
    let mut b = Builder::new(method.clone(), weights, seed.named("weights"), device, Kind::Float);
    if other_classes {
        b = b.with_fresh_head();
    }
    if train.batch_norm == BatchNorm::Frozen {
        b = b.with_frozen_statistics();
    }
    let model = models::build(settings.backbone, settings.image_size, classes.len() as i64, &b)
        .with_context(|| format!("{} is not trained here", settings.backbone.name()))?;
    let (params, loaded) = b.finish()?;
    let executor = CheckpointingExecutor::with(first_policy(settings, device, cap)?);
    Ok(Built { model, params, executor, method, loaded, recipe, weights_recipe, train: train.clone() })
}

/// The policy to begin with.
pub(super) fn first_policy(
    settings: &CellSettings,
    device: Device,
    cap: Option<Cap>,
) -> anyhow::Result<Box<dyn Policy>> {
    let uniform = |choice| -> Box<dyn Policy> { Box::new(Uniform(choice)) };
    Ok(match settings.checkpointing {
        Checkpointing::None => uniform(BlockChoice::Keep),
        Checkpointing::Static => uniform(BlockChoice::Whole),
        Checkpointing::Adaptive => {
            let threshold = cap.and_then(|cap| settings.adaptive_threshold(cap.bytes));
            Box::new(Adaptive::new(device, threshold.context("the adaptive strategy lacks its budget or ratio")?))
        }
        // Until a step was profiled, whatever needs the least memory.
        Checkpointing::Planned => uniform(BlockChoice::WholeCheap),
    })
}

/// Multiply-accumulates per image.
pub(super) fn count_macs(built: &Built, image_size: u32, device: Device) -> u64 {
    let side = i64::from(image_size);
    let image = Tensor::zeros([1, 3, side, side], (Kind::Float, device));
    models::count_macs(built.model.as_ref(), &image, &built.executor)
}
