//! What is computed element by element.

use crate::memory::graph::record_one;
use crate::memory::tape::Tensor;

/// a + b, where `b` may be smaller and repeat. Gradients pass through; a smaller one is summed, a narrower one cast.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Tensor {
    let y = a.tape().tensor(a.numel.max(b.numel), a.width.max(b.width));
    let shapes = [(a.numel, a.width), (b.numel, b.width)];
    record_one(y, &[a, b], Vec::new(), move |grad, needed| {
        // Handed on as it is, or summed to the smaller shape, and in the precision of who gets it.
        let of = |i: usize| {
            let (numel, width) = shapes[i];
            let same = (numel, width) == (grad.numel, grad.width);
            needed[i].then(|| if same { grad.clone() } else { grad.tape().tensor(numel, width) })
        };
        vec![of(0), of(1)]
    })
}

/// An operation that keeps `saved` and whose gradient is as large as `x`.
fn like(x: &Tensor, saved: Vec<Option<crate::memory::tape::Saved>>) -> Tensor {
    record_one(x.alike(), &[x], saved, |grad, _| vec![Some(grad.alike())])
}

/// Keeps its input.
pub(crate) fn gelu(x: &Tensor) -> Tensor {
    like(x, vec![Some(x.save())])
}

/// Keeps its output.
pub(crate) fn relu(x: &Tensor) -> Tensor {
    let y = x.alike();
    let saved = vec![Some(y.save())];
    record_one(y, &[x], saved, |grad, _| vec![Some(grad.alike())])
}

/// Keeps its output.
pub(crate) fn exp(x: &Tensor) -> Tensor {
    relu(x)
}

/// Keeps nothing.
pub(crate) fn negated(x: &Tensor) -> Tensor {
    like(x, Vec::new())
}

/// x times a number: keeps nothing.
pub(crate) fn scaled(x: &Tensor) -> Tensor {
    like(x, Vec::new())
}

/// x times one number per sample, of which there are few: stochastic depth.
pub(crate) fn masked(x: &Tensor) -> Tensor {
    like(x, Vec::new())
}

/// Keeps a mask as large as its input.
pub(crate) fn dropout(x: &Tensor) -> Tensor {
    let mask = x.alike();
    like(x, vec![Some(mask.save())])
}

/// The same values in `width` bytes each; itself where they are.
pub(crate) fn cast(x: &Tensor, width: u64) -> Tensor {
    if x.width == width {
        return x.clone();
    }
    let before = x.width;
    let y = x.tape().tensor(x.numel, width);
    record_one(y, &[x], Vec::new(), move |grad, _| vec![Some(grad.tape().tensor(grad.numel, before))])
}
