//! A load that is on and off in turns: what meters are characterised with.
//!
//! Matrix products, because they draw about the most that a device can; their size keeps one of them shorter than the
//! times that are to be told apart.

use std::time::{Duration, Instant};

use fleet_common::worker::{LoadEdge, LoadRequest};
use tch::{Device, Kind, Tensor};

use crate::torch::{TorchError, guard};
use crate::train::now;

/// Rows of the matrices. On a GPU a product of 4096 takes a few milliseconds, on a CPU core one of 512 as many.
const CUDA_ROWS: i64 = 4096;
const CPU_ROWS: i64 = 512;

/// Runs the load; `told` hears of each turn when it is over.
///
/// # Errors
/// libtorch fails: no memory, a lost device.
pub fn run(request: &LoadRequest, device: Device, told: impl Fn(&LoadEdge)) -> Result<(), TorchError> {
    tch::set_num_threads(request.threads as i32);
    let rows = if device.is_cuda() { CUDA_ROWS } else { CPU_ROWS };
    let a = guard(|| Tensor::randn([rows, rows], (Kind::Float, device)))?;
    for _ in 0..request.turns {
        synchronize(device)?;
        let (from, begun) = (now(), Instant::now());
        while begun.elapsed() < Duration::from_secs_f64(request.on_seconds.max(0.0)) {
            guard(|| drop(a.matmul(&a)))?;
            synchronize(device)?;
        }
        told(&LoadEdge { from, to: now() });
        std::thread::sleep(Duration::from_secs_f64(request.off_seconds.max(0.0)));
    }
    Ok(())
}

fn synchronize(device: Device) -> Result<(), TorchError> {
    match device {
        Device::Cuda(index) => guard(|| tch::Cuda::synchronize(index as i64)),
        _ => Ok(()),
    }
}
