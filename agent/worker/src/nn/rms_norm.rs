//! Root-mean-square normalisation as one node: libtorch's own keeps two tensors of the input's size for backward, this
//! one the input and a number per row.

use anyhow::Context as _;
use tch::{Kind, Tensor};

use crate::torch::{Function, GradMode, Saved, attach};

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
    let norm = Recorded { x: Saved::new("a norm's input", x), weight: Saved::new("a norm's weight", weight), scale };
    match attach(vec![y], &[x, weight], norm) {
        Ok(mut outputs) => outputs.swap_remove(0),
        Err(error) => panic!("{error}"),
    }
}

fn mean(x: &Tensor) -> Tensor {
    x.mean_dim([-1].as_slice(), true, None::<Kind>)
}

struct Recorded {
    x: Saved,
    weight: Saved,
    scale: Tensor, // ours alone
}

impl Function for Recorded {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let dy = grads.into_iter().next().flatten().context("a norm's output influences the loss")?;
        let normal = self.x.get()? * &self.scale;
        let weight = needed[0].then(|| self.weight.get()).transpose()?;
        let dx = weight.map(|weight| {
            let dnormal = &dy * weight;
            (&dnormal - &normal * mean(&(&dnormal * &normal))) * &self.scale
        });
        let width = self.weight.size()[0];
        let dweight =
            needed[1].then(|| (dy * normal).reshape([-1, width]).sum_dim_intlist([0].as_slice(), false, None::<Kind>));
        Ok(vec![dx, dweight])
    }
}

#[cfg(test)]
mod tests {
    use tch::kind::FLOAT_CPU;

    use super::*;
    use crate::torch::grad;

    #[test]
    fn an_input_or_weight_that_was_changed_in_place_is_noticed() {
        for (i, what) in ["a norm's input", "a norm's weight"].into_iter().enumerate() {
            let leaves = [&[2i64, 4][..], &[4]].map(|size| Tensor::ones(size, FLOAT_CPU).set_requires_grad(true));
            let y = rms_norm(&leaves[0], &leaves[1], 1e-5).sum(Kind::Float);
            {
                let _off = GradMode::off();
                let _ = leaves[i].shallow_clone().g_add_scalar_(1.0);
            }
            let failed = grad(&[&y], &[None], &[&leaves[0], &leaves[1]]).expect_err("gradients of other values");
            assert!(failed.to_string().contains(what), "{what}: {failed}");
        }
    }
}
