//! Root-mean-square normalisation as one node: libtorch's own keeps two tensors of the input's size for backward, this one
//! the input and a number per row.

use anyhow::Context as _;
use tch::{Kind, Tensor};

use crate::torch::{Function, GradMode, attach};

/// x·weight / √(mean(x²) + eps), over the last dimension.
///
/// # Panics
/// Where libtorch fails, as tch's operators do; see [`crate::torch::guard`].
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let (y, scale) = {
        let _off = GradMode::off();
        let scale = (mean(&x.square()) + eps).rsqrt(); // (…, 1)
        (x * &scale * weight, scale)
    };
    let saved = Saved { x: x.detach(), weight: weight.detach(), scale };
    match attach(vec![y], &[x, weight], saved) {
        Ok(mut outputs) => outputs.swap_remove(0),
        Err(error) => panic!("{error}"),
    }
}

fn mean(x: &Tensor) -> Tensor {
    x.mean_dim([-1].as_slice(), true, None::<Kind>)
}

struct Saved {
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
}

impl Function for Saved {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let dy = grads.into_iter().next().flatten().context("a norm's output influences the loss")?;
        let normal = &self.x * &self.scale;
        let dx = needed[0].then(|| {
            let dnormal = &dy * &self.weight;
            (&dnormal - &normal * mean(&(&dnormal * &normal))) * &self.scale
        });
        let width = self.weight.size()[0];
        let dweight =
            needed[1].then(|| (dy * normal).reshape([-1, width]).sum_dim_intlist([0].as_slice(), false, None::<Kind>));
        Ok(vec![dx, dweight])
    }
}
