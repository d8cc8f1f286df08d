//! Convolutions of maps and their norms, as oneDNN and libtorch's CPU operators run them.

use crate::memory::graph::record_one;
use crate::memory::tape::Tensor;

/// What of a convolution's shape matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvSizes {
    /// Values of the output.
    pub(crate) outputs: u64,
    /// Whether channels come last in memory, where oneDNN works without copies in its own order.
    pub(crate) channels_last: bool,
}

/// Keeps x and the weight, whichever of its inputs wants a gradient: libtorch's node has one formula for all three.
pub(crate) fn conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, sizes: ConvSizes) -> Tensor {
    let ConvSizes { outputs, channels_last } = sizes;
    let reordered = !channels_last;
    let y = if reordered {
        let result = {
            let _x = x.alike();
            let _weight = weight.alike();
            x.tape().tensor(outputs, x.width)
        };
        let y = x.tape().tensor(outputs, x.width);
        drop(result);
        y
    } else {
        x.tape().tensor(outputs, x.width)
    };
    let saved = vec![Some(x.save()), Some(weight.save())];
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let of: Vec<u64> = inputs.iter().map(|t| t.numel).collect();
    record_one(y, &inputs, saved, move |grad, needed| {
        let make = |numel: u64| grad.tape().tensor(numel, grad.width);
        let dx = needed[0].then(|| {
            if !reordered {
                return make(of[0]);
            }
            let result = {
                let _grad = grad.alike();
                let _weight = make(of[1]);
                make(of[0])
            };
            let dx = make(of[0]);
            drop(result);
            dx
        });
        let dweight = needed[1].then(|| {
            let _copies = reordered.then(|| (make(of[0]), grad.alike()));
            let result = make(of[1]);
            let dweight = make(of[1]);
            drop(result);
            dweight
        });
        let mut answer = vec![dx, dweight];
        if let Some(needed) = needed.get(2) {
            answer.push(needed.then(|| make(of[2])));
        }
        answer
    })
}

/// Keeps its input.
pub(crate) fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let (y, channels) = (x.alike(), weight.numel);
    let statistics = x.tape().single(2 * channels);
    let saved = vec![Some(x.save()), Some(statistics.save())];
    record_one(y, &[x, weight, bias], saved, move |grad, needed| {
        // The kernel makes all three and gives away what is wanted.
        let all = [grad.alike(), grad.tape().single(channels), grad.tape().single(channels)];
        all.into_iter().zip(needed).map(|(made, needed)| needed.then_some(made)).collect()
    })
}
