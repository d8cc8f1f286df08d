//! The gradients of a convolution, which tch does not bind.

use tch::Tensor;

use super::{TorchError, check, ffi, own, raw};

/// How a square convolution goes over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSteps {
    /// Pixels from one output to the next.
    pub stride: i64,
    /// Zeros around the input, pixels.
    pub padding: i64,
    /// Groups of channels that do not see each other.
    pub groups: i64,
}

/// Gradients with respect to `x` (batch, channels, height, width), `weight` and the bias of a 2-d convolution, given
/// `grad`, that of its output; those that are `needed`. It is what libtorch's autograd calls, so the values are the
/// same to the last bit.
///
/// # Errors
/// A failure inside libtorch.
pub fn conv2d_gradients(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    steps: ConvSteps,
    needed: [bool; 3],
) -> Result<[Option<Tensor>; 3], TorchError> {
    let mut results = [std::ptr::null_mut(); 3];
    let needed = needed.map(u8::from);
    let ConvSteps { stride, padding, groups } = steps;
    // SAFETY: handles of live tensors; both arrays have three entries.
    check(unsafe {
        ffi::fleet_conv2d_backward(
            raw(grad),
            raw(x),
            raw(weight),
            stride,
            padding,
            groups,
            needed.as_ptr(),
            results.as_mut_ptr(),
        )
    })?;
    // SAFETY: each is null or a fresh tensor that the shim gave away.
    Ok(results.map(|handle| unsafe { own(handle) }))
}
