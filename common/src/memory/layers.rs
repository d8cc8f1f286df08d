//! Layers, as the worker's (`agent/worker/src/nn/layers.rs`) apply them.

use std::rc::Rc;

use super::block::{Part, recomputed};
use super::graph::record_one;
use super::ops::{self, ConvSizes};
use super::tape::{SINGLE, Tensor};

/// Bytes of a bfloat16 number.
const HALF: u64 = 2;

/// What a forward needs to know besides its tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// Samples that go through together.
    pub(super) batch: u64,
    /// Large products compute in bfloat16.
    pub(super) low: bool,
    /// A block runs again for backward's sake.
    pub(super) recomputing: bool,
    /// What is cheap to compute again is not kept.
    pub(super) cheap: bool,
}

impl Pass {
    /// `x` as large products take it.
    fn low(&self, x: &Tensor) -> Tensor {
        ops::cast(x, if self.low { HALF } else { SINGLE })
    }
}

#[derive(Debug, Clone)]
pub(super) enum Weight {
    Dense(Tensor),
    Packed(#[allow(dead_code, reason = "holds the memory")] Tensor),
}

/// A linear layer, with its adapter.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
    pub(super) adapter: Option<Adapter>,
    pub(super) inputs: u64,
    pub(super) outputs: u64,
}

/// LoRA's or AdaLoRA's.
#[derive(Debug, Clone)]
pub(super) struct Adapter {
    pub(super) down: Tensor,
    pub(super) up: Tensor,
    pub(super) values: Option<Tensor>,
    pub(super) rank: u64,
    pub(super) outputs: u64,
    pub(super) drops: bool,
}

impl Adapter {
    fn forward(&self, x: &Tensor, base: Tensor, pass: Pass) -> Tensor {
        let down = match &self.values {
            Some(values) => pass.low(&rows_scaled(&self.down, values)),
            None => pass.low(&self.down),
        };
        let dropped = if self.drops { ops::dropout(x) } else { x.clone() };
        let product = ops::linear(&dropped, &down, None, self.rank);
        drop(dropped);
        let update = ops::scaled(&product);
        drop(product);
        let update = ops::linear(&update, &pass.low(&self.up), None, self.outputs);
        ops::add(&base, &update)
    }
}

/// AdaLoRA's A∘E: each keeps the other.
fn rows_scaled(down: &Tensor, values: &Tensor) -> Tensor {
    let sizes = [down.numel, values.numel];
    record_one(down.alike(), &[down, values], vec![Some(down.save()), Some(values.save())], move |grad, _| {
        let by_values = grad.alike();
        let by_down = grad.alike();
        let summed = grad.tape().tensor(sizes[1], grad.width);
        drop(by_down);
        vec![Some(by_values), Some(summed)]
    })
}

impl Linear {
    /// Applies the layer to rows of `inputs` values.
    pub(super) fn forward(&self, x: &Tensor, pass: Pass) -> Tensor {
        self.apply(x, pass, true)
    }

    /// The same where the output is only added to something else.
    pub(super) fn forward_last(&self, x: &Tensor, pass: Pass) -> Tensor {
        self.apply(x, pass, !pass.recomputing)
    }

    /// Its parameters.
    fn params(&self) -> Vec<Tensor> {
        let weight = match &self.weight {
            Weight::Dense(weight) => Some(weight),
            Weight::Packed(_) => None,
        };
        let adapter = self.adapter.iter().flat_map(|a| [Some(&a.down), Some(&a.up), a.values.as_ref()]);
        weight.into_iter().chain(&self.bias).chain(adapter.flatten()).cloned().collect()
    }

    fn apply(&self, x: &Tensor, pass: Pass, values: bool) -> Tensor {
        let x = pass.low(x);
        let bias = self.bias.as_ref().map(|bias| pass.low(bias));
        let y = match &self.weight {
            Weight::Dense(weight) if values => ops::linear(&x, &pass.low(weight), bias.as_ref(), self.outputs),
            Weight::Dense(weight) => ops::linear_without_value(&x, &pass.low(weight), bias.as_ref(), self.outputs),
            Weight::Packed(_) => {
                let y = ops::packed_linear(&x, self.inputs, self.outputs, values);
                match bias.filter(Tensor::requires_grad) {
                    Some(bias) => ops::add(&y, &bias),
                    None => y,
                }
            }
        };
        match &self.adapter {
            Some(adapter) => adapter.forward(&x, y, pass),
            None => y,
        }
    }
}

/// A norm's weight and bias.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Norm {
    /// Over the last dimension, in single precision.
    pub(super) fn layer(&self, x: &Tensor) -> Tensor {
        ops::layer_norm(&ops::cast(x, SINGLE), &self.weight, &self.bias)
    }

    /// Over channels.
    pub(super) fn batch(&self, x: &Tensor) -> Tensor {
        ops::batch_norm(x, &self.weight, &self.bias)
    }
}

/// A convolution of maps.
#[derive(Debug, Clone)]
pub(super) struct Conv {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) outputs: u64,
}

impl Conv {
    /// From `x` to maps of `pixels` per sample.
    pub(super) fn forward(&self, x: &Tensor, pixels: u64, channels_last: bool, pass: Pass) -> Tensor {
        let bias = self.bias.as_ref().map(|bias| pass.low(bias));
        let sizes = ConvSizes { outputs: pass.batch * pixels * self.outputs, channels_last };
        ops::conv(&pass.low(x), &pass.low(&self.weight), bias.as_ref(), sizes)
    }
}

/// linear(norm(x)). Where cheap parts run again, only x is kept of the pair.
pub(super) fn norm_linear(norm: &Norm, linear: &Linear, x: &Tensor, pass: Pass) -> Tensor {
    let (norm, linear) = (norm.clone(), linear.clone());
    let params = [vec![norm.weight.clone(), norm.bias.clone()], linear.params()].concat();
    pair(x, params, pass, move |x, pass| linear.apply(&norm.layer(x), pass, !pass.recomputing || !pass.cheap))
}

/// linear(gelu(x)), whose output is only added to something else. Where cheap parts run again, only x is kept of the pair.
pub(super) fn gelu_linear(linear: &Linear, x: &Tensor, pass: Pass) -> Tensor {
    let linear = linear.clone();
    let params = linear.params();
    pair(x, params, pass, move |x, pass| linear.apply(&ops::gelu(x), pass, !pass.recomputing))
}

/// `work` on `x`, as one node that keeps x and runs again where the pass is cheap.
fn pair(x: &Tensor, params: Vec<Tensor>, pass: Pass, work: impl Fn(&Tensor, Pass) -> Tensor + 'static) -> Tensor {
    if !pass.cheap {
        return work(x, pass);
    }
    let part: Part = Rc::new(move |xs: &[Tensor], pass| vec![work(&xs[0], pass)]);
    recomputed(&part, &params, vec![x.clone()], pass, None).swap_remove(0)
}
