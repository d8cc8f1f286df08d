//! A block, or a part of one, whose activations are not kept: backward runs its forward again (Chen et al., arXiv
//! 1604.06174).

use anyhow::ensure;
use fleet_common::spec::Precision;
use tch::Tensor;

use super::{Ctx, Seed, Slot};
use crate::torch::memory::Place;
use crate::torch::{Function, GradMode, attach, grad, version};

/// Runs `slot` on `xs` without recording, and makes the outputs differentiable by running it again in backward. With
/// `cheaply`, its cheap parts then run a second time, so that less is held at once.
///
/// The block's trainable parameters are inputs of the node beside `xs`: a block whose `xs` come from frozen layers
/// would otherwise get no gradient at all.
///
/// # Panics
/// Where libtorch fails, as tch's operators do; see [`crate::torch::guard`].
pub fn recomputed(slot: &Slot, xs: Vec<Tensor>, ctx: &Ctx, cheaply: bool) -> Vec<Tensor> {
    let outputs = {
        let _off = GradMode::off();
        slot.forward(xs.iter().map(Tensor::shallow_clone).collect(), ctx)
    };
    let params = slot.trainable();
    let saved = Saved {
        slot: slot.clone(),
        cheaply,
        block: Place::current().block_index(),
        versions: xs.iter().chain(&params).map(version).collect(),
        xs: xs.iter().map(Tensor::detach).collect(),
        train: ctx.train,
        seed: ctx.seed,
        precision: ctx.precision,
    };
    let inputs: Vec<&Tensor> = xs.iter().chain(&params).collect();
    match attach(outputs, &inputs, saved) {
        Ok(outputs) => outputs,
        Err(error) => panic!("{error}"),
    }
}

struct Saved {
    slot: Slot,
    cheaply: bool,
    block: Option<u32>,
    xs: Vec<Tensor>,
    versions: Vec<i64>,
    train: bool,
    seed: Seed,
    precision: Precision,
}

impl Function for Saved {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let params = self.slot.trainable();
        let now: Vec<i64> = self.xs.iter().chain(&params).map(version).collect();
        ensure!(
            now == self.versions,
            "an input or parameter of {} was changed in place between forward and backward",
            self.slot.name()
        );
        let at =
            |phase: &str| self.block.map_or(Place::phase(phase), |b| Place::phase(phase).block(b as usize)).enter();
        at("recompute");
        let _on = GradMode::on();
        let xs: Vec<Tensor> = std::mem::take(&mut self.xs)
            .into_iter()
            .zip(needed)
            .map(|(x, needed)| x.detach().set_requires_grad(*needed))
            .collect();
        let ctx = Ctx {
            train: self.train,
            recomputing: true,
            values: false,
            cheap: self.cheaply,
            seed: self.seed,
            precision: self.precision,
            macs: None,
        };
        self.seed.apply();
        let outputs = self.slot.forward(xs.iter().map(Tensor::shallow_clone).collect(), &ctx);
        at("backward");

        // Only outputs that influence the result, and inputs that somebody wants.
        let used: Vec<(&Tensor, &Tensor)> = outputs
            .iter()
            .zip(&grads)
            .filter_map(|(y, g)| g.as_ref().filter(|_| y.requires_grad()).map(|g| (y, g)))
            .collect();
        let inputs: Vec<&Tensor> = xs.iter().chain(&params).collect();
        let wanted: Vec<usize> = (0..inputs.len()).filter(|&i| needed[i]).collect();
        let mut answer: Vec<Option<Tensor>> = inputs.iter().map(|_| None).collect();
        if !used.is_empty() && !wanted.is_empty() {
            let (ys, weights): (Vec<&Tensor>, Vec<Option<&Tensor>>) = used.iter().map(|(y, g)| (*y, Some(*g))).unzip();
            let targets: Vec<&Tensor> = wanted.iter().map(|&i| inputs[i]).collect();
            for (i, gradient) in wanted.into_iter().zip(grad(&ys, &weights, &targets)?) {
                answer[i] = gradient;
            }
        }
        Ok(answer)
    }
}
