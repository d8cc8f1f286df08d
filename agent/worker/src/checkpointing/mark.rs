//! Tells the allocator when backward reaches a block that runs nothing again.

use tch::Tensor;

use crate::torch::memory::Place;
use crate::torch::{Function, GradMode, attach};

/// The same tensors, whose gradients make `place` the place of what follows in backward.
///
/// # Panics
/// Where libtorch fails, as tch's operators do; see [`crate::torch::guard`].
pub(super) fn marked(xs: Vec<Tensor>, place: Place) -> Vec<Tensor> {
    if !GradMode::is_on() || !xs.iter().any(Tensor::requires_grad) {
        return xs;
    }
    let inputs: Vec<Tensor> = xs.iter().map(Tensor::shallow_clone).collect();
    match attach(xs, &inputs.iter().collect::<Vec<_>>(), Mark(place)) {
        Ok(outputs) => outputs,
        Err(error) => panic!("{error}"),
    }
}

struct Mark(Place);

impl Function for Mark {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, _needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        self.0.enter();
        Ok(grads)
    }
}
