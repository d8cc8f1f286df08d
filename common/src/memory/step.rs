//! One training step under a strategy.

use std::cell::Cell;
use std::rc::Rc;

use super::block::{Block, recomputed};
use super::build::{Builder, Params};
use super::graph::{grad, record_one};
use super::layers::Pass;
use super::model::{Model, model};
use super::ops;
use super::tape::{SINGLE, Tape, Tensor};
use crate::plan::{CellSettings, MethodSettings, TrainSettings};
use crate::spec::Precision;

/// What happens to blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// All that backward needs is kept.
    Keep,
    /// Each runs again.
    Again,
    /// Each runs again, and keeps no more while it does than the inputs of its cheap parts.
    AgainCheaply,
    /// Blocks whose begin finds so many bytes in use run again.
    AgainFrom(u64),
}

/// What a block takes.
#[derive(Debug, Clone, Default)]
pub(super) struct BlockBytes {
    pub(super) name: String,
    /// That stay from its forward to its backward, where all is kept.
    pub(super) kept: u64,
    /// That its backward needs beyond what was there, where it runs again.
    pub(super) backward: u64,
}

/// What a step takes.
#[derive(Debug, Clone, Default)]
pub(super) struct StepBytes {
    pub(super) parameters: u64,
    pub(super) trainable: u64,
    pub(super) persistent: u64,
    pub(super) gradients: u64,
    pub(super) blocks: Vec<BlockBytes>,
    pub(super) peak: u64,
}

/// Runs a step on tensors without values.
pub(super) fn step(settings: &CellSettings, train: &TrainSettings, how: How) -> StepBytes {
    let tape = Tape::new();
    let b = Builder::new(&tape, settings);
    let model = model(&b, settings);
    let params = b.finish();
    let trainable = || params.all.iter().filter(|p| p.trains());
    let _state = state(&tape, &params, &settings.method);
    let persistent = tape.live();

    tape.reset_peak();
    let parts = u64::from(train.micro_batches.max(1));
    let pass = Pass {
        batch: (u64::from(train.batch) / parts).max(1),
        low: train.precision == Precision::Bf16,
        recomputing: false,
        cheap: false,
    };
    let mut blocks = Vec::new();
    let mut sums = None;
    // The second part finds the first one's gradients; the others find no more.
    for _ in 0..parts.min(2) {
        let (found, per_block) = part(&tape, &model, &params, settings, pass, how);
        blocks = per_block;
        if sums.is_none() {
            sums = Some(found);
        }
    }
    let count = |params: &mut dyn Iterator<Item = &super::build::Param>| params.map(|p| p.numel).sum::<u64>();
    StepBytes {
        parameters: count(&mut params.all.iter()),
        trainable: count(&mut trainable()),
        persistent,
        gradients: count(&mut trainable()) * SINGLE,
        blocks,
        peak: tape.peak(),
    }
}

/// The optimiser's and the method's state.
fn state(tape: &Rc<Tape>, params: &Params, method: &MethodSettings) -> Vec<Tensor> {
    let mut state = Vec::new();
    for param in params.all.iter().filter(|p| p.trains()) {
        // Two moments and a count of steps.
        state.extend([param.numel, param.numel, 1].map(|n| tape.single(n)));
        if matches!(method, MethodSettings::AdaLora(_)) && param.is_adapter {
            state.extend([param.numel; 2].map(|n| tape.single(n)));
            if !param.is_factor {
                state.push(tape.single(param.numel));
            }
        }
    }
    state
}

/// Forward and backward of one part of a batch.
fn part(
    tape: &Rc<Tape>,
    model: &Model,
    params: &Params,
    settings: &CellSettings,
    pass: Pass,
    how: How,
) -> (Vec<Tensor>, Vec<BlockBytes>) {
    let most: Vec<Rc<Cell<u64>>> = model.blocks.iter().map(|_| Rc::default()).collect();
    let side = u64::from(settings.image_size);
    let (loss, mut blocks) = tape.recording(true, || {
        let images = tape.single(pass.batch * 3 * side * side);
        let labels = tape.tensor(pass.batch, 8);
        let xs = (model.before)(&images, pass);
        let (xs, blocks) = through(&model.blocks, xs, pass, how, &most);
        let loss = cross_entropy(&(model.after)(xs, pass), &labels);
        (penalized(loss, params, &settings.method), blocks)
    });
    let ones = loss.alike();
    let mut found = tape.recording(false, || grad(vec![(loss, ones)]));
    for (block, most) in blocks.iter_mut().zip(&most) {
        block.backward = most.get();
    }
    let wanted = params.all.iter().filter_map(|p| p.tensor.leaf_number());
    (wanted.filter_map(|leaf| found.remove(&leaf)).collect(), blocks)
}

fn through(
    blocks: &[Block],
    mut xs: Vec<Tensor>,
    pass: Pass,
    how: How,
    most: &[Rc<Cell<u64>>],
) -> (Vec<Tensor>, Vec<BlockBytes>) {
    let tape = xs[0].tape().clone();
    let mut bytes = Vec::new();
    let mut reached = false;
    for (block, most) in blocks.iter().zip(most) {
        let before = tape.live();
        reached |= matches!(how, How::AgainFrom(threshold) if before >= threshold);
        let again = |cheap| {
            let pass = Pass { cheap, ..pass };
            recomputed(&block.part, &block.trainable, xs.clone(), pass, Some(most.clone()))
        };
        let ys = match how {
            How::Again => again(false),
            How::AgainCheaply => again(true),
            How::AgainFrom(_) if reached => again(false),
            How::Keep | How::AgainFrom(_) => (block.part)(&xs, pass),
        };
        xs = ys;
        bytes.push(BlockBytes { name: block.name.clone(), kept: tape.live().saturating_sub(before), backward: 0 });
    }
    (xs, bytes)
}

/// Keeps the log-probabilities.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let logits = ops::cast(logits, SINGLE);
    let saved = vec![Some(logits.alike().save()), Some(labels.save())];
    let numel = logits.numel;
    record_one(logits.tape().single(1), &[&logits], saved, move |grad, _| {
        let _of_probabilities = grad.tape().single(numel);
        vec![Some(grad.tape().single(numel))]
    })
}

/// The loss with AdaLoRA's term, whose gradients of A and B come before those of anything else.
fn penalized(loss: Tensor, params: &Params, method: &MethodSettings) -> Tensor {
    match method {
        MethodSettings::AdaLora(ada) if ada.orthogonal_weight != 0.0 => {}
        _ => return loss,
    }
    let factors: Vec<&Tensor> = params.all.iter().filter(|p| p.is_factor).map(|p| &p.tensor).collect();
    let sizes: Vec<u64> = factors.iter().map(|f| f.numel).collect();
    let penalty = record_one(loss.alike(), &factors, Vec::new(), move |grad, _| {
        sizes.into_iter().map(|size| Some(grad.tape().single(size))).collect()
    });
    ops::add(&loss, &penalty)
}
