//! The last product of a block, or of a part of one, that runs again for backward's sake.
//!
//! Nobody reads what comes out of it, so backward needs the layer's input and weight and no value of its output. For a
//! transformer block, running it again would be a third of the products for nothing (PyTorch's own checkpointing saves
//! them too, by ending a recomputation at the last tensor that it needs); for a part that is cheap to run again, it is
//! what makes it cheap.

use anyhow::Context as _;
use tch::{Kind, Tensor};

use crate::torch::conv::{ConvSteps, conv2d_gradients};
use crate::torch::{Function, Saved, attach, weightless};

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
    differentiable_zeros(&shape, x, weight, bias, LinearTail { x: input(x), weight: factors(weight) })
}

/// The same for a square 2-d convolution of `x` (batch, channels, height, width).
///
/// # Panics
/// As [`without_value`].
pub(super) fn conv_without_value(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, steps: ConvSteps) -> Tensor {
    let (from, kernel) = (x.size(), weight.size());
    let side = |i: usize| (from[i] + 2 * steps.padding - kernel[i]) / steps.stride + 1;
    let shape = [from[0], kernel[0], side(2), side(3)];
    differentiable_zeros(&shape, x, weight, bias, ConvTail { x: input(x), weight: factors(weight), steps })
}

fn input(x: &Tensor) -> Saved {
    Saved::new("a layer's input", x)
}

fn factors(weight: &Tensor) -> Saved {
    Saved::new("a layer's weight", weight)
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
    x: Saved,
    weight: Saved,
    steps: ConvSteps,
}

impl Function for ConvTail {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let grad = grads.into_iter().next().flatten().context("the layer's output influences the loss")?;
        let wanted = [needed[0], needed[1], needed.get(2).copied().unwrap_or(false)];
        let found = conv2d_gradients(&grad, self.x.get()?, self.weight.get()?, self.steps, wanted)?;
        Ok(found.into_iter().take(needed.len()).collect())
    }
}

struct LinearTail {
    x: Saved,
    weight: Saved,
}

impl Function for LinearTail {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let grad = grads.into_iter().next().flatten().context("the layer's output influences the loss")?;
        let (outputs, inputs) = (self.weight.size()[0], self.weight.size()[1]);
        let flat = grad.reshape([-1, outputs]);
        // As in libtorch's own node, what no gradient needs may have changed.
        let weight = needed[0].then(|| self.weight.get()).transpose()?;
        let x = needed[1].then(|| self.x.get()).transpose()?;
        let mut answer = vec![
            weight.map(|weight| flat.mm(weight).view(self.x.size().as_slice())),
            x.map(|x| flat.tr().mm(&x.reshape([-1, inputs]))),
        ];
        if let Some(needed) = needed.get(2) {
            answer.push(needed.then(|| flat.sum_dim_intlist([0].as_slice(), false, None::<Kind>)));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use tch::kind::DOUBLE_CPU;

    use super::*;
    use crate::torch::{GradMode, grad};

    /// Why backward of `zeros`, of an input and a weight, fails after something was added to one of them in place.
    fn after_change(sizes: [&[i64]; 2], zeros: fn(&Tensor, &Tensor) -> Tensor, changed: usize) -> String {
        let leaves = sizes.map(|size| Tensor::ones(size, DOUBLE_CPU).set_requires_grad(true));
        let y = zeros(&leaves[0], &leaves[1]).sum(Kind::Double);
        {
            let _off = GradMode::off();
            let _ = leaves[changed].shallow_clone().g_add_scalar_(1.0);
        }
        let failed = grad(&[&y], &[None], &[&leaves[0], &leaves[1]]).expect_err("gradients of other values");
        failed.to_string()
    }

    #[test]
    fn inputs_and_weights_that_were_changed_in_place_are_noticed() {
        let linear = |x: &Tensor, w: &Tensor| without_value(x, w, None);
        let conv =
            |x: &Tensor, w: &Tensor| conv_without_value(x, w, None, ConvSteps { stride: 1, padding: 1, groups: 1 });
        let sizes: [[&[i64]; 2]; 2] = [[&[2, 3], &[4, 3]], [&[1, 2, 5, 5], &[3, 2, 3, 3]]];
        for (i, what) in ["a layer's input", "a layer's weight"].into_iter().enumerate() {
            for error in [after_change(sizes[0], linear, i), after_change(sizes[1], conv, i)] {
                assert!(error.contains(what) && error.contains("changed in place"), "{what}: {error}");
            }
        }
    }

    #[test]
    fn what_no_gradient_needs_may_change() {
        let x = Tensor::ones([2, 3], DOUBLE_CPU);
        let weight = Tensor::ones([4, 3], DOUBLE_CPU).set_requires_grad(true);
        let y = without_value(&x, &weight, None).sum(Kind::Double);
        {
            let _off = GradMode::off();
            let _ = weight.shallow_clone().g_add_scalar_(1.0);
        }
        let found = grad(&[&y], &[None], &[&weight]).expect("it takes the input only");
        assert_eq!(found[0].as_ref().map(Tensor::size), Some(vec![4, 3]));
    }
}
