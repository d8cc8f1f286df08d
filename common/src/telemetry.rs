//! Samples: numbered readings on one monotonic clock.
//!
//! All processes of one machine read the same `CLOCK_MONOTONIC`, so the worker's and the daemon's readings line up
//! without any exchange. One offset per batch maps them to wall time.

use serde::{Deserialize, Serialize};

/// Nanoseconds of a machine's monotonic clock; comparable only within one boot of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonoNanos(pub u64);

impl MonoNanos {
    /// Seconds from `earlier` to `self`; 0 if the order is the other way round.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 * 1e-9
    }
}

/// What a sample measures. The number is the wire's and the chunk files' code; it never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Series {
    /// Bytes that tensors hold in the worker's allocator.
    AllocatorLiveBytes = 1,
    /// Resident bytes of the worker process.
    ProcessResidentBytes = 2,
    /// Power of the GPU, milliwatts.
    GpuPowerMilliwatts = 3,
    /// Energy counter of the GPU, millijoules since the driver was loaded.
    GpuEnergyMillijoules = 4,
    /// Memory in use on the GPU by all processes, bytes.
    GpuMemoryUsedBytes = 5,
    /// Energy counter of the CPU packages, microjoules, wraps already undone.
    CpuPackageEnergyMicrojoules = 6,
    /// GPU temperature, degrees Celsius.
    GpuTemperatureCelsius = 7,
    /// GPU utilisation, percent.
    GpuUtilisationPercent = 8,
}

impl Series {
    /// Every series.
    pub const ALL: [Self; 8] = [
        Self::AllocatorLiveBytes,
        Self::ProcessResidentBytes,
        Self::GpuPowerMilliwatts,
        Self::GpuEnergyMillijoules,
        Self::GpuMemoryUsedBytes,
        Self::CpuPackageEnergyMicrojoules,
        Self::GpuTemperatureCelsius,
        Self::GpuUtilisationPercent,
    ];

    /// The series with this code.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u32 == code)
    }

    /// The name in exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllocatorLiveBytes => "allocator_live_bytes",
            Self::ProcessResidentBytes => "process_resident_bytes",
            Self::GpuPowerMilliwatts => "gpu_power_milliwatts",
            Self::GpuEnergyMillijoules => "gpu_energy_millijoules",
            Self::GpuMemoryUsedBytes => "gpu_memory_used_bytes",
            Self::CpuPackageEnergyMicrojoules => "cpu_package_energy_microjoules",
            Self::GpuTemperatureCelsius => "gpu_temperature_celsius",
            Self::GpuUtilisationPercent => "gpu_utilisation_percent",
        }
    }
}

/// One reading. Its number is its place in the attempt's stream, from 0 and without gaps where nothing was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Place in the stream.
    pub number: u64,
    /// When it was read.
    pub at: MonoNanos,
    /// What was read.
    pub series: Series,
    /// The reading, in the unit that the series names.
    pub value: i64,
}

/// What the coordinator holds of an attempt's samples once the trial is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seal {
    /// Samples stored.
    pub stored: u64,
    /// Numbers that never arrived.
    pub missing: u64,
    /// CRC-32 over the stored chunk file.
    pub crc32: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found_again() {
        for series in Series::ALL {
            assert_eq!(Series::from_code(series as u32), Some(series));
        }
        assert_eq!(Series::from_code(0), None);
    }
}
