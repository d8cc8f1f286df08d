//! Norms over the last dimension.

use crate::memory::graph::record_one;
use crate::memory::tape::Tensor;

/// Keeps its input and two numbers per row.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let (y, width) = (x.alike(), weight.numel);
    let statistics = x.tape().single(2 * x.numel / width.max(1));
    let saved = vec![Some(x.save()), Some(statistics.save())];
    record_one(y, &[x, weight, bias], saved, move |grad, needed| {
        let parameter = |needed: bool| needed.then(|| grad.tape().tensor(width, grad.width));
        vec![needed[0].then(|| grad.alike()), parameter(needed[1]), parameter(needed[2])]
    })
}

/// Keeps its input and a number per row. The worker computes it in single steps, whose temporaries are as large as x.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor) -> Tensor {
    let width = weight.numel;
    let scale = {
        let _square = x.alike();
        x.tape().single(x.numel / width.max(1))
    };
    let y = {
        let _normal = x.alike();
        x.alike()
    };
    let saved = vec![Some(x.save()), Some(scale.save())];
    record_one(y, &[x, weight], saved, move |grad, needed| {
        let normal = grad.alike();
        let dx = needed[0].then(|| {
            let _dnormal = grad.alike();
            let _product = grad.alike();
            let mean = grad.alike();
            let _difference = grad.alike();
            drop(mean);
            grad.alike()
        });
        let dweight = needed[1].then(|| {
            let _product = grad.alike();
            drop(normal);
            grad.tape().tensor(width, grad.width)
        });
        vec![dx, dweight]
    })
}
