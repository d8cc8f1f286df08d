//! What lies between two large products, with the one that reads it: the parts that most blocks are made of.

use tch::Tensor;

use super::layers::{BatchNorm2d, Conv2d, LayerNorm, Linear, RmsNorm};
use super::{Block, Ctx};

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
    /// x·σ(1.702·x), OpenAI's approximation of GELU in CLIP.
    QuickGelu,
    /// x·σ(x).
    Silu,
}

impl Activation {
    /// Applies the function to each element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::QuickGelu => x * (x * 1.702).sigmoid(),
            Self::Silu => x.silu(),
        }
    }
}

/// Kinds of norms over the last dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Layer normalisation.
    Layer,
    /// By the root mean square.
    Rms,
}

pub(super) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

/// linear(norm(x)).
pub(super) struct NormLinear {
    pub(super) norm: Norm,
    pub(super) linear: Linear,
}

impl Block for NormLinear {
    fn forward(&self, mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = xs.swap_remove(0);
        let normal = match &self.norm {
            Norm::Layer(norm) => norm.forward(&x),
            Norm::Rms(norm) => norm.forward(&x),
        };
        drop(x);
        vec![self.linear.forward_last(&normal, ctx)]
    }

    fn draws(&self) -> bool {
        self.linear.draws()
    }
}

/// linear(activation(x)).
pub(super) struct ActLinear {
    pub(super) activation: Activation,
    pub(super) linear: Linear,
}

impl Block for ActLinear {
    fn forward(&self, mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = xs.swap_remove(0);
        let active = self.activation.forward(&x);
        drop(x);
        vec![self.linear.forward_last(&active, ctx)]
    }

    fn draws(&self) -> bool {
        self.linear.draws()
    }
}

/// conv(activation(norm(x))).
pub(super) struct NormActConv {
    pub(super) norm: BatchNorm2d,
    pub(super) activation: Activation,
    pub(super) conv: Conv2d,
}

impl Block for NormActConv {
    fn forward(&self, mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = xs.swap_remove(0);
        let normal = self.norm.forward(&x, ctx);
        drop(x);
        let active = self.activation.forward(&normal);
        drop(normal);
        vec![self.conv.forward_last(&active, ctx)]
    }
}
