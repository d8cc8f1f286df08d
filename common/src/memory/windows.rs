//! Maps cut into windows, and tables of biases within a window.

use super::graph::record_one;
use super::tape::Tensor;

/// `x` grown by zeros to `whole` values. Backward copies the part that was there.
pub(super) fn padded(x: &Tensor, whole: u64) -> Tensor {
    let numel = x.numel;
    record_one(x.tape().tensor(whole, x.width), &[x], Vec::new(), move |grad, _| {
        vec![Some(grad.tape().tensor(numel, grad.width))]
    })
}

/// Values of `table` at `numel` places.
pub(super) fn looked_up(table: &Tensor, numel: u64) -> Tensor {
    let size = table.numel;
    record_one(table.tape().tensor(numel, table.width), &[table], Vec::new(), move |grad, _| {
        vec![Some(grad.tape().tensor(size, grad.width))]
    })
}
