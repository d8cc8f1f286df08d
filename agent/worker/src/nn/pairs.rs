//! What is cheap to compute and the product that reads it: pairs that a block may run again without the product.

use tch::Tensor;

use super::layers::{BatchNorm2d, Conv2d, LayerNorm, Linear, RmsNorm};
use super::part::Part;
use super::{Block, Ctx};

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// Applies the function to each element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
        }
    }
}

/// Normalisation over the last dimension.
pub(super) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

/// A norm and the linear layer that reads it.
pub struct NormLinear(pub(super) Part);

impl NormLinear {
    /// linear(norm(x)).
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.0.forward(x, ctx)
    }
}

pub(super) struct NormThenLinear {
    pub(super) norm: Norm,
    pub(super) linear: Linear,
}

impl Block for NormThenLinear {
    fn forward(&self, xs: &[Tensor], ctx: &Ctx) -> Vec<Tensor> {
        let normal = match &self.norm {
            Norm::Layer(norm) => norm.forward(&xs[0]),
            Norm::Rms(norm) => norm.forward(&xs[0]),
        };
        vec![self.linear.forward_last(&normal, ctx)]
    }

    fn draws(&self) -> bool {
        self.linear.draws()
    }
}

/// An activation and the linear layer that reads it.
pub struct ActLinear(pub(super) Part);

impl ActLinear {
    /// linear(activation(x)).
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.0.forward(x, ctx)
    }

    /// The same where the output is only added to something else; see [`Linear::forward_last`].
    pub fn forward_last(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.0.forward_last(x, ctx)
    }
}

pub(super) struct ActThenLinear {
    pub(super) activation: Activation,
    pub(super) linear: Linear,
}

impl Block for ActThenLinear {
    fn forward(&self, xs: &[Tensor], ctx: &Ctx) -> Vec<Tensor> {
        vec![self.linear.forward_last(&self.activation.forward(&xs[0]), ctx)]
    }

    fn draws(&self) -> bool {
        self.linear.draws()
    }
}

/// A batch norm, an activation, and the convolution that reads it.
pub struct NormActConv(pub(super) Part);

impl NormActConv {
    /// conv(activation(norm(x))).
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.0.forward(x, ctx)
    }
}

pub(super) struct NormThenActThenConv {
    pub(super) norm: BatchNorm2d,
    pub(super) activation: Activation,
    pub(super) conv: Conv2d,
}

impl Block for NormThenActThenConv {
    fn forward(&self, xs: &[Tensor], ctx: &Ctx) -> Vec<Tensor> {
        let x = self.activation.forward(&self.norm.forward(&xs[0], ctx));
        vec![self.conv.forward_last(&x, ctx)]
    }
}
