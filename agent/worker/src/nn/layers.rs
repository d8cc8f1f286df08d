//! Layers, as the builder hands them out.

use tch::{Kind, Tensor};

use super::{Ctx, rms_norm, tail};
use crate::quant::Nf4;
use crate::torch::GradMode;
use crate::torch::conv::ConvSteps;

/// What a fine-tuning method puts beside a linear layer.
pub trait Adapter: Send {
    /// The layer's output, given its input `x` and what the frozen layer made of it.
    fn forward(&self, x: &Tensor, base: Tensor, ctx: &Ctx) -> Tensor;

    /// Whether it draws random numbers in training.
    fn draws(&self) -> bool;
}

/// A linear layer's weight.
pub(super) enum Weight {
    /// As it is, (outputs, inputs).
    Dense(Tensor),
    /// Frozen, in 4 bits.
    Packed(Nf4),
}

impl Weight {
    /// (outputs, inputs).
    fn shape(&self) -> Vec<i64> {
        match self {
            Self::Dense(tensor) => tensor.size(),
            Self::Packed(packed) => packed.shape().to_vec(),
        }
    }
}

/// y = x·Wᵀ + b, and whatever the method's adapter adds.
pub struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
    pub(super) adapter: Option<Box<dyn Adapter>>,
}

impl Linear {
    /// What is added to each output, if anything is.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Applies the layer to the last dimension of `x`.
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        if ctx.macs.is_some() {
            let shape = self.weight.shape();
            ctx.count(x.numel() as i64 / shape[1].max(1) * shape.iter().product::<i64>());
        }
        self.apply(x, ctx, true)
    }

    /// The same for a layer whose output is only added to something else: where a block runs again for backward's sake,
    /// the values are not computed.
    pub fn forward_last(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        if ctx.values { self.forward(x, ctx) } else { self.apply(x, ctx, false) }
    }

    /// Whether the layer draws random numbers in training.
    pub fn draws(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.draws())
    }

    fn apply(&self, x: &Tensor, ctx: &Ctx, values: bool) -> Tensor {
        let x = ctx.low(x);
        let bias = self.bias.as_ref().map(|bias| ctx.low(bias));
        let y = match &self.weight {
            Weight::Dense(weight) if values => x.linear(&ctx.low(weight), bias.as_ref()),
            Weight::Dense(weight) => tail::without_value(&x, &ctx.low(weight), bias.as_ref()),
            Weight::Packed(packed) => packed.linear(&x, bias.as_ref(), values),
        };
        match &self.adapter {
            Some(adapter) => adapter.forward(&x, y, ctx),
            None => y,
        }
    }
}

/// Layer normalisation over the last dimension.
pub struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    /// Normalises the last dimension of `x`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        // Norms compute in the precision of their parameters, whatever the products around them do.
        x.to_kind(self.weight.kind()).layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            true,
        )
    }
}

/// x over its root mean square, times a weight (Zhang & Sennrich, arXiv 1910.07467), over the last dimension.
pub struct RmsNorm {
    /// Of at least single precision.
    pub(super) weight: Tensor,
    pub(super) eps: f64,
    /// What comes out.
    pub(super) kind: Kind,
}

impl RmsNorm {
    /// Normalises the last dimension of `x`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        // Squares of half precision overflow where what they belong to does not.
        rms_norm::rms_norm(&x.to_kind(self.weight.kind()), &self.weight, self.eps).to_kind(self.kind)
    }
}

/// A 2-d convolution.
pub struct Conv2d {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) stride: i64,
    pub(super) padding: i64,
    pub(super) groups: i64,
}

impl Conv2d {
    /// Applies the layer to `x` of shape (batch, channels, height, width).
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.apply(x, ctx, true)
    }

    /// The same; where values are not wanted, they are not computed (see [`Linear::forward_last`]).
    pub fn forward_last(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.apply(x, ctx, ctx.values)
    }

    fn apply(&self, x: &Tensor, ctx: &Ctx, values: bool) -> Tensor {
        let pair = |n| [n, n];
        let (x, weight) = (ctx.low(x), ctx.low(&self.weight));
        let bias = self.bias.as_ref().map(|bias| ctx.low(bias));
        if !values {
            let steps = ConvSteps { stride: self.stride, padding: self.padding, groups: self.groups };
            return tail::conv_without_value(&x, &weight, bias.as_ref(), steps);
        }
        let y = x.conv2d(&weight, bias.as_ref(), pair(self.stride), pair(self.padding), pair(1), self.groups);
        if ctx.macs.is_some() {
            let per_output: i64 = self.weight.size()[1..].iter().product();
            ctx.count(y.numel() as i64 * per_output);
        }
        y
    }
}

/// Batch normalisation over channels.
pub struct BatchNorm2d {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) running_mean: Tensor,
    pub(super) running_var: Tensor,
    pub(super) batches: Tensor,
    pub(super) eps: f64,
    pub(super) momentum: f64,
    /// Normalise with the running statistics in training too, and leave them.
    pub(super) frozen: bool,
}

impl BatchNorm2d {
    /// Normalises `x` (batch, channels, height, width): in training with the batch's statistics, which then move the
    /// running ones, once per step however often a block runs for it; else with the running ones.
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let of_batch = ctx.train && !self.frozen;
        let moves = of_batch && !ctx.recomputing;
        if moves {
            let _off = GradMode::off();
            let _ = self.batches.shallow_clone().g_add_scalar_(1);
        }
        let running = (moves || !of_batch).then_some((&self.running_mean, &self.running_var));
        x.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            running.map(|(mean, _)| mean),
            running.map(|(_, var)| var),
            of_batch,
            self.momentum,
            self.eps,
            true,
        )
    }
}
