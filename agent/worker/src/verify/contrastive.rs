//! Kind `contrastive`: encoders of images and texts with a common space.

use fleet_common::record::BlockChoice;
use tch::Tensor;

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use super::frozen;
use super::procedural;
use crate::checkpointing::CheckpointingExecutor;
use crate::models::clip::{Clip, ClipNames};
use crate::models::siglip::Siglip;
use crate::models::{config, normalised, zero_shot_classifier};
use crate::nn::Ctx;
use crate::torch::GradMode;

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let _off = GradMode::off();
    match folder.text("architecture")? {
        "open_clip" => open_clip(folder, checks),
        "siglip" => siglip(folder, checks),
        other => Err(VerifyError::Unsupported(format!(
            "the contrastive model \"{other}\" cannot be verified; expected open_clip or siglip"
        ))),
    }
}

fn compare(folder: &Folder, checks: &mut Checks, name: &str, ours: &Tensor) -> anyhow::Result<()> {
    if folder.has(name) {
        checks.tensors(name, ours, &folder.io(name)?, Tolerance::EMBEDDINGS);
    }
    Ok(())
}

fn images(folder: &Folder, size: i64) -> anyhow::Result<Tensor> {
    match folder.has("input") {
        true => folder.io("input"),
        false => Ok(procedural::images(folder.prefix(), 2, size).to_device(folder.device)),
    }
}

fn open_clip(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let config::ClipConfig { vision, text, embedding } = config::open_clip(&folder.config);
    let model = frozen::build(folder, |b| Clip::new(b, ClipNames::OpenClip, &vision, &text, embedding))?;
    let (ctx, executor) = (Ctx::eval(), CheckpointingExecutor::uniform(BlockChoice::Keep));
    let images = model.encode_images(&images(folder, vision.image_size)?, &ctx, &executor);
    let texts = model.encode_texts(&folder.io("text")?, &ctx, &executor);
    compare(folder, checks, "image_features", &images)?;
    compare(folder, checks, "text_features", &texts)?;
    let logits = |texts: &Tensor| model.scale() * normalised(&images).matmul(&texts.transpose(0, 1));
    compare(folder, checks, "logits_per_image", &logits(&normalised(&texts)))?;
    if folder.has("zeroshot_classifier") {
        let classes = folder.io("zeroshot_classifier")?.size()[0];
        let classifier = zero_shot_classifier(&texts.view([classes, -1, texts.size()[1]]));
        compare(folder, checks, "zeroshot_classifier", &classifier)?;
        compare(folder, checks, "zeroshot_logits", &logits(&classifier))?;
    }
    Ok(())
}

fn siglip(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    folder.expect("activation", &"gelu_pytorch_tanh".into())?;
    let config::SiglipConfig { mut vision, mut text } = config::siglip(&folder.config);
    // A folder may say it once, beside the two.
    vision.norm_eps = folder.number_or("layer_norm_eps", vision.norm_eps)?;
    text.norm_eps = folder.number_or("layer_norm_eps", text.norm_eps)?;
    let model = frozen::build(folder, |b| Siglip::new(b, &vision, &text))?;
    let (ctx, executor) = (Ctx::eval(), CheckpointingExecutor::uniform(BlockChoice::Keep));
    let pictures = images(folder, vision.image_size)?;
    compare(folder, checks, "vision_last_hidden", &model.features(&pictures, &ctx, &executor))?;
    let images = model.encode_images(&pictures, &ctx, &executor);
    let texts = model.encode_texts(&folder.io("text")?, &ctx, &executor);
    compare(folder, checks, "image_features", &images)?;
    compare(folder, checks, "text_features", &texts)?;
    let (images, texts) = (normalised(&images), normalised(&texts));
    compare(folder, checks, "image_embeds", &images)?;
    compare(folder, checks, "text_embeds", &texts)?;
    let (scale, bias) = model.scale_and_bias();
    let logits = scale * images.matmul(&texts.transpose(0, 1)) + bias;
    compare(folder, checks, "logits_per_image", &logits)?;
    compare(folder, checks, "probs", &logits.sigmoid())?;
    Ok(())
}
