//! The last linear layer of a block that runs again for backward's sake.
//!
//! What comes out of it is only added to something else, so backward needs the layer's input and weight and no value of
//! its output. Running it again would be a third of a transformer block's products for nothing; PyTorch's own
//! checkpointing saves them too, by ending a recomputation at the last tensor that it needs.

use anyhow::Context as _;
use tch::{Kind, Tensor};

use crate::torch::{Function, GradMode, attach};

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
    let zeros = {
        let _off = GradMode::off();
        Tensor::zeros([1], (x.kind(), x.device())).expand(&shape, false)
    };
    let saved = Saved { x: x.detach(), weight: weight.detach() };
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    match attach(vec![zeros], &inputs, saved) {
        Ok(mut outputs) => outputs.swap_remove(0),
        Err(error) => panic!("{error}"),
    }
}

struct Saved {
    x: Tensor,
    weight: Tensor,
}

impl Function for Saved {
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
