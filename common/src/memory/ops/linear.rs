//! Products with a weight.

use crate::memory::graph::record_one;
use crate::memory::tape::{SINGLE, Tensor};

/// x·Wᵀ + b with `outputs` values per row. A weight that trains keeps x, an x that wants a gradient keeps the weight.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, outputs: u64) -> Tensor {
    let rows = x.numel * outputs / weight.numel.max(1);
    product(x, weight, bias, x.tape().tensor(rows * outputs, x.width))
}

/// The same where a block runs again and nobody reads the values: one number that stands for all of them.
pub(crate) fn linear_without_value(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, outputs: u64) -> Tensor {
    let rows = x.numel * outputs / weight.numel.max(1);
    let saved = vec![Some(x.save()), Some(weight.save())];
    let y = x.tape().tensor(1, x.width).part(rows * outputs);
    gradients(x, weight, bias, y, saved)
}

fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, y: Tensor) -> Tensor {
    let saved = vec![x.save_if(weight.requires_grad()), weight.save_if(x.requires_grad())];
    gradients(x, weight, bias, y, saved)
}

fn gradients(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    y: Tensor,
    saved: Vec<Option<crate::memory::tape::Saved>>,
) -> Tensor {
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let sizes: Vec<u64> = inputs.iter().map(|t| t.numel).collect();
    record_one(y, &inputs, saved, move |grad, needed| {
        let make = |(size, needed): (u64, &bool)| needed.then(|| grad.tape().tensor(size, grad.width));
        sizes.into_iter().zip(needed).map(make).collect()
    })
}

/// x·Wᵀ + b with a weight of `inputs` × `outputs` in 4 bits, which is unpacked for the product and again in backward. The
/// codes become 32-bit numbers first, one for two values. Without `values` only backward unpacks.
pub(crate) fn packed_linear(x: &Tensor, inputs: u64, outputs: u64, values: bool) -> Tensor {
    let (tape, weight, width) = (x.tape(), inputs * outputs, x.width);
    let unpack = move |tape: &std::rc::Rc<crate::memory::tape::Tape>| {
        let codes = tape.single(weight / 2);
        let unpacked = tape.single(weight);
        drop(codes);
        if width < SINGLE { tape.tensor(weight, width) } else { unpacked }
    };
    let rows = x.numel / inputs.max(1);
    let y = if values {
        let _unpacked = unpack(tape);
        tape.tensor(rows * outputs, width)
    } else {
        tape.tensor(1, width).part(rows * outputs)
    };
    let size = x.numel;
    record_one(y, &[x], Vec::new(), move |grad, _| {
        let tape = grad.tape();
        let _unpacked = unpack(tape);
        vec![Some(tape.tensor(size, grad.width))]
    })
}
