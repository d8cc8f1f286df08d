//! Kind `contrastive`: encoders of images and texts with a common space.

use fleet_common::record::BlockChoice;
use serde_json::Value;
use tch::Tensor;

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use super::frozen;
use super::procedural;
use crate::checkpointing::CheckpointingExecutor;
use crate::models::clip::{Clip, ClipNames, ClipTextConfig, ClipVisionConfig};
use crate::models::siglip::{Siglip, SiglipTextConfig, SiglipVisionConfig};
use crate::models::{normalised, zero_shot_classifier};
use crate::nn::{Activation, Ctx};
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

/// A whole number of a nested configuration, or what its class has where it says nothing.
pub(super) fn int(config: &Value, key: &str, default: i64) -> i64 {
    config[key].as_i64().unwrap_or(default)
}

fn open_clip(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let (vision, text) = (&folder.config["vision_cfg"], &folder.config["text_cfg"]);
    let quick = folder.config["quick_gelu"].as_bool().unwrap_or(false);
    let activation = if quick { Activation::QuickGelu } else { Activation::Gelu };
    let norm_eps = folder.number_or("norm_eps", 1e-5)?;
    // What is not said is ViT-B-32's.
    let width = int(vision, "width", 768);
    let vision = ClipVisionConfig {
        image_size: int(vision, "image_size", 224),
        patch_size: int(vision, "patch_size", 32),
        width,
        depth: int(vision, "layers", 12),
        heads: width / int(vision, "head_width", 64),
        hidden: 4 * width,
        norm_eps,
        activation,
    };
    let width = int(text, "width", 512);
    let text = ClipTextConfig {
        context: int(text, "context_length", 77),
        vocabulary: int(text, "vocab_size", 49408),
        width,
        depth: int(text, "layers", 12),
        heads: int(text, "heads", 8),
        hidden: 4 * width,
        norm_eps,
        activation,
    };
    let embedding = folder.number_or("embed_dim", 512.0)? as i64;
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
    let (vision, text) = (&folder.config["vision_config"], &folder.config["text_config"]);
    let norm_eps = folder.number_or("layer_norm_eps", 1e-6)?;
    // What is not said is base-patch16-224's.
    let vision = SiglipVisionConfig {
        image_size: int(vision, "image_size", 224),
        patch_size: int(vision, "patch_size", 16),
        width: int(vision, "hidden_size", 768),
        depth: int(vision, "num_hidden_layers", 12),
        heads: int(vision, "num_attention_heads", 12),
        hidden: int(vision, "intermediate_size", 3072),
        norm_eps,
    };
    let width = int(text, "hidden_size", 768);
    let text = SiglipTextConfig {
        context: int(text, "max_position_embeddings", 64),
        vocabulary: int(text, "vocab_size", 32000),
        width,
        depth: int(text, "num_hidden_layers", 12),
        heads: int(text, "num_attention_heads", 12),
        hidden: int(text, "intermediate_size", 3072),
        norm_eps,
        embedding: int(text, "projection_size", vision.width),
    };
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
