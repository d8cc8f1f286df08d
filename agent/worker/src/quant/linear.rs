//! y = x·Wᵀ + b with a packed W, of which nothing unpacked is kept.

use tch::Tensor;

use super::Nf4;
use crate::torch::{Function, GradMode, Saved, attach};

impl Nf4 {
    /// Applies the layer to the last dimension of `x`, in the kind of `x`. The weight is unpacked for the product and
    /// again in backward; between the two only the codes live. It gets no gradient; `x` and `bias` do. Without
    /// `values`, zeros come out, with the same gradients.
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
        let y = match attach(vec![y], &[x], Recorded::new(self)) {
            Ok(mut outputs) => outputs.swap_remove(0),
            Err(error) => panic!("{error}"),
        };
        match outside {
            Some(bias) => y + bias,
            None => y,
        }
    }
}

struct Recorded {
    weight: Nf4,
    /// Handles on the tensors of `weight`, so that a change is noticed.
    tensors: Vec<Saved>,
}

impl Recorded {
    fn new(weight: &Nf4) -> Self {
        let scales = weight.scales.tensors().into_iter().map(|t| Saved::new("the scales of a packed weight", t));
        let codes = Saved::new("the codes of a packed weight", &weight.codes);
        Self { weight: weight.clone(), tensors: std::iter::once(codes).chain(scales).collect() }
    }
}

impl Function for Recorded {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let Some(grad) = grads.into_iter().next().flatten().filter(|_| needed[0]) else { return Ok(vec![None]) };
        for tensor in &self.tensors {
            tensor.get()?;
        }
        Ok(vec![Some(grad.matmul(&self.weight.dequantize(grad.kind())))])
    }
}

#[cfg(test)]
mod tests {
    use tch::kind::FLOAT_CPU;
    use tch::{Kind, Tensor};

    use super::super::{Nf4, Packing};
    use crate::torch::{GradMode, grad};

    #[test]
    fn codes_and_scales_that_were_changed_in_place_are_noticed() {
        let packed = Nf4::quantize(&Tensor::randn([8, 64], FLOAT_CPU), Packing { block: 64, double: true });
        let x = Tensor::ones([2, 64], FLOAT_CPU).set_requires_grad(true);
        let of = [(packed.codes(), "codes"), (packed.scales.tensors()[1], "scales")];
        for (tensor, what) in of {
            let y = packed.linear(&x, None, true).sum(Kind::Float);
            {
                let _off = GradMode::off();
                let _ = tensor.shallow_clone().zero_();
            }
            let error = grad(&[&y], &[None], &[&x]).expect_err("gradients of another weight").to_string();
            assert!(error.contains(&format!("the {what} of a packed weight")), "{what}: {error}");
        }
    }
}
