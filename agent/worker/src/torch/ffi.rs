//! The C face of `shim.cpp`, line by line.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

pub(super) type RawTensor = *mut C_tensor;

pub(super) type Backward = extern "C" fn(
    state: *mut c_void,
    grads: *mut RawTensor,
    n_grads: i64,
    needed: *const u8,
    results: *mut RawTensor,
    n_results: i64,
    error: *mut c_char,
    error_size: i64,
) -> c_int;

pub(super) type Drop = extern "C" fn(state: *mut c_void);

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AllocatorStats {
    pub live: i64,
    pub peak: i64,
    pub held: i64,
    pub held_peak: i64,
    pub refusals: i64,
    pub refused_bytes: i64,
    pub peak_place: u64,
    pub refused_place: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CudaStats {
    pub allocated: i64,
    pub allocated_peak: i64,
    pub reserved: i64,
    pub reserved_peak: i64,
    pub ooms: i64,
}

unsafe extern "C" {
    pub(super) fn fleet_allocator_install();
    pub(super) fn fleet_allocator_set_cap(bytes: i64);
    pub(super) fn fleet_allocator_reset_peak();
    pub(super) fn fleet_allocator_set_place(place: u64);
    pub(super) fn fleet_allocator_stats(out: *mut AllocatorStats);

    pub(super) fn fleet_cuda_stats(device: i64, out: *mut CudaStats) -> *mut c_char;
    pub(super) fn fleet_cuda_memory_info(device: i64, free: *mut u64, total: *mut u64) -> *mut c_char;
    pub(super) fn fleet_cuda_reset_peak(device: i64) -> *mut c_char;
    pub(super) fn fleet_deterministic() -> *mut c_char;
    pub(super) fn fleet_cuda_stream(device: i64, stream: *mut *mut c_void) -> *mut c_char;

    pub(super) fn fleet_function_attach(
        outputs: *mut RawTensor,
        n_outputs: i64,
        inputs: *const RawTensor,
        n_inputs: i64,
        state: *mut c_void,
        backward: Backward,
        drop: Drop,
    ) -> *mut c_char;

    pub(super) fn fleet_grad(
        outputs: *const RawTensor,
        n_outputs: i64,
        grads: *const RawTensor,
        inputs: *const RawTensor,
        n_inputs: i64,
        results: *mut RawTensor,
    ) -> *mut c_char;

    pub(super) fn fleet_conv2d_backward(
        grad: RawTensor,
        input: RawTensor,
        weight: RawTensor,
        stride: i64,
        padding: i64,
        groups: i64,
        needed: *const u8,
        results: *mut RawTensor,
    ) -> *mut c_char;

    pub(super) fn fleet_adamw_step(
        params: *const RawTensor,
        grads: *const RawTensor,
        means: *const RawTensor,
        squares: *const RawTensor,
        steps: *const RawTensor,
        n: i64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;

    pub(super) fn fleet_torch_version() -> *const c_char;
    pub(super) fn fleet_cuda_runtime_version() -> i64;
    pub(super) fn fleet_tensor_version(tensor: RawTensor) -> i64;
}
