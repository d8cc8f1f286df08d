//! The libtorch extension: what tch 0.24 does not offer, as a small C++ file (`shim.cpp`) and a safe Rust face.
//!
//! - [`function`]: custom autograd functions. Checkpointed blocks, and whatever else decides what backward keeps.
//! - [`saved`]: what they keep, and whether it is still what it was.
//! - [`mod@grad`]: gradients of chosen outputs, weighted.
//! - [`memory`]: live and peak bytes of a device's allocator, its cap, and typed out-of-memory.
//! - [`cap`]: what tensors may hold, and whether that is enforced.
//! - [`timeline`]: live and peak bytes from one change of place to the next.
//! - [`cuda`]: bringing in libtorch's CUDA half when it is there, before anything asks about CUDA.
//! - [`parallel`]: work of our own on libtorch's threads.
//! - [`conv`]: the gradients of a convolution.
//! - [`adamw`]: one fused optimiser step over tensors that we own.
//! - [`grad_mode`]: recording gradients or not, restored even when a panic passes by.
//! - [`guard`]: the one place where a libtorch failure, which tch raises as a panic, becomes an error.

pub mod adamw;
pub mod cap;
pub mod conv;
pub mod cuda;
mod ffi;
pub mod function;
pub mod grad;
pub mod grad_mode;
pub mod guard;
pub(crate) mod library;
pub mod memory;
pub mod parallel;
pub mod saved;
pub mod sgd;
pub mod timeline;

pub use function::{Function, attach, weightless};
pub use grad::grad;
pub use grad_mode::GradMode;
pub use guard::guard;
pub use saved::Saved;

use std::ffi::{CStr, c_char};

use tch::Tensor;

/// A failure inside libtorch, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct TorchError(pub String);

/// Takes a message that the shim allocated; null means success.
fn check(message: *mut c_char) -> Result<(), TorchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null answer of the shim is a NUL-terminated string from `strdup`, ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        libc::free(message.cast());
        text
    };
    Err(TorchError(text))
}

/// The raw handle of a tensor, for a call that does not keep it.
fn raw(tensor: &Tensor) -> ffi::RawTensor {
    tensor.as_ptr().cast_mut()
}

fn raw_all<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<ffi::RawTensor> {
    tensors.into_iter().map(raw).collect()
}

/// A handle that the shim or libtorch gave away, or `None` for an undefined tensor.
///
/// # Safety
/// `handle` must be null or an owned `at::Tensor*` that nothing else frees.
unsafe fn own(handle: ffi::RawTensor) -> Option<Tensor> {
    (!handle.is_null()).then(|| unsafe { Tensor::from_ptr(handle) })
}

/// Gives a tensor away to C++, which will free it.
fn give(tensor: Tensor) -> ffi::RawTensor {
    let handle = raw(&tensor);
    std::mem::forget(tensor);
    handle
}

/// How often the tensor has been written to in place. What is saved for backward must keep its version.
pub fn version(tensor: &Tensor) -> i64 {
    // SAFETY: reads a counter of a live tensor.
    unsafe { ffi::fleet_tensor_version(raw(tensor)) }
}

/// From here on every operator that has a form with a fixed order of additions takes it, so that the same computation
/// gives the same bits on a GPU, too; operators without one warn.
///
/// # Errors
/// libtorch's.
pub fn deterministic() -> Result<(), TorchError> {
    // SAFETY: sets flags.
    check(unsafe { ffi::fleet_deterministic() })
}

/// The version of libtorch that this was built against, such as "2.11.0".
pub fn libtorch_version() -> String {
    // SAFETY: a string constant.
    unsafe { CStr::from_ptr(ffi::fleet_torch_version()) }.to_string_lossy().into_owned()
}

/// The version of the CUDA runtime in use, such as "13.0"; `None` without CUDA.
pub fn cuda_version() -> Option<String> {
    // SAFETY: asks libtorch's hooks; failures come back as 0.
    let version = unsafe { ffi::fleet_cuda_runtime_version() };
    (version > 0).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
}
