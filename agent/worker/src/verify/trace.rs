//! Kind `training_trace`: some steps of a method, followed one by one.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use fleet_common::plan::{AdaLoraSettings, LoraSettings, MethodSettings, QLoraSettings};
use fleet_common::record::BlockChoice;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::VerifyError;
use super::architecture::{Architecture, Built};
use super::backbone::norm_of;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use crate::checkpointing::CheckpointingExecutor;
use crate::nn::{Ctx, Param, Role, Seed};
use crate::peft::{self, Method, Schedule};
use crate::torch::adamw::{AdamW, AdamWConfig};
use crate::torch::sgd::{Sgd, SgdConfig};
use crate::torch::{GradMode, TorchError, grad};
use crate::train::cross_entropy;

/// Our name of a parameter that PEFT's model names so: adapters are called "default" there.
pub(super) fn ours(theirs: &str) -> String {
    theirs.replace(".default", "")
}

/// The settings of `method` in the folder's configuration.
pub(super) fn settings(folder: &Folder, method: &str) -> Result<MethodSettings, VerifyError> {
    let rank = |key: &str| -> anyhow::Result<u32> {
        u32::try_from(folder.int(key)?).with_context(|| format!("{key} in config.json"))
    };
    let dropout = folder.number_or("lora_dropout", 0.0)?;
    let rslora = folder.config["use_rslora"].as_bool().unwrap_or_default()
        || folder.config["scaling"].as_str().is_some_and(|s| s.contains("sqrt"));
    Ok(match method {
        "full" => MethodSettings::Full,
        "bitfit" => MethodSettings::BitFit,
        "lora" => MethodSettings::Lora(LoraSettings {
            rank: rank("r")?,
            alpha: folder.number("lora_alpha")?,
            dropout,
            targets: folder.texts("target_modules")?,
            rslora,
        }),
        "qlora" => MethodSettings::QLora(QLoraSettings {
            rank: rank("r")?,
            alpha: folder.number("lora_alpha")?,
            dropout,
            targets: folder.texts("target_modules")?,
            rslora,
            block: rank("blocksize")?,
            double_quantization: folder.config["double_quant"].as_bool().unwrap_or_default(),
        }),
        "adalora" => MethodSettings::AdaLora(AdaLoraSettings {
            init_rank: rank("init_r")?,
            target_rank: rank("target_r")?,
            alpha: folder.number("lora_alpha")?,
            dropout,
            targets: folder.texts("target_modules")?,
            tinit: rank("tinit")?,
            tfinal: rank("tfinal")?,
            delta_t: rank("deltaT")?,
            beta1: folder.number_or("beta1", 0.85)?,
            beta2: folder.number_or("beta2", 0.85)?,
            orthogonal_weight: if folder.config["orthogonal_term_in_loss"].as_bool().unwrap_or(true) {
                folder.number_or("orth_reg_weight", 0.5)?
            } else {
                0.0
            },
        }),
        other => {
            return Err(VerifyError::Unsupported(format!(
                "the method \"{other}\" is not there; expected full, lora, adalora, qlora or bitfit"
            )));
        }
    })
}

/// The optimiser that the reference used.
enum Optimizer {
    AdamW(AdamW, f64),
    Sgd(Sgd, f64),
}

impl Optimizer {
    fn of(folder: &Folder, params: Vec<Tensor>) -> Result<Self, VerifyError> {
        let args = &folder.config["optimizer_args"];
        let number = |key: &str, default: f64| args[key].as_f64().unwrap_or(default);
        let lr = args["lr"].as_f64().context("optimizer_args.lr in config.json")?;
        match folder.text("optimizer")? {
            "AdamW" => {
                let config = AdamWConfig {
                    beta1: args["betas"][0].as_f64().unwrap_or(0.9),
                    beta2: args["betas"][1].as_f64().unwrap_or(0.999),
                    eps: number("eps", 1e-8),
                    weight_decay: number("weight_decay", 0.01),
                };
                Ok(Self::AdamW(AdamW::new(params, config), lr))
            }
            "SGD" => {
                let config = SgdConfig { momentum: number("momentum", 0.0), weight_decay: number("weight_decay", 0.0) };
                Ok(Self::Sgd(Sgd::new(params, config), lr))
            }
            other => {
                Err(VerifyError::Unsupported(format!("the optimiser \"{other}\" is not there; expected AdamW or SGD")))
            }
        }
    }

    fn step(&mut self, grads: &[Option<Tensor>]) -> Result<(), TorchError> {
        match self {
            Self::AdamW(optimizer, lr) => optimizer.step(grads, *lr),
            Self::Sgd(optimizer, lr) => optimizer.step(grads, *lr),
        }
    }
}

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let architecture = Architecture::of(folder)?;
    let method = peft::method(&settings(folder, folder.text("method")?)?);
    let built = architecture.build(folder, method.clone(), Kind::Float)?;
    trainable(folder, &built, checks)?;
    packed(folder, &built, checks)?;
    begin(folder, &built)?;
    follow(folder, &built, method.as_ref(), checks)?;
    for (name, reference) in folder.io_under("final.").filter(|(name, _)| *name != "logits") {
        let name = ours(name);
        let param = built.params.get(&name).with_context(|| format!("the model has no {name}"))?;
        let (mut got, mut expected) = (param.tensor.detach(), reference);
        if let Some(keys) = noise(folder, &architecture, param) {
            let rest: Vec<i64> = (0..got.size()[0]).filter(|row| !keys.contains(row)).collect();
            let rest = Tensor::from_slice(&rest).to_device(folder.device);
            (got, expected) = (got.index_select(0, &rest), expected.index_select(0, &rest));
        }
        checks.tensors(format!("final.{name}"), &got, &expected, Tolerance::TRACE);
    }
    // Running statistics, which move in training whatever is frozen.
    for (name, reference) in folder.io_under("post.") {
        let buffer = built.params.get(name).with_context(|| format!("the model has no {name}"))?;
        checks.tensors(format!("post.{name}"), &buffer.tensor, &reference, Tolerance::TRACE);
    }
    Ok(())
}

/// Rows that the reference calls not comparable: AdamW turns the noise of a gradient that is exactly zero into steps.
fn noise(folder: &Folder, architecture: &Architecture, param: &Param) -> Option<Vec<i64>> {
    folder.config["not_comparable"].as_str()?;
    architecture.key_rows(&param.name, param.tensor.size()[0])
}

/// What packed weights mean, where the folder tells it.
fn packed(folder: &Folder, built: &Built, checks: &mut Checks) -> anyhow::Result<()> {
    let Some(reference) = folder.more("quantised.safetensors")? else { return Ok(()) };
    for name in reference.names() {
        let (Some(ours), Some(theirs)) = (name.strip_prefix("dequant."), reference.get(name)) else { continue };
        let param = built.params.get(ours).with_context(|| format!("the model has no {ours}"))?;
        checks.tensors(name, &param.values(), theirs, Tolerance::Relative(1e-5, 0.0));
    }
    Ok(())
}

/// What trains, and how much there is.
fn trainable(folder: &Folder, built: &Built, checks: &mut Checks) -> anyhow::Result<()> {
    let mut names: Vec<String> = built.params.trainable().map(|p| p.name.clone()).collect();
    let mut theirs: Vec<String> = folder.texts("trainable")?.iter().map(|n| ours(n)).collect();
    names.sort();
    theirs.sort();
    checks.equal("trainable", &names, &theirs);
    let expected = folder.int("trainable_params")?;
    checks.equal("trainable_params", &(built.params.count_trainable() as i64), &expected);
    if !folder.config["total_params"].is_null() {
        // PEFT keeps the frozen original of the head beside the copy that trains, a rank count of one value per AdaLoRA
        // layer, and counts a packed weight by its bytes; we have one head, and count values.
        let adapted = built.params.iter().any(|p| p.role == Role::Adapter);
        let head: u64 = built.params.iter().filter(|p| p.role == Role::Head).map(Param::count).sum();
        let layers = built.params.iter().filter(|p| p.name.ends_with(".lora_E")).count() as u64;
        let bytes = |p: &Param| p.packed.as_ref().map_or(0, |_| p.count() - p.tensor.numel() as u64);
        let packed: u64 = built.params.iter().map(bytes).sum();
        let total = built.params.count() + if adapted { head } else { 0 } + layers - packed;
        checks.equal("total_params", &(total as i64), &folder.int("total_params")?);
    }
    Ok(())
}

/// The reference's initial values for what trains.
fn begin(folder: &Folder, built: &Built) -> anyhow::Result<()> {
    let _off = GradMode::off();
    let begun: BTreeMap<String, Tensor> = folder.io_under("init.").map(|(name, t)| (ours(name), t)).collect();
    for param in built.params.trainable() {
        let values = begun.get(&param.name).with_context(|| format!("expected a tensor init.{}", param.name))?;
        if values.size() != param.tensor.size() {
            let found = param.tensor.size();
            return Err(anyhow!("{}: expected shape {:?}, found {found:?}", param.name, values.size()));
        }
        param.tensor.shallow_clone().copy_(values);
    }
    Ok(())
}

fn follow(folder: &Folder, built: &Built, method: &dyn Method, checks: &mut Checks) -> Result<(), VerifyError> {
    let Built { model, params } = built;
    let trainable: Vec<Tensor> = params.trainable().map(|p| p.tensor.shallow_clone()).collect();
    let wanted: Vec<&Tensor> = trainable.iter().collect();
    let mut optimizer = Optimizer::of(folder, trainable.iter().map(Tensor::shallow_clone).collect())?;
    let losses = folder.numbers("losses")?;
    let entropies =
        if folder.config["cross_entropy"].is_null() { Vec::new() } else { folder.numbers("cross_entropy")? };
    let steps = folder.number_or("total_step", losses.len() as f64)? as u32;
    let mut schedule = method.schedule(params, steps);
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let (input, labels) = (folder.io("input")?, folder.io("labels")?);
    let mut first: Vec<Option<Tensor>> = Vec::new();
    for (step, reference) in (1u32..).zip(&losses) {
        let logits = model.forward(&input, &Ctx::train(Seed::root(0)), &executor);
        let entropy = cross_entropy(&logits, &labels);
        let loss = match method.penalty(params) {
            Some(penalty) => &entropy + penalty,
            None => entropy.shallow_clone(),
        };
        let grads = grad(&[&loss], &[None], &wanted)?;
        checks.numbers(format!("step {step}: loss"), loss.double_value(&[]), *reference, Tolerance::TRACE);
        if let Some(reference) = entropies.get(step as usize - 1) {
            let found = entropy.double_value(&[]);
            checks.numbers(format!("step {step}: cross entropy"), found, *reference, Tolerance::TRACE);
        }
        if step == 1 {
            if folder.has("step1.logits") {
                checks.tensors("step1.logits", &logits, &folder.io("step1.logits")?, Tolerance::LOGITS);
            }
            first = grads.iter().map(|g| g.as_ref().map(Tensor::shallow_clone)).collect();
        }
        optimizer.step(&grads)?;
        if let Some(schedule) = &mut schedule {
            schedule.after_step(step, params, &grads);
            ranks(folder, step, schedule.as_ref(), built, checks);
        }
    }
    first_gradients(folder, built, &first, checks);
    let logits = {
        let _off = GradMode::off();
        model.forward(&input, &Ctx::eval(), &executor)
    };
    checks.tensors("final.logits", &logits, &folder.io("final.logits")?, Tolerance::TRACE);
    let loss = cross_entropy(&logits, &labels).double_value(&[]);
    checks.numbers("final loss", loss, folder.number("final_loss")?, Tolerance::TRACE);
    if let (Some(schedule), Some(theirs)) = (&schedule, folder.config["final_rank_pattern"].as_object()) {
        let theirs: BTreeMap<String, u32> =
            theirs.iter().map(|(layer, ranks)| (layer.clone(), count(ranks, |r| r.as_bool() == Some(true)))).collect();
        checks.equal("final ranks", &schedule.ranks(), &theirs);
        let patterns: BTreeMap<String, Vec<bool>> = schedule.pattern();
        let reference: BTreeMap<String, Vec<bool>> = folder.config["final_rank_pattern"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(layer, ranks)| {
                let stays = ranks.as_array().into_iter().flatten().map(|r| r.as_bool() == Some(true));
                (layer.clone(), stays.collect())
            })
            .collect();
        checks.equal("which ranks stay", &patterns, &reference);
    }
    Ok(())
}

fn count(list: &Value, what: impl Fn(&Value) -> bool) -> u32 {
    list.as_array().into_iter().flatten().filter(|v| what(v)).count() as u32
}

fn first_gradients(folder: &Folder, built: &Built, grads: &[Option<Tensor>], checks: &mut Checks) {
    let named: BTreeMap<String, &Option<Tensor>> =
        built.params.trainable().map(|p| p.name.clone()).zip(grads).collect();
    for (name, reference) in folder.table("grad_norms_step1") {
        let found = named.get(&ours(name)).and_then(|g| g.as_ref()).map_or(0.0, norm_of);
        checks.numbers(
            format!("step 1: norm of the gradient of {}", ours(name)),
            found,
            reference,
            Tolerance::GRADIENTS,
        );
    }
    for (name, reference) in folder.io_under("grad1.") {
        let zero = reference.zeros_like();
        let found = named.get(&ours(name)).and_then(|g| g.as_ref()).unwrap_or(&zero);
        checks.tensors(format!("step 1: gradient of {}", ours(name)), found, &reference, Tolerance::GRADIENTS);
    }
}

/// The reference's ranks after a step, where it tells them.
fn ranks(folder: &Folder, step: u32, schedule: &dyn Schedule, built: &Built, checks: &mut Checks) {
    let steps = folder.config["per_step"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(theirs) = steps.iter().find(|s| s["step"].as_u64() == Some(u64::from(step))) else { return };
    let table = |value: &Value| -> Option<BTreeMap<String, u32>> {
        value.as_object()?.iter().map(|(layer, n)| Some((layer.clone(), n.as_u64()? as u32))).collect()
    };
    if let Some(reference) = table(&theirs["ranks"]) {
        checks.equal(&format!("step {step}: ranks"), &schedule.ranks(), &reference);
    }
    if let Some(reference) = table(&theirs["nonzero_E"]) {
        let values = built.params.iter().filter_map(|p| Some((p.name.strip_suffix(".lora_E")?.to_owned(), p)));
        let found: BTreeMap<String, u32> =
            values.map(|(layer, p)| (layer, p.tensor.count_nonzero(None::<i64>).int64_value(&[]) as u32)).collect();
        checks.equal(&format!("step {step}: singular values that are not zero"), &found, &reference);
    }
    let (budget, masks) = schedule.budget(step);
    if let Some(reference) = theirs["scheduled_budget"].as_i64() {
        checks.equal(&format!("step {step}: budget"), &budget, &reference);
    }
    if let Some(reference) = theirs["scheduled_mask"].as_bool() {
        checks.equal(&format!("step {step}: masks"), &masks, &reference);
    }
}
