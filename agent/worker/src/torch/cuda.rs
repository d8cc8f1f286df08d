//! Bringing in the CUDA half of libtorch.
//!
//! The worker links only the CPU half, so that one binary runs on machines with and without a GPU. The other half is
//! opened at start, and that must come before the first question about CUDA: libtorch caches its CUDA hooks at first
//! use, and a process that asked too early stays blind.

use std::ffi::{CStr, CString};

/// What became of the attempt to load libtorch's CUDA half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaHalf {
    /// Loaded, and the driver shows this many devices.
    Devices(i64),
    /// Loaded, but no usable device: no driver, or no GPU.
    NoDevice,
    /// Not there or not loadable, in the loader's words.
    Absent(String),
}

/// Loads libtorch's CUDA half, if it is there. Call it before anything asks tch about CUDA.
pub fn load() -> CudaHalf {
    let name = CString::new("libtorch_cuda.so").expect("no NUL inside");
    // SAFETY: opening a library runs its initialisers; this one belongs to the libtorch that we link. The handle stays
    // open for the life of the process.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: after a failed dlopen, dlerror returns a string valid until the next dl* call on this thread.
        let why = unsafe {
            let why = libc::dlerror();
            if why.is_null() { "unknown reason".to_owned() } else { CStr::from_ptr(why).to_string_lossy().into_owned() }
        };
        return CudaHalf::Absent(why);
    }
    match tch::Cuda::device_count() {
        n if n > 0 => CudaHalf::Devices(n),
        _ => CudaHalf::NoDevice,
    }
}
