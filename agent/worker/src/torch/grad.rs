//! Gradients of chosen outputs with respect to chosen inputs.

use tch::Tensor;

use super::{TorchError, check, ffi, own, raw_all};

/// The gradient of Σᵢ ⟨`outputs[i]`, `weights[i]`⟩ with respect to each of `inputs`; the vector-Jacobian product.
///
/// `weights[i]` has the shape of `outputs[i]`; `None` stands for ones, for a scalar. The answer is `None` for an
/// input that no output depends on. Parameters' own `.grad()` stays untouched, and the graph is freed.
///
/// # Errors
/// An output without a graph, a shape mismatch, or a failure (out of memory, a failing [`super::Function`]) on the way.
pub fn grad(
    outputs: &[&Tensor],
    weights: &[Option<&Tensor>],
    inputs: &[&Tensor],
) -> Result<Vec<Option<Tensor>>, TorchError> {
    if outputs.len() != weights.len() {
        return Err(TorchError(format!("{} outputs but {} weights", outputs.len(), weights.len())));
    }
    let outs = raw_all(outputs.iter().copied());
    let weights: Vec<_> = weights.iter().map(|w| w.map_or(std::ptr::null_mut(), super::raw)).collect();
    let ins = raw_all(inputs.iter().copied());
    let mut results = vec![std::ptr::null_mut(); ins.len()];
    // SAFETY: all arrays live through the call and have the lengths given.
    check(unsafe {
        ffi::fleet_grad(
            outs.as_ptr(),
            outs.len() as i64,
            weights.as_ptr(),
            ins.as_ptr(),
            ins.len() as i64,
            results.as_mut_ptr(),
        )
    })?;
    // SAFETY: every slot is null or an owned tensor.
    Ok(results.into_iter().map(|handle| unsafe { own(handle) }).collect())
}
