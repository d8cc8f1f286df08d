//! Views, and copies in another order.

use crate::memory::graph::{record, record_one};
use crate::memory::tape::Tensor;

/// The same values in another order, in memory of their own. Backward puts the gradient back into order.
pub(crate) fn copied(x: &Tensor) -> Tensor {
    record_one(x.alike(), &[x], Vec::new(), |grad, _| vec![Some(grad.alike())])
}

/// A view whose gradient has to be copied into order.
pub(crate) fn copied_back(x: &Tensor) -> Tensor {
    record_one(x.detach(), &[x], Vec::new(), |grad, _| vec![Some(grad.alike())])
}

/// Views of parts of `x`, of these sizes. Backward joins the parts' gradients.
pub(crate) fn split(x: &Tensor, sizes: &[u64]) -> Vec<Tensor> {
    let whole = x.numel;
    let parts = sizes.iter().map(|size| x.part(*size)).collect();
    record(parts, &[x], move |grads, _| {
        let joined = grads.iter().flatten().next().map(|grad| grad.tape().tensor(whole, grad.width));
        vec![joined]
    })
}

/// One part of `x`, a view. Backward fills the rest with zeros.
pub(crate) fn part(x: &Tensor, size: u64) -> Tensor {
    let whole = x.numel;
    record_one(x.part(size), &[x], Vec::new(), move |grad, _| vec![Some(grad.tape().tensor(whole, grad.width))])
}

/// All of them side by side. Their gradients are views of the whole's.
pub(crate) fn cat(xs: &[&Tensor]) -> Tensor {
    let sizes: Vec<u64> = xs.iter().map(|x| x.numel).collect();
    let width = xs.iter().map(|x| x.width).max().unwrap_or(0);
    let y = xs[0].tape().tensor(sizes.iter().sum(), width);
    record_one(y, xs, Vec::new(), move |grad, needed| {
        sizes.into_iter().zip(needed).map(|(size, needed)| needed.then(|| grad.part(size))).collect()
    })
}

/// The mean over all but `left` values. Backward spreads the gradient.
pub(crate) fn mean(x: &Tensor, left: u64) -> Tensor {
    let whole = x.numel;
    let y = x.tape().tensor(left, x.width);
    record_one(y, &[x], Vec::new(), move |grad, _| vec![Some(grad.tape().tensor(whole, grad.width))])
}

/// A copy of a view in memory of its own; its gradient passes through.
pub(crate) fn copied_part(x: &Tensor) -> Tensor {
    record_one(x.alike(), &[x], Vec::new(), |grad, _| vec![Some(grad)])
}
