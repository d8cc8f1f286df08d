//! Kind `backbone`: outputs in evaluation, then one training pass with its loss, gradients and running statistics.

use std::cell::RefCell;
use std::collections::BTreeMap;

use fleet_common::plan::MethodSettings;
use fleet_common::record::BlockChoice;
use tch::{Kind, Tensor};

use super::VerifyError;
use super::architecture::{Architecture, Built};
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use super::procedural;
use crate::checkpointing::CheckpointingExecutor;
use crate::models::count_macs;
use crate::nn::{Ctx, Executor, Role, Seed, Slot};
use crate::peft;
use crate::torch::{GradMode, grad};
use crate::train::cross_entropy;

/// Keeps what comes out of each block, by name, in order.
#[derive(Default)]
struct Observer(RefCell<Vec<(String, Tensor)>>);

impl Executor for Observer {
    fn run(&self, blocks: &[Slot], mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        for block in blocks {
            xs = block.forward(xs, ctx);
            self.0.borrow_mut().push((block.name().to_owned(), xs[0].shallow_clone()));
        }
        xs
    }
}

impl Observer {
    /// The output of a stage: of its last block.
    fn stage(&self, name: &str) -> Option<Tensor> {
        let prefix = format!("{name}.");
        let blocks = self.0.borrow();
        let last = blocks.iter().rfind(|(block, _)| block == name || block.starts_with(&prefix))?;
        Some(last.1.shallow_clone())
    }
}

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let architecture = Architecture::of(folder)?;
    let (images, labels) = data(folder, &architecture)?;
    evaluation(folder, &architecture, &images, checks)?;
    training(folder, &architecture, &images, &labels, checks)?;
    Ok(())
}

/// Images and labels: the folder's, or those of the formula.
fn data(folder: &Folder, architecture: &Architecture) -> anyhow::Result<(Tensor, Tensor)> {
    if folder.has("input") {
        return Ok((folder.io("input")?, folder.io("labels")?));
    }
    let batch = folder.int("batch")?;
    let size = folder.number_or("size", architecture.image_size() as f64)? as i64;
    let classes = folder.int("num_classes")?;
    let labels: Vec<i64> = (0..batch).map(|b| (b * 37 + 11) % classes).collect();
    let images = procedural::images(folder.prefix(), batch, size);
    Ok((images.to_device(folder.device), Tensor::from_slice(&labels).to_device(folder.device)))
}

fn full(folder: &Folder, architecture: &Architecture, kind: Kind) -> anyhow::Result<Built> {
    architecture.build(folder, peft::method(&MethodSettings::Full), kind)
}

fn evaluation(
    folder: &Folder,
    architecture: &Architecture,
    images: &Tensor,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    let _off = GradMode::off();
    let Built { model, params } = full(folder, architecture, Kind::Float)?;
    if !folder.config["param_count"].is_null() {
        checks.equal("param_count", &(params.count() as i64), &folder.int("param_count")?);
    }
    if !folder.config["macs"].is_null() {
        let found = count_macs(model.as_ref(), &images.narrow(0, 0, 1), &Observer::default());
        checks.equal("macs", &(found as i64), &folder.int("macs")?);
    }
    if let Some(shapes) = folder.config["state_dict"].as_object() {
        let theirs: BTreeMap<String, Vec<i64>> = shapes
            .iter()
            .map(|(name, shape)| {
                let sizes = shape.as_array().into_iter().flatten().filter_map(serde_json::Value::as_i64);
                (name.clone(), sizes.collect())
            })
            .collect();
        let ours: BTreeMap<String, Vec<i64>> = params.iter().map(|p| (p.name.clone(), p.tensor.size())).collect();
        checks.equal("state_dict", &ours, &theirs);
    }
    let observer = Observer::default();
    let features = model.features(images, &Ctx::eval(), &observer);
    if folder.has("eval.features") {
        checks.tensors("eval.features", &features, &folder.io("eval.features")?, Tolerance::LOGITS);
    }
    for (stage, reference) in folder.io_under("eval.stage.") {
        let ours = match observer.stage(architecture.stage(stage)) {
            Some(output) => architecture.reference_layout(stage, &output),
            None if stage == "patch_embed" => model.patches(images, &Ctx::eval()),
            None => return Err(VerifyError::Unsupported(format!("no part of the model is called {stage}"))),
        };
        checks.tensors(format!("eval.stage.{stage}"), &ours, &reference, Tolerance::LOGITS);
    }
    let logits = model.forward(images, &Ctx::eval(), &Observer::default());
    checks.tensors("eval.logits", &logits, &folder.io("eval.logits")?, Tolerance::LOGITS);
    if folder.has("eval.logits_f64") {
        let Built { model, .. } = full(folder, architecture, Kind::Double)?;
        let logits = model.forward(&images.to_kind(Kind::Double), &Ctx::eval(), &Observer::default());
        checks.tensors("eval.logits_f64", &logits, &folder.io("eval.logits_f64")?, Tolerance::LOGITS_F64);
    }
    Ok(())
}

/// One pass that keeps everything against the reference, and one of each way to run things again against the first:
/// equal to the last bit.
fn training(
    folder: &Folder,
    architecture: &Architecture,
    images: &Tensor,
    labels: &Tensor,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    if !folder.has("train.logits") {
        return Ok(());
    }
    let pass = |how: BlockChoice| -> anyhow::Result<(Built, Tensor, Tensor, Vec<Option<Tensor>>)> {
        let built = full(folder, architecture, Kind::Float)?;
        let executor = CheckpointingExecutor::uniform(how);
        let logits = built.model.forward(images, &Ctx::train(Seed::root(0)), &executor);
        let loss = cross_entropy(&logits, labels);
        let targets: Vec<&Tensor> = built.params.trainable().map(|p| &p.tensor).collect();
        let grads = grad(&[&loss], &[None], &targets)?;
        Ok((built, logits.detach(), loss.detach(), grads))
    };
    let (built, logits, loss, grads) = pass(BlockChoice::Keep)?;
    checks.tensors("train.logits", &logits, &folder.io("train.logits")?, Tolerance::LOGITS);
    checks.numbers("train.loss", loss.double_value(&[]), folder.number("train_loss")?, Tolerance::LOGITS);
    let named: BTreeMap<&str, &Option<Tensor>> =
        built.params.trainable().map(|p| p.name.as_str()).zip(&grads).collect();
    for (name, norm) in folder.table("grad_norms") {
        let ours = named.get(name).and_then(|g| g.as_ref()).map_or(0.0, norm_of);
        checks.numbers(format!("norm of grad.{name}"), ours, norm, Tolerance::GRADIENTS);
    }
    for (name, reference) in folder.io_under("grad.") {
        let zero = reference.zeros_like();
        let ours = named.get(name).and_then(|g| g.as_ref()).unwrap_or(&zero);
        checks.tensors(format!("grad.{name}"), ours, &reference, Tolerance::GRADIENTS);
    }
    for (name, reference) in folder.io_under("post.") {
        let ours = built.params.get(name).map(|p| p.tensor.detach()).unwrap_or_default();
        checks.tensors(format!("post.{name}"), &ours, &reference, Tolerance::LOGITS);
    }
    let same = |a: &Option<Tensor>, b: &Option<Tensor>| match (a, b) {
        (Some(a), Some(b)) => a.equal(b),
        (None, None) => true,
        _ => false,
    };
    for how in [BlockChoice::Cheap, BlockChoice::Whole, BlockChoice::WholeCheap] {
        let name = how.name();
        let (again, logits2, loss2, grads2) = pass(how)?;
        checks.equal(
            &format!("run again ({name}): logits and loss"),
            &(logits.equal(&logits2), loss.equal(&loss2)),
            &(true, true),
        );
        let pairs = built.params.trainable().zip(grads.iter().zip(&grads2));
        let differing: Vec<&str> = pairs.filter(|(_, (a, b))| !same(a, b)).map(|(p, _)| p.name.as_str()).collect();
        checks.equal(&format!("run again ({name}): gradients that differ in a bit"), &differing, &Vec::new());
        let pairs = built.params.iter().zip(again.params.iter()).filter(|(a, _)| a.role == Role::Buffer);
        let differing: Vec<&str> =
            pairs.filter(|(a, b)| !a.tensor.equal(&b.tensor)).map(|(a, _)| a.name.as_str()).collect();
        checks.equal(&format!("run again ({name}): statistics that differ in a bit"), &differing, &Vec::new());
    }
    Ok(())
}

/// The 2-norm, summed in f64 as the reference's.
pub(super) fn norm_of(grad: &Tensor) -> f64 {
    grad.to_kind(Kind::Double).norm().double_value(&[])
}
