//! Custom autograd functions: a node in libtorch's graph whose backward is a Rust value.
//!
//! Everything that this crate differentiates by hand is this one primitive.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;

use super::{GradMode, TorchError, check, ffi, give, guard, own, raw_all};

/// The backward half of a custom function, holding what it saved in forward: tensors that others can reach as
/// [`super::Saved`], so that a change in place is noticed.
///
/// It must be `Send`: for CUDA graphs libtorch's engine calls it on a thread of its own, while the thread that
/// started backward waits. It is dropped as soon as its part of backward is done.
pub trait Function: Send {
    /// Gradients with respect to the inputs, given those with respect to the outputs.
    ///
    /// `grads[i]` is `None` where output `i` does not influence the result. Only inputs with `needed[i]` want an
    /// answer; `None` means zero. Gradient recording is off here: a function that runs a forward again to
    /// differentiate it switches it on for that ([`super::GradMode::on`]).
    ///
    /// # Errors
    /// Whatever goes wrong; it ends the whole backward pass, whose caller gets it as a [`TorchError`]. A panic does
    /// the same.
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>>;
}

/// Makes `outputs`, which must have been computed without gradient recording, differentiable with respect to
/// `inputs` through `function`.
///
/// `inputs` must name *every* tensor that should receive a gradient: the trainable parameters that the function uses
/// as well as its activations. Where recording is off, or no input requires a gradient, the outputs come back plain
/// and `function` is dropped.
///
/// # Errors
/// A failure inside libtorch while the node is made.
pub fn attach(
    outputs: Vec<Tensor>,
    inputs: &[&Tensor],
    function: impl Function + 'static,
) -> Result<Vec<Tensor>, TorchError> {
    let mut handles = raw_all(&outputs);
    let ins = raw_all(inputs.iter().copied());
    let state: Box<Box<dyn Function>> = Box::new(Box::new(function));
    // SAFETY: the arrays live through the call; the shim owns `state` from here on and frees it exactly once
    // through `drop_state`, on failure too.
    check(unsafe {
        ffi::fleet_function_attach(
            handles.as_mut_ptr(),
            handles.len() as i64,
            ins.as_ptr(),
            ins.len() as i64,
            Box::into_raw(state).cast(),
            run_backward,
            drop_state,
        )
    })?;
    // SAFETY: on success every slot holds a fresh, owned tensor.
    Ok(handles.into_iter().filter_map(|handle| unsafe { own(handle) }).collect())
}

/// Zeros of `shape` that take no space, of the kind and on the device of `like`: an output that nobody reads, for [`attach`].
pub fn weightless(shape: &[i64], like: &Tensor) -> Tensor {
    let _off = GradMode::off();
    Tensor::zeros([1], (like.kind(), like.device())).expand(shape, false)
}

extern "C" fn run_backward(
    state: *mut c_void,
    grads: *mut ffi::RawTensor,
    n_grads: i64,
    needed: *const u8,
    results: *mut ffi::RawTensor,
    n_results: i64,
    error: *mut c_char,
    error_size: i64,
) -> c_int {
    let outcome = guard::caught(|| {
        // SAFETY: the shim passes arrays of these lengths, gives the gradients away, and does not free `state` while
        // this runs.
        let (function, grads, needed) = unsafe {
            let function = &mut *state.cast::<Box<dyn Function>>();
            let grads = std::slice::from_raw_parts(grads, n_grads as usize);
            let needed = std::slice::from_raw_parts(needed, n_results as usize);
            (function, grads.iter().map(|&g| own(g)).collect(), needed.iter().map(|&n| n != 0).collect::<Vec<_>>())
        };
        let answer = function.backward(grads, &needed).map_err(|e| format!("{e:#}"))?;
        if answer.len() != needed.len() {
            return Err(format!("a backward returned {} gradients for {} inputs", answer.len(), needed.len()));
        }
        Ok(answer)
    });
    let message = match outcome {
        Ok(Ok(answer)) => {
            for (i, gradient) in answer.into_iter().enumerate() {
                if let Some(gradient) = gradient {
                    // SAFETY: `results` has `n_results` slots; the shim takes ownership.
                    unsafe { *results.add(i) = give(gradient) };
                }
            }
            return 0;
        }
        Ok(Err(message)) | Err(message) => message,
    };
    let bytes = message.as_bytes();
    let n = bytes.len().min(error_size.max(1) as usize - 1);
    // SAFETY: `error` has room for `error_size` bytes, and n + 1 of them are written.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), error, n);
        *error.add(n) = 0;
    }
    1
}

extern "C" fn drop_state(state: *mut c_void) {
    // A panicking destructor must not unwind into C++; there is nobody left to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `state` came from `Box::into_raw` in `attach`, and the shim calls this once.
        drop(unsafe { Box::from_raw(state.cast::<Box<dyn Function>>()) });
    }));
}
