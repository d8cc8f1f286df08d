//! y = x·Wᵀ + b with a packed W, of which nothing unpacked is kept.

use tch::Tensor;

use super::Nf4;
use crate::torch::{Function, GradMode, attach};

impl Nf4 {
    /// Applies the layer to the last dimension of `x`, in the kind of `x`. The weight is unpacked for the product and again
    /// in backward; between the two only the codes live. It gets no gradient; `x` and `bias` do. Without `values`, zeros
    /// come out, with the same gradients.
    ///
    /// # Panics
    /// Where libtorch fails, as tch's operators do; see [`crate::torch::guard`].
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>, values: bool) -> Tensor {
        // A bias that trains needs its own place in the graph; one that does not can join the product.
        let (inside, outside) = match bias {
            Some(bias) if bias.requires_grad() => (None, Some(bias)),
            bias => (bias, None),
        };
        let y = {
            let _off = GradMode::off();
            if values {
                x.linear(&self.dequantize(x.kind()), inside)
            } else {
                let mut shape = x.size();
                *shape.last_mut().expect("a linear layer's input has a last dimension") = self.shape()[0];
                Tensor::zeros([1], (x.kind(), x.device())).expand(&shape, false)
            }
        };
        let y = match attach(vec![y], &[x], Saved(self.clone())) {
            Ok(mut outputs) => outputs.swap_remove(0),
            Err(error) => panic!("{error}"),
        };
        match outside {
            Some(bias) => y + bias,
            None => y,
        }
    }
}

struct Saved(Nf4);

impl Function for Saved {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let grad = grads.into_iter().next().flatten().filter(|_| needed[0]);
        Ok(vec![grad.map(|g| g.matmul(&self.0.dequantize(g.kind())))])
    }
}
