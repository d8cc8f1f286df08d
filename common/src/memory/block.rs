//! Blocks, and blocks that run again in backward.

use std::cell::Cell;
use std::rc::Rc;

use super::graph::{grad, record};
use super::layers::Pass;
use super::tape::Tensor;

/// A part of a model that maps tensors to tensors.
pub(super) type Part = Rc<dyn Fn(&[Tensor], Pass) -> Vec<Tensor>>;

/// A part that a strategy decides about.
#[derive(Clone)]
pub(super) struct Block {
    /// Its path in the model.
    pub(super) name: String,
    /// What it computes.
    pub(super) part: Part,
    /// Its parameters that train.
    pub(super) trainable: Vec<Tensor>,
}

/// Runs `part` without recording, keeps its inputs, and runs it again in backward, as the worker's
/// `checkpointing/recompute.rs` does. `most` gets the most bytes that backward needs beyond those that were there.
pub(super) fn recomputed(
    part: &Part,
    params: &[Tensor],
    xs: Vec<Tensor>,
    pass: Pass,
    most: Option<Rc<Cell<u64>>>,
) -> Vec<Tensor> {
    let tape = xs[0].tape().clone();
    let outputs = tape.recording(false, || part(&xs, Pass { cheap: false, ..pass }));
    let kept: Vec<Tensor> = xs.iter().map(Tensor::detach).collect();
    let (part, params_again) = (part.clone(), params.to_vec());
    let inputs: Vec<&Tensor> = xs.iter().chain(params).collect();
    record(outputs, &inputs, move |grads, needed| {
        let (before, outer) = (tape.live(), tape.reset_peak());
        let answers = tape.recording(true, || {
            let leaves: Vec<(Tensor, Option<u64>)> = kept
                .into_iter()
                .zip(needed)
                .map(|(x, needed)| if *needed { x.leaf() } else { (x, 0) })
                .zip(needed)
                .map(|((x, number), needed)| (x, needed.then_some(number)))
                .collect();
            let xs: Vec<Tensor> = leaves.iter().map(|(x, _)| x.clone()).collect();
            let outputs = part(&xs, Pass { recomputing: true, ..pass });
            let used = outputs.iter().zip(&grads).filter(|(y, _)| y.requires_grad());
            let used = used.filter_map(|(y, g)| Some((y.clone(), g.clone()?))).collect();
            let mut found = tape.recording(false, || grad(used));
            let of_params = params_again.iter().map(Tensor::leaf_number);
            leaves.iter().map(|(_, n)| *n).chain(of_params).map(|n| found.remove(&n?)).collect()
        });
        if let Some(most) = most {
            most.set(tape.peak().saturating_sub(before));
        }
        tape.raise_peak(outer);
        answers
    })
}
