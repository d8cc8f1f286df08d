//! The selective scan on NVIDIA's GPUs.
//!
//! The kernels (`kernel.cu`) are compiled when a worker first scans on a device, by the compiler that libtorch's CUDA
//! half brings: building needs no CUDA toolkit, and the code fits the board that is there. They are then compared with
//! the plain form on a small case. Where there is no compiler, or it fails, or the results differ, a warning says so
//! once and the plain form is used.
//!
//! - [`nvrtc`]: the compiler. `driver`: loading and launching. Both are opened at run time (`library`).
//! - [`kernels`](Kernels): forward and backward as launches. `arguments`, `inputs`: what they are given.
//! - `check`: the comparison.
//!
//! Results are the same bits each time: sums over channels and sequences are made in a fixed order.

mod arguments;
mod check;
mod driver;
mod inputs;
mod kernels;
pub mod nvrtc;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use tch::Device;

pub use arguments::Widths;
pub use check::{Plain, check};
pub use kernels::Kernels;

use arguments::{MARK, SEGMENT, Scan, THREADS};

/// By device and width.
type Loaded = HashMap<(usize, i64), Option<Kernels>>;

/// The kernels for scans of so many states on a device: compiled and compared with the plain form when they are first
/// asked for. `None` means that the plain form is to be used; the first time, a warning says why.
pub fn kernels(device: Device, states: i64, plain: Plain) -> Option<Kernels> {
    static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);
    let Device::Cuda(ordinal) = device else { return None };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    *loaded.entry((ordinal, Widths::of(states).forward)).or_insert_with(|| {
        let started = std::time::Instant::now();
        match Kernels::load(device, states).and_then(|k| check(&k, device, states, plain).map(|()| k)) {
            Ok(kernels) => {
                tracing::info!("the scan's kernels for {device:?} are ready after {:.1?}", started.elapsed());
                Some(kernels)
            }
            Err(why) => {
                tracing::warn!("scans on {device:?} use the plain form, which is slower and takes more memory: {why}");
                None
            }
        }
    })
}
