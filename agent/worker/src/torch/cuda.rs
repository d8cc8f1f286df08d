//! Bringing in the CUDA half of libtorch.
//!
//! The worker links only the CPU half, so that one binary runs on machines with and without a GPU. The other half is
//! opened at start, and that must come before the first question about CUDA: libtorch caches its CUDA hooks at first
//! use, and a process that asked too early stays blind.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};

use fleet_common::record::Cap;
use fleet_common::spec::BudgetScope;

use super::cap::{CapError, beside};
use super::library::library;
use super::{TorchError, check, ffi};

/// libtorch's allocator settings; the first that is set counts.
const SETTINGS: [&str; 2] = ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"];

/// Caps what libtorch's CUDA allocator may take from the device that it will see as the first, and returns the cap:
/// `bytes`, or with [`BudgetScope::Process`] what a context leaves of them. (Kernels and libraries' own memory that
/// come later are not known then; the driver's view of the process is sampled beside.)
///
/// The cap is a share of the device's memory, read from the environment when the allocator starts; settings that the
/// user has made there stay. The share is of what the *driver* calls the device's memory, which is less than NVML's
/// figure, and on a MIG slice the slice's.
///
/// # Errors
/// The driver does not answer, or a context leaves nothing; in words.
///
/// # Safety
/// Sets an environment variable: no other thread may run yet, and libtorch's CUDA half must not be loaded.
pub unsafe fn cap(bytes: u64, scope: BudgetScope) -> Result<Cap, CapError> {
    let total = driver_memory()?;
    let cap = match scope {
        BudgetScope::Allocator => Cap { bytes, overhead_bytes: None },
        BudgetScope::Process => beside(bytes, context_memory()?)?,
    };
    let bytes = cap.bytes;
    // SAFETY: the caller's promise.
    let now = unsafe { set(Some((bytes, total))) };
    tracing::info!("{}={now} caps the allocator at {bytes} of {total} bytes", SETTINGS[0]);
    Ok(cap)
}

/// Prepares libtorch's CUDA allocator as [`cap`] does, without a cap.
///
/// # Safety
/// As [`cap`].
pub unsafe fn uncapped() {
    // SAFETY: the caller's promise.
    unsafe { set(None) };
}

/// Puts [`settings`] where libtorch looks for them, and returns them.
///
/// # Safety
/// As [`cap`].
unsafe fn set(cap: Option<(u64, u64)>) -> String {
    let before = SETTINGS.iter().find_map(|name| std::env::var(name).ok());
    let now = settings(before.as_deref(), cap);
    // SAFETY: the caller's promise.
    unsafe { std::env::set_var(SETTINGS[0], &now) };
    now
}

/// The user's settings, growing segments unless the user has said something of them, and with a cap the share that its
/// bytes are of all that the device has.
///
/// What is capped is what the allocator takes from the device. Segments of fixed sizes leave holes in it: a plan of
/// 1,992 MiB of tensors did not fit below 2,048 on an H200, and with segments that grow it did.
fn settings(before: Option<&str>, cap: Option<(u64, u64)>) -> String {
    let (growing, share) = ("expandable_segments", "per_process_memory_fraction");
    let before: Vec<&str> = before.unwrap_or_default().split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    let mut now: Vec<String> =
        before.iter().filter(|s| cap.is_none() || !s.starts_with(share)).map(|s| (*s).to_owned()).collect();
    if !now.iter().any(|s| s.starts_with(growing)) {
        now.push(format!("{growing}:True"));
    }
    if let Some((bytes, total)) = cap {
        // libtorch cuts the product down to whole bytes; half a byte more keeps it from falling short.
        now.push(format!("{share}:{:.17}", ((bytes as f64 + 0.5) / total.max(1) as f64).min(1.0)));
    }
    now.join(",")
}

library! {
    /// The functions of cuda.h that are needed before libtorch's CUDA half is there.
    Driver {
        init = c"cuInit" (c_uint);
        device = c"cuDeviceGet" (*mut c_int, c_int);
        total = c"cuDeviceTotalMem_v2" (*mut usize, c_int);
    }
}

library! {
    /// Those that tell what a context takes.
    Contexts {
        retain = c"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
        push = c"cuCtxPushCurrent_v2" (*mut c_void);
        pop = c"cuCtxPopCurrent_v2" (*mut *mut c_void);
        create = c"cuCtxCreate_v2" (*mut *mut c_void, c_uint, c_int);
        destroy = c"cuCtxDestroy_v2" (*mut c_void);
        memory = c"cuMemGetInfo_v2" (*mut usize, *mut usize);
    }
}

fn names() -> [String; 1] {
    ["libcuda.so.1".to_owned()]
}

/// A status of the driver as a result.
fn ok(status: c_int) -> Result<(), String> {
    match status {
        0 => Ok(()),
        code => Err(format!("NVIDIA's driver answers with error {code}; try `nvidia-smi`")),
    }
}

/// Memory of the first visible device, bytes, from NVIDIA's driver, which needs no CUDA context for that.
fn driver_memory() -> Result<u64, String> {
    let driver = Driver::open(&names()).map_err(|why| format!("NVIDIA's driver cannot be opened ({why})"))?;
    let (mut device, mut bytes) = (0, 0usize);
    // SAFETY: called as cuda.h says, with places to write to.
    unsafe {
        ok((driver.init)(0))?;
        ok((driver.device)(&raw mut device, 0))?;
        ok((driver.total)(&raw mut bytes, device))?;
    }
    Ok(bytes as u64)
}

/// What a context on the first visible device takes of its memory, bytes, whoever else is on the device: free memory
/// before and after a second one is made. The first is the primary context, which stays and becomes libtorch's.
fn context_memory() -> Result<u64, String> {
    let driver = Contexts::open(&names()).map_err(|why| format!("NVIDIA's driver cannot be opened ({why})"))?;
    let free = || {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: writes two words; a context is current.
        ok(unsafe { (driver.memory)(&raw mut free, &raw mut total) }).map(|()| free as u64)
    };
    let (mut primary, mut second) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: called as cuda.h says; what is pushed and made is popped and destroyed, on the way of an error the
    // process ends.
    unsafe {
        ok((driver.retain)(&raw mut primary, 0))?;
        ok((driver.push)(primary))?;
        let before = free()?;
        ok((driver.create)(&raw mut second, 0, 0))?;
        let after = free()?;
        ok((driver.destroy)(second))?;
        ok((driver.pop)(&raw mut primary))?;
        Ok(before.saturating_sub(after))
    }
}

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
        return CudaHalf::Absent(dl_error());
    }
    match tch::Cuda::device_count() {
        n if n > 0 => CudaHalf::Devices(n),
        _ => CudaHalf::NoDevice,
    }
}

/// The stream (a `CUstream`) that libtorch's work for the calling thread goes to; null, which is the default stream,
/// for a device that has none.
///
/// # Errors
/// libtorch's CUDA half is not loaded, or has no such device.
pub fn stream(device: tch::Device) -> Result<*mut c_void, TorchError> {
    let mut stream = std::ptr::null_mut();
    if let tch::Device::Cuda(index) = device {
        // SAFETY: the shim writes one pointer.
        check(unsafe { ffi::fleet_cuda_stream(index as i64, &raw mut stream) })?;
    }
    Ok(stream)
}

/// Why the latest dlopen failed.
fn dl_error() -> String {
    // SAFETY: after a failed dlopen, dlerror returns a string valid until the next dl* call on this thread.
    unsafe {
        let why = libc::dlerror();
        if why.is_null() { "unknown reason".to_owned() } else { CStr::from_ptr(why).to_string_lossy().into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_joins_the_users_settings_and_is_exact() {
        let total = 8_361_345_024u64;
        for budget in [1u64 << 20, 2 << 30, total - 1] {
            let before = "expandable_segments:False,per_process_memory_fraction:0.9";
            let text = settings(Some(before), Some((budget, total)));
            let share = text.strip_prefix("expandable_segments:False,per_process_memory_fraction:").expect(&text);
            let share: f64 = share.parse().expect("a number");
            assert_eq!((share * total as f64) as u64, budget, "as libtorch computes it");
        }
        assert!(settings(None, Some((4 * total, total))).ends_with(":1.00000000000000000"), "no more than there is");
    }

    #[test]
    fn segments_grow_unless_the_user_says_otherwise() {
        assert_eq!(settings(None, None), "expandable_segments:True");
        assert_eq!(settings(Some("max_split_size_mb:64"), None), "max_split_size_mb:64,expandable_segments:True");
        assert_eq!(settings(Some("expandable_segments:False"), None), "expandable_segments:False");
        assert!(settings(None, Some((1, 2))).starts_with("expandable_segments:True,per_process_memory_fraction:"));
    }
}
