//! The worker's scan and its convolution in time, by their CPU kernels: only inputs are kept.

use crate::memory::graph::record;
use crate::memory::tape::{SINGLE, Tensor};

/// Channels that a task of the kernels works on; sums over channels come in as many parts.
const GROUP: u64 = 64;

/// The inputs of one direction.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) x: &'a Tensor,
    pub(crate) delta: &'a Tensor,
    pub(crate) a: &'a Tensor,
    pub(crate) b: &'a Tensor,
    pub(crate) c: &'a Tensor,
    pub(crate) d: &'a Tensor,
    pub(crate) bias: &'a Tensor,
}

impl<'a> Pass<'a> {
    fn tensors(&self) -> [&'a Tensor; 7] {
        [self.x, self.delta, self.a, self.b, self.c, self.d, self.bias]
    }
}

/// The sum over the passes, gated where there is a gate, for `batch` sequences.
pub(crate) fn selective_scan(passes: &[Pass<'_>], gate: Option<&Tensor>, batch: u64) -> Tensor {
    let wide: Vec<Tensor> = passes.iter().flat_map(Pass::tensors).chain(gate).map(|t| super::cast(t, SINGLE)).collect();
    let channels = passes[0].d.numel;
    let groups = channels.div_ceil(GROUP);
    let saved: Vec<_> = wide.iter().map(Tensor::save).collect();
    let sizes: Vec<u64> = wide.iter().map(|t| t.numel).collect();
    let y = wide[0].tape().single(wide[0].numel);
    record(vec![y], &wide.iter().collect::<Vec<_>>(), move |grads, needed| {
        let _saved = saved;
        let Some(tape) = grads.iter().flatten().next().map(|g| g.tape().clone()) else {
            return vec![None; sizes.len()];
        };
        // One part per task of what is summed over samples or channels.
        let parts: Vec<Tensor> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| {
                let times = match i % 7 {
                    2 | 5 | 6 => batch,
                    3 | 4 => groups,
                    _ => 1,
                };
                tape.single(size * times)
            })
            .collect();
        let mut answers = Vec::new();
        for ((part, size), needed) in parts.into_iter().zip(sizes).zip(needed) {
            let sum = if part.numel == size { part } else { tape.single(size) };
            answers.push(needed.then_some(sum));
        }
        answers
    })
    .swap_remove(0)
}

/// SiLU of a convolution of `x` in time for each of `weights` with its bias: keeps x.
pub(crate) fn conv_silu(x: &Tensor, convs: &[(&Tensor, Option<&Tensor>)], batch: u64) -> Vec<Tensor> {
    let x = super::cast(x, SINGLE);
    let outputs: Vec<Tensor> = convs.iter().map(|_| x.tape().single(x.numel)).collect();
    let saved = x.save();
    let inputs: Vec<&Tensor> =
        std::iter::once(&x).chain(convs.iter().flat_map(|(w, b)| [Some(*w), *b]).flatten()).collect();
    let sizes: Vec<u64> = inputs.iter().map(|t| t.numel).collect();
    record(outputs, &inputs, move |grads, needed| {
        let _saved = saved;
        let Some(tape) = grads.iter().flatten().next().map(|g| g.tape().clone()) else {
            return vec![None; sizes.len()];
        };
        let dx = tape.single(sizes[0]);
        let parts: Vec<Tensor> = sizes[1..].iter().map(|size| tape.single(size * batch)).collect();
        let mut answers = vec![needed[0].then_some(dx)];
        for ((part, size), needed) in parts.into_iter().zip(&sizes[1..]).zip(&needed[1..]) {
            let sum = tape.single(*size);
            drop(part);
            answers.push(needed.then_some(sum));
        }
        answers
    })
}
