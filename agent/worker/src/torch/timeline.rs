//! Memory over time: what was live, and at most, between one change of place and the next.
//!
//! Works with any allocator that has live bytes and a peak that can be started anew, so the same on CPU and CUDA: each
//! change of place begins a part of the allocator's peak ([`Memory::part_peak`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use fleet_common::record::{MemoryTrace, MemoryWindow, PeakPlace};
use tch::{Cuda, Device};

use super::memory::{Memory, Place};
use super::{TorchError, guard};

/// Whether one runs; asked at each change of place.
static RUNNING: AtomicBool = AtomicBool::new(false);
static CURRENT: Mutex<Option<Timeline>> = Mutex::new(None);

/// A stretch between two changes of place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// What was at work.
    pub place: Place,
    /// When it began, seconds from the timeline's begin.
    pub at: f64,
    /// Bytes that tensors held at its begin.
    pub live: u64,
    /// Most bytes that they held in it.
    pub peak: u64,
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    device: Device,
    started: Instant,
    /// The stretches in order.
    pub stretches: Vec<Stretch>,
    /// Seconds from the first to the end.
    pub seconds: f64,
}

impl Timeline {
    /// Begins one on `device`; the places that are entered from here on, on any thread, are its marks.
    ///
    /// # Errors
    /// CUDA's allocator is not there.
    pub fn start(device: Device) -> Result<(), TorchError> {
        let mut line = Self { device, started: Instant::now(), stretches: Vec::new(), seconds: 0.0 };
        line.begin(Place::current())?;
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        RUNNING.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Ends it. `None` if none was started, or if the device stopped answering on the way.
    pub fn finish() -> Option<Self> {
        RUNNING.store(false, Ordering::SeqCst);
        let mut line = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        line.end().ok()?;
        line.seconds = line.started.elapsed().as_secs_f64();
        Some(line)
    }

    /// A place is entered.
    pub(super) fn entered(place: Place) {
        if !RUNNING.load(Ordering::SeqCst) {
            return;
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = current.as_mut().is_some_and(|line| line.end().and_then(|()| line.begin(place)).is_err());
        if failed {
            *current = None;
            RUNNING.store(false, Ordering::SeqCst);
        }
    }

    fn end(&mut self) -> Result<(), TorchError> {
        if let Device::Cuda(index) = self.device {
            // Clocks are read when the device is done, or times would be those of launching.
            guard(|| Cuda::synchronize(index as i64))?;
        }
        let peak = Memory::of(self.device).stats()?.peak;
        if let Some(last) = self.stretches.last_mut() {
            last.peak = peak;
        }
        Ok(())
    }

    fn begin(&mut self, place: Place) -> Result<(), TorchError> {
        let memory = Memory::of(self.device);
        memory.part_peak(self.stretches.last().map(|s| s.place))?;
        let live = memory.stats()?.live;
        self.stretches.push(Stretch { place, at: self.started.elapsed().as_secs_f64(), live, peak: live });
        Ok(())
    }

    /// The stretch with the highest peak.
    pub fn highest(&self) -> Option<&Stretch> {
        self.stretches.iter().max_by_key(|s| s.peak)
    }

    /// As records keep it. Stretches of the same place that follow on each other are one.
    pub fn trace(&self, step: u32) -> MemoryTrace {
        let mut windows: Vec<MemoryWindow> = Vec::new();
        for s in &self.stretches {
            let place = PeakPlace { phase: s.place.phase_name().to_owned(), block: s.place.block_index() };
            match windows.last_mut() {
                Some(last) if last.place == place => last.peak = last.peak.max(s.peak),
                _ => windows.push(MemoryWindow { place, at: (s.at * 1e3) as f32, live: s.live, peak: s.peak }),
            }
        }
        MemoryTrace { step, milliseconds: (self.seconds * 1e3) as f32, windows }
    }
}
