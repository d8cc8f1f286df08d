//! Kind `merge`: a model with adapters, and the same with the adapters merged into its weights.

use anyhow::Context as _;
use tch::{Kind, Tensor};

use super::VerifyError;
use super::architecture::{Architecture, Built};
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use super::trace::{ours, settings};
use crate::checkpointing::CheckpointingExecutor;
use crate::nn::{Ctx, Weights};
use crate::peft;
use crate::torch::GradMode;
use fleet_common::plan::MethodSettings;
use fleet_common::record::BlockChoice;

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let _off = GradMode::off();
    let architecture = Architecture::of(folder)?;
    let method = peft::method(&settings(folder, folder.config["method"].as_str().unwrap_or("lora"))?);
    let Built { model, params } = architecture.build(folder, method.clone(), Kind::Float)?;
    for (name, values) in folder.io_under("adapter.").filter(|(name, _)| *name != "logits") {
        let name = ours(name);
        let param = params.get(&name).with_context(|| format!("the model has no {name}"))?;
        param.tensor.shallow_clone().copy_(&values);
    }
    let input = folder.io("input")?;
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let logits = |model: &dyn crate::models::Model| model.forward(&input, &Ctx::eval(), &executor);
    checks.tensors("adapter.logits", &logits(model.as_ref()), &folder.io("adapter.logits")?, Tolerance::LOGITS);

    let merged: Vec<(String, Tensor)> = peft::merged(&params, method.as_ref()).collect();
    for (name, reference) in folder.io_under("merged.").filter(|(name, _)| *name != "logits") {
        let values = merged.iter().find(|(n, _)| n == name).map(|(_, v)| v.shallow_clone()).unwrap_or_default();
        checks.tensors(format!("merged.{name}"), &values, &reference, Tolerance::LOGITS);
    }
    let plain = peft::method(&MethodSettings::Full);
    let Built { model, .. } =
        architecture.build_with(Weights::from_tensors(merged), plain, folder.device, Kind::Float)?;
    checks.tensors("merged.logits", &logits(model.as_ref()), &folder.io("merged.logits")?, Tolerance::LOGITS);
    Ok(())
}
