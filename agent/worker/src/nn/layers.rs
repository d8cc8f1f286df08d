//! Layers, as the builder hands them out.

use tch::Tensor;

use super::Ctx;

/// What a fine-tuning method puts beside a linear layer.
pub trait Adapter: Send {
    /// The layer's output, given its input `x` and what the frozen layer made of it.
    fn forward(&self, x: &Tensor, base: Tensor, ctx: &Ctx) -> Tensor;
}

/// y = x·Wᵀ + b, and whatever the method's adapter adds.
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) adapter: Option<Box<dyn Adapter>>,
}

impl Linear {
    /// Applies the layer to the last dimension of `x`.
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        if ctx.macs.is_some() {
            let inputs = *self.weight.size().last().unwrap_or(&1);
            ctx.count(x.numel() as i64 / inputs * self.weight.numel() as i64);
        }
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.adapter {
            Some(adapter) => adapter.forward(x, y, ctx),
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
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
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
        let pair = |n| [n, n];
        let y = x.conv2d(&self.weight, self.bias.as_ref(), pair(self.stride), pair(self.padding), pair(1), self.groups);
        if ctx.macs.is_some() {
            let per_output: i64 = self.weight.size()[1..].iter().product();
            ctx.count(y.numel() as i64 * per_output);
        }
        y
    }
}

/// A norm and the linear layer that reads it: a pair whose middle is cheap to compute again.
pub struct NormLinear {
    pub(super) norm: LayerNorm,
    pub(super) linear: Linear,
}

impl NormLinear {
    /// linear(norm(x)).
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.linear.forward(&self.norm.forward(x), ctx)
    }
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
}

impl Activation {
    /// Applies the function to each element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
        }
    }
}

/// An activation and the linear layer that reads it: a pair whose middle is cheap to compute again.
pub struct ActLinear {
    pub(super) activation: Activation,
    pub(super) linear: Linear,
}

impl ActLinear {
    /// linear(activation(x)).
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.linear.forward(&self.activation.forward(x), ctx)
    }
}
