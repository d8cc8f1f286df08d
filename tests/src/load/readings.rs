//! What simulated machines read: series that look like a GPU's and its worker's, and whose every value follows from the
//! trial and the place in the stream, so that what is stored can be compared without keeping what was sent.

use fleet_common::telemetry::{MonoNanos, Sample, Series};

/// What is read of each trial.
pub(super) const SERIES: [Series; 10] = [
    Series::GpuPowerMilliwatts,
    Series::GpuPowerInstantMilliwatts,
    Series::GpuEnergyMillijoules,
    Series::GpuMemoryUsedBytes,
    Series::GpuTemperatureCelsius,
    Series::GpuUtilisationPercent,
    Series::GpuSmClockMegahertz,
    Series::CpuPackageEnergyMicrojoules,
    Series::AllocatorLiveBytes,
    Series::ProcessResidentBytes,
];

/// Series that are read in one go, and so at one time: the GPU's, the CPU's, the worker's two.
const SOURCES: [u64; 10] = [0, 0, 0, 0, 0, 0, 0, 1, 2, 3];

/// The sample with this number of this trial.
pub(super) fn sample(trial: usize, number: u64, hertz: u64) -> Sample {
    let kind = (number % SERIES.len() as u64) as usize;
    let tick = number / SERIES.len() as u64;
    // A timer is late by up to 200 µs, a source after it by some more.
    let late = noise(trial, tick, 100 + SOURCES[kind], 200_000) + SOURCES[kind] * 40_000;
    let at = MonoNanos(3_600_000_000_000 + trial as u64 * 7_919_000 + tick * (1_000_000_000 / hertz) + late);
    Sample { number, at, channel: SERIES[kind].into(), value: value(trial, tick, kind, hertz) }
}

fn value(trial: usize, tick: u64, kind: usize, hertz: u64) -> i64 {
    let noise = |range| noise(trial, tick, kind as u64, range);
    let value = match SERIES[kind] {
        Series::GpuPowerMilliwatts => 180_000 + noise(6_000),
        Series::GpuPowerInstantMilliwatts => 165_000 + noise(40_000),
        Series::GpuEnergyMillijoules => 90_000_000 + tick * 183_000 / hertz + noise(2_000),
        Series::GpuMemoryUsedBytes => (5 << 30) + (tick / 600) * (2 << 20),
        Series::GpuTemperatureCelsius => 61 + (tick / 90) % 5,
        Series::GpuUtilisationPercent => 88 + noise(12),
        Series::GpuSmClockMegahertz => 1_905 - 15 * noise(4),
        Series::CpuPackageEnergyMicrojoules => 700_000_000 + tick * 47_000_000 / hertz + noise(300_000),
        Series::AllocatorLiveBytes => (700 << 20) + 512 * noise(1 << 20),
        _ => (2 << 30) + 4096 * (tick / 7 + noise(3)),
    };
    value as i64
}

/// A number below `range` that looks random: splitmix64 of where it is.
fn noise(trial: usize, tick: u64, salt: u64, range: u64) -> u64 {
    let mut z = (trial as u64) << 40 ^ tick << 8 ^ salt;
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31) % range
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_value_and_places_differ() {
        let first: Vec<Sample> = (0..400).map(|n| sample(3, n, 20)).collect();
        assert_eq!(first, (0..400).map(|n| sample(3, n, 20)).collect::<Vec<_>>());
        let values = |trial| (0..400).map(|n| sample(trial, n, 20).value).collect::<Vec<_>>();
        assert_ne!(values(3), values(4));
        let of_one = |kind: u64| first.iter().filter(move |s| s.number % 10 == kind);
        assert!(of_one(2).is_sorted_by_key(|s| s.value), "a counter of energy only rises");
        assert!(of_one(0).is_sorted_by_key(|s| s.at) && of_one(0).all(|s| s.channel == SERIES[0].into()));
        assert_eq!(first[200].at.seconds_since(first[0].at).round(), 1.0, "20 readings are a second");
    }
}
