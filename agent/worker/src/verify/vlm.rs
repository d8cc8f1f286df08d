//! Kind `vlm`: models that read an image and a text, and go on with the text.

use fleet_common::record::BlockChoice;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use super::{frozen, procedural};
use crate::checkpointing::CheckpointingExecutor;
use crate::models::config;
use crate::models::decoder::{Cache, Sight};
use crate::models::mobilevlm::{MobileVlm, Projector};
use crate::models::paligemma::PaliGemma;
use crate::models::smolvlm::{SmolVlm, SmolVlmConfig};
use crate::models::vlm::{Vlm, read, with_image};
use crate::nn::Ctx;
use crate::torch::GradMode;

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let _off = GradMode::off();
    match folder.text("architecture")? {
        "smolvlm" => smolvlm(folder, checks),
        "paligemma" => paligemma(folder, checks),
        "mobilevlm" => mobilevlm(folder, Projector::Ldp, checks),
        "mobilevlm_v2" => mobilevlm(folder, Projector::LdpV2, checks),
        other => Err(VerifyError::Unsupported(format!(
            "the model \"{other}\" cannot be verified; expected smolvlm, paligemma, mobilevlm or mobilevlm_v2"
        ))),
    }
}

const EVAL: Ctx<'static> = Ctx::eval();

fn executor() -> CheckpointingExecutor {
    CheckpointingExecutor::uniform(BlockChoice::Keep)
}

/// The prompt's embeddings: `ids` (1, tokens), whose places `place` are the image's.
fn prompt(model: &dyn Vlm, ids: &Tensor, place: i64, image: &Tensor) -> anyhow::Result<Tensor> {
    let image = image.reshape([-1, image.size()[2]]);
    with_image(model.decoder(), &ids.squeeze_dim(0), place, &image).ok_or_else(|| {
        anyhow::anyhow!("the prompt does not have a place for each of the image's {} tokens", image.size()[0])
    })
}

fn greedy(folder: &Folder, model: &dyn Vlm, x: Tensor, checks: &mut Checks) -> anyhow::Result<()> {
    let reference = folder.io("greedy_new_tokens")?.view([-1]);
    let expected: Vec<i64> = Vec::try_from(&reference)?;
    // The reference goes on behind tokens that end a text.
    let found = read(model, x, &EVAL).answers(model, expected.len(), &[], &EVAL).swap_remove(0);
    checks.equal("greedy_new_tokens", &found, &expected);
    Ok(())
}

fn smolvlm(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let config = match folder.config["preset"].as_str() {
        Some("smolvlm_256m") => SmolVlmConfig::m256(),
        Some("smolvlm_500m") => SmolVlmConfig::m500(),
        _ => {
            let mut config = config::smolvlm(&folder.config);
            config.vision.norm_eps = folder.number_or("vision_layer_norm_eps", config.vision.norm_eps)?;
            config
        }
    };
    let model = frozen::build(folder, |b| SmolVlm::new(b, &config))?;
    let executor = executor();
    if !folder.has("pixel_values") {
        return smolvlm_by_formula(folder, &model, &config, checks);
    }
    let tiles = folder.io("pixel_values")?.squeeze_dim(0);
    let features = model.features(&tiles, &EVAL, &executor);
    checks.tensors("vision_last_hidden", &features, &folder.io("vision_last_hidden")?, Tolerance::EMBEDDINGS);
    let image = model.image_tokens(&tiles, &EVAL, &executor);
    checks.tensors("connector", &image, &folder.io("connector")?, Tolerance::EMBEDDINGS);
    let (ids, place) = (folder.io("input_ids")?, folder.int("image_token_id")?);
    let x = prompt(&model, &ids, place, &image)?;
    let prompted = read(&model, x.shallow_clone(), &EVAL);
    let logits = prompted.logits(&model, &EVAL);
    checks.tensors("logits", &logits, &folder.io("logits")?, Tolerance::EMBEDDINGS);
    if let Some(candidates) = folder.config["candidates"].as_array() {
        let tokens = |c: &Value| c.as_array().into_iter().flatten().filter_map(Value::as_i64).collect::<Vec<i64>>();
        let answers: Vec<Vec<i64>> = candidates.iter().map(tokens).collect();
        let scores = prompted.scores(&model, &answers, &EVAL).swap_remove(0);
        for (i, (ours, answer)) in scores.iter().zip(&answers).enumerate() {
            let theirs = &folder.config["candidate_logprob_sum_mean"][i];
            for (of, ours, at) in [("sum", *ours, 0), ("mean", ours / answer.len() as f64, 1)] {
                let reference = theirs[at].as_f64().unwrap_or(f64::NAN);
                checks.numbers(format!("candidate {i}: {of}"), ours, reference, Tolerance::EMBEDDINGS);
            }
        }
    }
    greedy(folder, &model, x, checks)?;
    if folder.has("leftpad.input_ids") {
        left_padded(folder, &model, checks)?;
    }
    Ok(())
}

/// Two texts of unlike length, padded in front; what pads is not compared.
fn left_padded(folder: &Folder, model: &SmolVlm, checks: &mut Checks) -> anyhow::Result<()> {
    let (ids, present) = (folder.io("leftpad.input_ids")?, folder.io("leftpad.attention_mask")?);
    let positions = (present.cumsum(-1, Kind::Int64) - 1).clamp_min(0);
    let x = model.decoder().embed(&ids);
    let mut cache = Cache::default();
    let x = model.decoder().read(x, &positions, &Sight::CausalWithout(&present), &mut cache, &EVAL);
    let real = present.to_kind(Kind::Bool).unsqueeze(-1);
    let only_real = |logits: Tensor| logits.masked_select(&real);
    let (ours, theirs) = (only_real(model.logits(&x, &EVAL)), only_real(folder.io("leftpad.logits")?));
    checks.tensors("leftpad.logits", &ours, &theirs, Tolerance::EMBEDDINGS);
    Ok(())
}

/// One tile, and what follows.
fn smolvlm_by_formula(
    folder: &Folder,
    model: &SmolVlm,
    config: &SmolVlmConfig,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    let tile = procedural::images(folder.prefix(), 1, config.vision.image_size).to_device(folder.device);
    let image = model.image_tokens(&tile, &EVAL, &executor());
    let x = prompt(model, &folder.io("input_ids")?, 49190, &image)?;
    let last = read(model, x, &EVAL).logits(model, &EVAL).select(1, -1).squeeze_dim(0);
    checks.tensors("last_logits", &last, &folder.io("last_logits")?, Tolerance::EMBEDDINGS);
    let likely = last.log_softmax(-1, None::<Kind>);
    let (best, ids) = likely.topk(10, -1, true, true);
    checks.tensors("top10_logprob", &best, &folder.io("top10_logprob")?, Tolerance::EMBEDDINGS);
    checks.tensors("top10_ids", &ids, &folder.io("top10_ids")?, Tolerance::Equal);
    Ok(())
}

fn paligemma(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let config = config::paligemma(&folder.config);
    let model = frozen::build(folder, |b| PaliGemma::new(b, &config))?;
    let (executor, images) = (executor(), folder.io("pixel_values")?);
    let features = model.features(&images, &EVAL, &executor);
    checks.tensors("vision_last_hidden", &features, &folder.io("vision_last_hidden")?, Tolerance::EMBEDDINGS);
    let image = model.image_tokens(&images, &EVAL, &executor);
    checks.tensors("projector", &image, &folder.io("projector")?, Tolerance::EMBEDDINGS);
    let place = folder.int("image_token_id")?;
    let ids = folder.io("prefix.input_ids")?;
    let x = prompt(&model, &ids, place, &image)?;
    let prefix = read(&model, x.shallow_clone(), &EVAL);
    let logits = prefix.logits(&model, &EVAL);
    checks.tensors("prefix.logits", &logits, &folder.io("prefix.logits")?, Tolerance::EMBEDDINGS);
    // The suffix's loss is its mean negative log-probability, and its logits those of what is read behind the prefix.
    let full = folder.io("full.input_ids")?.squeeze_dim(0);
    let before = ids.size()[1];
    let suffix: Vec<i64> =
        Vec::try_from(&full.narrow(0, before, full.size()[0] - before)).map_err(anyhow::Error::from)?;
    let score = prefix.scores(&model, std::slice::from_ref(&suffix), &EVAL);
    let loss = -score[0][0] / suffix.len() as f64;
    checks.numbers("full.loss", loss, folder.io("full.loss")?.double_value(&[0]), Tolerance::EMBEDDINGS);
    let behind = prefix.following(&model, &suffix, &EVAL).squeeze_dim(0);
    let theirs = folder.io("full.logits")?.squeeze_dim(0);
    let theirs = theirs.narrow(0, before, theirs.size()[0] - before);
    checks.tensors("full.logits behind the prefix", &behind, &theirs, Tolerance::EMBEDDINGS);
    Ok(greedy(folder, &model, x, checks)?)
}

fn mobilevlm(folder: &Folder, projector: Projector, checks: &mut Checks) -> Result<(), VerifyError> {
    folder.expect("vision_select_layer", &(-2).into())?;
    let (text, vision) = (&folder.config["text_config"], &folder.config["vision_config"]);
    let mut config = config::mobilevlm(text, vision, projector).map_err(VerifyError::Unsupported)?;
    config.vision.norm_eps = folder.number_or("vision_layer_norm_eps", config.vision.norm_eps)?;
    config.text.rope_theta = folder.number_or("rope_theta", config.text.rope_theta)?;
    let model = frozen::build(folder, |b| MobileVlm::new(b, &config))?;
    let (executor, images) = (executor(), folder.io("input")?);
    let features = model.features(&images, &EVAL, &executor);
    checks.tensors("selected", &features, &folder.io("selected")?, Tolerance::EMBEDDINGS);
    let image = model.image_tokens(&images, &EVAL, &executor);
    checks.tensors("projector", &image, &folder.io("projector")?, Tolerance::EMBEDDINGS);
    // One id stands for all of the image's tokens.
    let (ids, place) = (folder.io("input_ids")?.squeeze_dim(0), folder.int("image_token_index")?);
    let x = spliced(&model, &ids, place, &image)?;
    let prompted = read(&model, x.shallow_clone(), &EVAL);
    checks.tensors("logits", &prompted.logits(&model, &EVAL), &folder.io("logits")?, Tolerance::EMBEDDINGS);
    Ok(greedy(folder, &model, x, checks)?)
}

/// Embeddings (1, tokens, width) of `ids` (tokens), of which the only `place` becomes all of the image's tokens.
fn spliced(model: &dyn Vlm, ids: &Tensor, place: i64, image: &Tensor) -> anyhow::Result<Tensor> {
    let at = ids.eq(place).nonzero();
    anyhow::ensure!(at.size()[0] == 1, "expected one place for an image in the prompt, found {}", at.size()[0]);
    let at = at.int64_value(&[0, 0]);
    let text = |from: i64, to: i64| model.decoder().embed(&ids.narrow(0, from, to - from)).unsqueeze(0);
    Ok(Tensor::cat(&[text(0, at), image.shallow_clone(), text(at + 1, ids.size()[0])], 1))
}
