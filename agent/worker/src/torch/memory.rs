//! Memory of the device that a trial runs on: live and peak bytes, the cap, and whether it was hit.
//!
//! On the CPU the numbers are ours: an allocator (in `shim.cpp`) counts every tensor byte and refuses above the cap.
//! On CUDA they are the caching allocator's, and its cap is set by the environment before the process starts
//! (`PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:F`), because libtorch reads it once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tch::Device;

use super::timeline::Timeline;
use super::{TorchError, check, ffi};

/// What the executor is doing when memory peaks; packed into one word so that the allocator can note it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Index into [`Place::PHASES`].
    phase: u8,
    /// Block number, where a block is at work.
    block: Option<u32>,
}

impl Place {
    /// Every phase that a place can name.
    pub const PHASES: [&'static str; 12] = [
        "start",
        "load",
        "forward",
        "backward",
        "recompute",
        "optimizer",
        "evaluate",
        "save",
        "features",
        "probe",
        "texts",
        "answers",
    ];

    /// A place outside any block.
    ///
    /// # Panics
    /// When `phase` is not in [`Place::PHASES`]: a slip in this crate.
    pub fn phase(phase: &str) -> Self {
        let index = Self::PHASES.iter().position(|p| *p == phase);
        Self { phase: index.expect("a phase of Place::PHASES") as u8, block: None }
    }

    /// The same phase, inside block number `block`.
    pub fn block(self, block: usize) -> Self {
        Self { block: Some(block as u32), ..self }
    }

    fn pack(self) -> u64 {
        u64::from(self.phase) | self.block.map_or(0, |b| (u64::from(b) + 1) << 8)
    }

    fn unpack(word: u64) -> Self {
        Self { phase: word as u8, block: (word >> 8).checked_sub(1).map(|b| b as u32) }
    }

    /// The phase's name.
    pub fn phase_name(self) -> &'static str {
        Self::PHASES[usize::from(self.phase) % Self::PHASES.len()]
    }

    /// The block's number, where one was at work.
    pub fn block_index(self) -> Option<u32> {
        self.block
    }

    /// Makes this the place that new peaks and refusals are attributed to; returns the previous one.
    pub fn enter(self) -> Self {
        let word = self.pack();
        // SAFETY: stores a word.
        unsafe { ffi::fleet_allocator_set_place(word) };
        let before = Self::unpack(CURRENT.swap(word, Ordering::Relaxed));
        Timeline::entered(self);
        before
    }

    /// The place entered last.
    pub fn current() -> Self {
        Self::unpack(CURRENT.load(Ordering::Relaxed))
    }
}

/// The place entered last, kept here as well as in the allocator, so that reading it is no foreign call.
static CURRENT: AtomicU64 = AtomicU64::new(0);

/// Refusals that a watch has told of.
static DEALT_WITH: AtomicU64 = AtomicU64::new(0);

/// The highest of the parts that are over, and where it was. A process trains on one device.
static HIGHEST: Mutex<Option<(u64, Option<Place>)>> = Mutex::new(None);

fn highest() -> MutexGuard<'static, Option<(u64, Option<Place>)>> {
    HIGHEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An allocator's figures, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Held by tensors now.
    pub live: u64,
    /// Most ever held by tensors since the last [`Memory::reset_peak`] or [`Memory::part_peak`].
    pub peak: u64,
    /// Most ever taken from the device by the allocator, cached blocks included. On the CPU that is, but for rounding to
    /// pages, never more than tensors ever held (see `pool.h`).
    pub reserved_peak: u64,
    /// Taken from the device by the allocator now.
    pub reserved: u64,
    /// How many allocations the cap, or the device, has refused so far.
    pub refusals: u64,
    /// Where `peak` was reached. CUDA's allocator cannot say.
    pub peak_place: Option<Place>,
}

/// The allocator of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    device: Device,
}

impl Memory {
    /// The allocator of `device`. On the CPU this installs the counting one, once per process; tensors that exist
    /// already stay uncounted, so do it first.
    pub fn of(device: Device) -> Self {
        static INSTALL: Once = Once::new();
        // SAFETY: replaces libtorch's global allocator; tensors made before keep their own deleter.
        INSTALL.call_once(|| unsafe { ffi::fleet_allocator_install() });
        Self { device }
    }

    /// Sets or lifts the cap on live bytes. Only the CPU's can be set from inside the process.
    pub fn set_cpu_cap(self, bytes: Option<u64>) {
        let bytes = bytes.and_then(|b| i64::try_from(b).ok()).unwrap_or(i64::MAX);
        // SAFETY: stores a word.
        unsafe { ffi::fleet_allocator_set_cap(bytes) };
    }

    /// Starts a new peak from what is live now, and a new [`Memory::highest`].
    ///
    /// # Errors
    /// CUDA's allocator is not there.
    pub fn reset_peak(self) -> Result<(), TorchError> {
        *highest() = None;
        self.restart_peak()
    }

    /// Starts a new peak for a part of what [`Memory::highest`] is about; `place` is where the old one was reached, for
    /// allocators that cannot say.
    ///
    /// # Errors
    /// CUDA's allocator is not there.
    pub fn part_peak(self, place: Option<Place>) -> Result<(), TorchError> {
        let now = self.peak(place)?;
        let mut highest = highest();
        *highest = highest.filter(|before| before.0 >= now.0).or(Some(now));
        self.restart_peak()
    }

    /// Most bytes ever held since the last [`Memory::reset_peak`], whatever parts it was divided into, and where.
    ///
    /// # Errors
    /// CUDA's allocator is not there.
    pub fn highest(self) -> Result<(u64, Option<Place>), TorchError> {
        let now = self.peak(None)?;
        Ok(highest().filter(|before| before.0 >= now.0).unwrap_or(now))
    }

    fn peak(self, place: Option<Place>) -> Result<(u64, Option<Place>), TorchError> {
        let stats = self.stats()?;
        Ok((stats.peak, stats.peak_place.or(place)))
    }

    fn restart_peak(self) -> Result<(), TorchError> {
        match self.device {
            // SAFETY: both only write counters.
            Device::Cuda(i) => check(unsafe { ffi::fleet_cuda_reset_peak(i as i64) }),
            _ => {
                unsafe { ffi::fleet_allocator_reset_peak() };
                Ok(())
            }
        }
    }

    /// Runs `f`; whether the allocator refused something meanwhile. Who asks deals with it: a refusal in here is none for a
    /// watch around this one, so that what was tried and given up early does not explain a failure that comes later.
    pub fn watch<T>(self, f: impl FnOnce() -> T) -> (T, bool) {
        // CUDA's allocator has no figures before its first use.
        let open = || self.stats().map_or(0, |s| s.refusals).saturating_sub(DEALT_WITH.load(Ordering::Relaxed));
        let before = open();
        let value = f();
        let new = open().saturating_sub(before);
        DEALT_WITH.fetch_add(new, Ordering::Relaxed);
        (value, new > 0)
    }

    /// The figures now.
    ///
    /// # Errors
    /// CUDA's allocator is not there.
    pub fn stats(self) -> Result<Stats, TorchError> {
        // Counters are never negative but for a moment between two threads' updates.
        let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
        match self.device {
            Device::Cuda(i) => {
                let mut s = ffi::CudaStats::default();
                // SAFETY: fills the struct it is given.
                check(unsafe { ffi::fleet_cuda_stats(i as i64, &raw mut s) })?;
                Ok(Stats {
                    live: bytes(s.allocated),
                    peak: bytes(s.allocated_peak),
                    reserved_peak: bytes(s.reserved_peak),
                    reserved: bytes(s.reserved),
                    refusals: bytes(s.ooms),
                    peak_place: None,
                })
            }
            _ => {
                let s = Self::cpu();
                Ok(Stats {
                    live: bytes(s.live),
                    peak: bytes(s.peak),
                    reserved_peak: bytes(s.held_peak),
                    reserved: bytes(s.held),
                    refusals: bytes(s.refusals),
                    peak_place: Some(Place::unpack(s.peak_place)),
                })
            }
        }
    }

    /// Bytes of the GPU that nobody holds, and all of them; `None` on the CPU.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn device_memory(self) -> Result<Option<(u64, u64)>, TorchError> {
        let Device::Cuda(i) = self.device else { return Ok(None) };
        let (mut free, mut total) = (0, 0);
        // SAFETY: fills the two words that it is given.
        check(unsafe { ffi::fleet_cuda_memory_info(i as i64, &raw mut free, &raw mut total) })?;
        Ok(Some((free, total)))
    }

    /// The latest refusal of the CPU's cap: the bytes that would have been live, and where.
    pub fn last_cpu_refusal(self) -> Option<(u64, Place)> {
        let s = Self::cpu();
        (s.refusals > 0).then(|| (s.refused_bytes.unsigned_abs(), Place::unpack(s.refused_place)))
    }

    fn cpu() -> ffi::AllocatorStats {
        let mut s = ffi::AllocatorStats::default();
        // SAFETY: fills the struct it is given.
        unsafe { ffi::fleet_allocator_stats(&raw mut s) };
        s
    }
}
