//! The last product of a block, or of a part of one, that runs again for backward's sake.
//!
//! Nobody reads what comes out of it, so backward needs the layer's input and weight and no value of its output. For a
//! transformer block, running it again would be a third of the products for nothing (PyTorch's own checkpointing saves
//! them too, by ending a recomputation at the last tensor that it needs); for a part that is cheap to run again, it is
//! what makes it cheap.

use anyhow::Context as _;
use tch::{Kind, Tensor};

use crate::torch::conv::{ConvSteps, conv2d_gradients};
use crate::torch::{Function, attach, weightless};

/// Zeros in place of x·Wᵀ + b, with the gradients of x·Wᵀ + b.
///
/// They are computed by the same products in the same order as libtorch's own for a linear layer over a contiguous
/// input, so that they are the same to the last bit.
///
/// # Panics
/// Where libtorch fails, as tch's operators do; see [`crate::torch::guard`].
pub(super) fn without_value(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = weight.size()[0];
    }
    differentiable_zeros(&shape, x, weight, bias, LinearTail { x: x.detach(), weight: weight.detach() })
}

/// The same for a square 2-d convolution of `x` (batch, channels, height, width).
///
/// # Panics
/// As [`without_value`].
pub(super) fn conv_without_value(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, steps: ConvSteps) -> Tensor {
    let (from, kernel) = (x.size(), weight.size());
    let side = |i: usize| (from[i] + 2 * steps.padding - kernel[i]) / steps.stride + 1;
    let shape = [from[0], kernel[0], side(2), side(3)];
    differentiable_zeros(&shape, x, weight, bias, ConvTail { x: x.detach(), weight: weight.detach(), steps })
}

/// Zeros with gradients by `function`.
fn differentiable_zeros(
    shape: &[i64],
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    function: impl Function + 'static,
) -> Tensor {
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    match attach(vec![weightless(shape, x)], &inputs, function) {
        Ok(mut outputs) => outputs.swap_remove(0),
        Err(error) => panic!("{error}"),
    }
}

struct ConvTail {
    x: Tensor,
    weight: Tensor,
    steps: ConvSteps,
}

impl Function for ConvTail {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let grad = grads.into_iter().next().flatten().context("the layer's output influences the loss")?;
        let wanted = [needed[0], needed[1], needed.get(2).copied().unwrap_or(false)];
        let found = conv2d_gradients(&grad, &self.x, &self.weight, self.steps, wanted)?;
        Ok(found.into_iter().take(needed.len()).collect())
    }
}

struct LinearTail {
    x: Tensor,
    weight: Tensor,
}

impl Function for LinearTail {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let grad = grads.into_iter().next().flatten().context("the layer's output influences the loss")?;
        let (outputs, inputs) = (self.weight.size()[0], self.weight.size()[1]);
        let flat = grad.reshape([-1, outputs]);
        let x = || self.x.reshape([-1, inputs]);
        let mut answer = vec![
            needed[0].then(|| flat.mm(&self.weight).view(self.x.size().as_slice())),
            needed[1].then(|| flat.tr().mm(&x())),
        ];
        if let Some(needed) = needed.get(2) {
            answer.push(needed.then(|| flat.sum_dim_intlist([0].as_slice(), false, None::<Kind>)));
        }
        Ok(answer)
    }
}
