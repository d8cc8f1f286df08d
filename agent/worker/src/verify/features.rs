//! Kind `features`: encoders of images without a head.

use tch::{Kind, Tensor};

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use super::frozen;
use super::procedural;
use crate::checkpointing::CheckpointingExecutor;
use crate::models::clip::{ClipNames, ClipVision};
use crate::models::config;
use crate::models::dinov2::{Dinov2, Dinov2Config, Dinov2Names};
use crate::nn::{Ctx, Executor};
use fleet_common::record::BlockChoice;

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let _off = crate::torch::GradMode::off();
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    match folder.text("architecture")? {
        "dinov2_hf" => dinov2_hf(folder, &executor, checks),
        "dinov2_timm" => dinov2_timm(folder, &executor, checks),
        "clip_vision" => clip_vision(folder, &executor, checks),
        other => Err(VerifyError::Unsupported(format!(
            "the features of \"{other}\" cannot be verified; expected dinov2_hf, dinov2_timm or clip_vision"
        ))),
    }
}

/// By transformers' configuration, or the small model where the folder says no sizes.
fn dinov2_hf(folder: &Folder, executor: &dyn Executor, checks: &mut Checks) -> Result<(), VerifyError> {
    let config =
        if folder.config["hidden_size"].is_null() { Dinov2Config::SMALL } else { config::dinov2(&folder.config) };
    let model = frozen::build(folder, |b| Dinov2::new(b, Dinov2Names::Hf, &config))?;
    let mut compare = |suffix: &str, images: &Tensor| -> anyhow::Result<()> {
        let features = model.features(images, &Ctx::eval(), executor);
        let patches = features.narrow(1, 1, features.size()[1] - 1).mean_dim(1, false, Kind::Float);
        let ours = [
            ("last_hidden", features.shallow_clone()),
            ("pooled", model.forward(images, &Ctx::eval(), executor)),
            ("patch_mean", patches),
        ];
        for (name, ours) in ours {
            let name = format!("{name}{suffix}");
            if folder.has(&name) {
                checks.tensors(name.clone(), &ours, &folder.io(&name)?, Tolerance::EMBEDDINGS);
            }
        }
        Ok(())
    };
    for (size, images) in folder.io_under("input.") {
        compare(&format!(".{size}"), &images)?;
    }
    if folder.config["weights"] == "procedural" {
        compare("", &procedural::images(folder.prefix(), 2, 224))?;
    }
    Ok(())
}

/// By timm's arguments.
fn dinov2_timm(folder: &Folder, executor: &dyn Executor, checks: &mut Checks) -> Result<(), VerifyError> {
    let width = folder.int("embed_dim")?;
    let config = Dinov2Config {
        image_size: folder.int("img_size")?,
        patch_size: folder.int("patch_size")?,
        width,
        depth: folder.int("depth")?,
        heads: folder.int("num_heads")?,
        hidden: (width as f64 * folder.number_or("mlp_ratio", 4.0)?) as i64,
        norm_eps: folder.number_or("norm_eps", 1e-6)?,
    };
    let model = frozen::build(folder, |b| Dinov2::new(b, Dinov2Names::Timm, &config))?;
    let images = folder.io("input")?;
    let features = model.features(&images, &Ctx::eval(), executor);
    let class = model.forward(&images, &Ctx::eval(), executor);
    let patches = features.narrow(1, 1, features.size()[1] - 1).mean_dim(1, false, Kind::Float);
    checks.tensors("eval.features", &features, &folder.io("eval.features")?, Tolerance::EMBEDDINGS);
    checks.tensors("eval.pooled_cls", &class, &folder.io("eval.pooled_cls")?, Tolerance::EMBEDDINGS);
    let both = Tensor::cat(&[class, patches], 1);
    checks.tensors("eval.linear_probe_in", &both, &folder.io("eval.linear_probe_in")?, Tolerance::EMBEDDINGS);
    Ok(())
}

/// CLIP's encoder by transformers' configuration, and what MobileVLM reads of it.
fn clip_vision(folder: &Folder, executor: &dyn Executor, checks: &mut Checks) -> Result<(), VerifyError> {
    let config = config::clip_vision(&folder.config).map_err(VerifyError::Unsupported)?;
    let model = frozen::build(folder, |b| ClipVision::new(b, ClipNames::Hf, &config))?;
    let images = folder.io("input")?;
    let hidden = model.hidden(&images, 0, &Ctx::eval(), executor);
    checks.tensors("last_hidden", &hidden, &folder.io("last_hidden")?, Tolerance::EMBEDDINGS);
    checks.tensors("pooled", &model.pooled(&hidden), &folder.io("pooled")?, Tolerance::EMBEDDINGS);
    let selected = model.hidden(&images, 1, &Ctx::eval(), executor);
    let selected = selected.narrow(1, 1, selected.size()[1] - 1);
    checks.tensors("selected", &selected, &folder.io("selected")?, Tolerance::EMBEDDINGS);
    Ok(())
}
