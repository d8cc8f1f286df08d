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

/// The unit that a reading has after multiplication by its series' scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Watts.
    Watts,
    /// Joules since an arbitrary moment.
    Joules,
    /// Degrees Celsius.
    Celsius,
    /// Hertz.
    Hertz,
    /// A share, 0 to 1.
    Ratio,
    /// Seconds.
    Seconds,
    /// A number of things, or a set of bits.
    Count,
}

/// One table for what a series is called and means: variant, code, name, unit, scale, what it is.
macro_rules! series {
    ($($variant:ident = $code:literal, $name:literal, $unit:ident, $scale:literal, $doc:literal;)*) => {
        /// What a sample measures. The code is the wire's and the chunk files'; it never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Series {
            $(#[doc = $doc] $variant = $code,)*
        }

        impl Series {
            /// Every series.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in exports; it ends in the unit of the integers that are stored.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The base unit, and what a stored integer is multiplied by to be in it.
            pub const fn unit(self) -> (Unit, f64) {
                match self { $(Self::$variant => (Unit::$unit, $scale),)* }
            }

            /// What it is, in a sentence without its end.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

series! {
    AllocatorLiveBytes = 1, "allocator_live_bytes", Bytes, 1.0, "Bytes that tensors hold in the worker's allocator";
    ProcessResidentBytes = 2, "process_resident_bytes", Bytes, 1.0, "Resident bytes of the worker process";
    GpuPowerMilliwatts = 3, "gpu_power_milliwatts", Watts, 1e-3, "Power of the GPU as the driver tells it by default: a mean over 1 s on Ampere (but GA100) and newer, instantaneous before";
    GpuEnergyMillijoules = 4, "gpu_energy_millijoules", Joules, 1e-3, "Energy counter of the GPU since the driver was loaded";
    GpuMemoryUsedBytes = 5, "gpu_memory_used_bytes", Bytes, 1.0, "Memory in use on the GPU by all processes";
    CpuPackageEnergyMicrojoules = 6, "cpu_package_energy_microjoules", Joules, 1e-6, "Energy counter of the CPU packages, wraps already undone";
    GpuTemperatureCelsius = 7, "gpu_temperature_celsius", Celsius, 1.0, "GPU temperature";
    GpuUtilisationPercent = 8, "gpu_utilisation_percent", Ratio, 1e-2, "Share of time in which a kernel ran on the GPU";
    GpuPowerInstantMilliwatts = 9, "gpu_power_instant_milliwatts", Watts, 1e-3, "Power of the GPU at this moment, where the driver tells it apart";
    GpuPowerAverageMilliwatts = 10, "gpu_power_average_milliwatts", Watts, 1e-3, "Power of the GPU as a mean over the driver's window, where the driver tells it apart";
    GpuPowerLimitMilliwatts = 11, "gpu_power_limit_milliwatts", Watts, 1e-3, "Power limit that is enforced on the GPU";
    GpuSmClockMegahertz = 12, "gpu_sm_clock_megahertz", Hertz, 1e6, "Clock of the GPU's multiprocessors";
    GpuMemoryClockMegahertz = 13, "gpu_memory_clock_megahertz", Hertz, 1e6, "Clock of the GPU's memory";
    GpuThrottleReasons = 14, "gpu_throttle_reasons", Count, 1.0, "Why the GPU's clocks are lower than they could be, as NVML's bits";
    GpuPcieGeneration = 15, "gpu_pcie_generation", Count, 1.0, "PCIe generation of the GPU's link at this moment";
    GpuPcieWidth = 16, "gpu_pcie_width", Count, 1.0, "PCIe lanes of the GPU's link at this moment";
    GpuOtherProcesses = 17, "gpu_other_processes", Count, 1.0, "Processes that compute on the GPU and are not the trial's";
    GpuMemoryUtilisationPercent = 18, "gpu_memory_utilisation_percent", Ratio, 1e-2, "Share of time in which the GPU's memory was read or written";
    CpuDramEnergyMicrojoules = 19, "cpu_dram_energy_microjoules", Joules, 1e-6, "Energy counter of the memory beside the CPU packages, wraps already undone";
    SensorPowerMicrowatts = 20, "sensor_power_microwatts", Watts, 1e-6, "Power of a hwmon sensor; the channel says which";
    SensorEnergyMicrojoules = 21, "sensor_energy_microjoules", Joules, 1e-6, "Energy counter of a hwmon sensor, wraps already undone; the channel says which";
    SensorTemperatureMillicelsius = 22, "sensor_temperature_millicelsius", Celsius, 1e-3, "Temperature of a hwmon sensor; the channel says which";
    WallPowerMilliwatts = 23, "wall_power_milliwatts", Watts, 1e-3, "Power of the whole machine at the wall";
    WallSkewMicroseconds = 24, "wall_skew_microseconds", Seconds, 1e-6, "How far the wall meter's reading may be from its time: half of what asking took";
    GpuProcessMemoryBytes = 25, "gpu_process_memory_bytes", Bytes, 1.0, "Memory that the trial's process holds on the GPU as the driver sees it, its context included";
}

impl Series {
    /// The series with this code.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| *s as u16 == code)
    }
}

/// A series of one source. Most have one, channel 0; hwmon sensors are numbered, and the record names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel {
    /// What is measured.
    pub series: Series,
    /// Of which of several sources.
    pub number: u16,
}

impl Channel {
    /// Of source `number`.
    pub const fn new(series: Series, number: u16) -> Self {
        Self { series, number }
    }

    /// The wire's code: the series below, the number in the upper half.
    pub const fn code(self) -> u32 {
        self.series as u32 | (self.number as u32) << 16
    }

    /// The channel with this code, where the series is known.
    pub fn from_code(code: u32) -> Option<Self> {
        Series::from_code(code as u16).map(|series| Self { series, number: (code >> 16) as u16 })
    }
}

impl From<Series> for Channel {
    fn from(series: Series) -> Self {
        Self { series, number: 0 }
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
    pub channel: Channel,
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_codes_found_again() {
        for series in Series::ALL {
            assert_eq!(Series::from_code(*series as u16), Some(*series));
            let channel = Channel::new(*series, 513);
            assert_eq!(Channel::from_code(channel.code()), Some(channel));
            assert_eq!(
                Channel::from(*series).code(),
                *series as u32,
                "what earlier versions wrote still reads the same"
            );
        }
        assert_eq!(Series::ALL.iter().map(|s| s.name()).collect::<BTreeSet<_>>().len(), Series::ALL.len());
        assert_eq!((Series::from_code(0), Channel::from_code(0x1_0000)), (None, None));
    }
}
