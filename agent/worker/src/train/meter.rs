//! Times and memory of the phases, as the worker sees them.

use std::time::{Duration, Instant};

use fleet_common::record::{Training, WorkerPhase};
use fleet_common::worker::Phase;
use tch::{Cuda, Device};

use super::events::Events;
use super::peak_place;
use crate::torch::memory::Memory;
use crate::torch::{TorchError, guard};

/// Measures the current phase; memory peaks start anew with each.
pub(crate) struct PhaseMeter<'a> {
    memory: Memory,
    device: Device,
    events: &'a Events,
    phase: Phase,
    steps: u64,
    images: u64,
    compute: Duration,
    waiting: Duration,
}

impl<'a> PhaseMeter<'a> {
    /// Starts with `phase`.
    pub(crate) fn start(phase: Phase, memory: Memory, device: Device, events: &'a Events) -> Result<Self, TorchError> {
        memory.reset_peak()?;
        events.phase(phase);
        let zero = Duration::ZERO;
        Ok(Self { memory, device, events, phase, steps: 0, images: 0, compute: zero, waiting: zero })
    }

    /// Ends the current phase and starts the next.
    pub(crate) fn next(&mut self, phase: Phase, training: &mut Training) -> Result<(), TorchError> {
        self.finish(training)?;
        *self = Self::start(phase, self.memory, self.device, self.events)?;
        Ok(())
    }

    /// Adds the current phase to what was measured.
    ///
    /// # Errors
    /// The device failed at what it was still working on. What was measured is noted nevertheless.
    pub(crate) fn finish(&mut self, training: &mut Training) -> Result<(), TorchError> {
        let done = self.synchronize();
        let stats = self.memory.stats().ok();
        let (peak_bytes, place) = self.memory.highest().unwrap_or((0, None));
        let phase = WorkerPhase {
            phase: self.phase,
            steps: self.steps,
            images: self.images,
            compute_seconds: self.compute.as_secs_f64(),
            data_wait_seconds: self.waiting.as_secs_f64(),
            peak_bytes,
            peak_reserved_bytes: stats.map_or(0, |s| s.reserved_peak),
            peak_place: place.map(peak_place),
        };
        match training.phases.iter_mut().find(|p| p.phase == phase.phase) {
            // Divided by a saved state, or by an interruption.
            Some(same) => same.absorb(phase),
            None => training.phases.push(phase),
        }
        done
    }

    /// The phase at work.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Times the wait for data.
    pub(crate) fn wait<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let from = Instant::now();
        let result = f();
        self.waiting += from.elapsed();
        result
    }

    /// Times the work on `images` images.
    ///
    /// # Errors
    /// Those of `f`, and the device's.
    pub(crate) fn work<T, E: From<TorchError>>(
        &mut self,
        images: usize,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let from = Instant::now();
        let result = f()?;
        self.synchronize()?;
        self.compute += from.elapsed();
        self.steps += 1;
        self.images += images as u64;
        Ok(result)
    }

    /// Tells how far the phase is.
    pub(crate) fn progress(&self, done: u64, of: u64, loss: Option<f64>) {
        self.events.progress(self.phase, done, of, loss);
    }

    /// CUDA works behind the caller's back; clocks are read only when it is done.
    fn synchronize(&self) -> Result<(), TorchError> {
        match self.device {
            // Errors of kernels that were only started surface here.
            Device::Cuda(index) => guard(|| Cuda::synchronize(index as i64)),
            _ => Ok(()),
        }
    }
}
