//! A trial's record from what the worker said and the meters read.

use std::collections::BTreeMap;

use fleet_common::energy;
use fleet_common::id::Attempt;
use fleet_common::record::{Energy, EnergyDomain, PhaseRecord, Reading, Segment, Window, merge_phases};
use fleet_common::telemetry::{Channel, MonoNanos, Series};
use fleet_common::worker::Phase;

/// Readings of a trial, kept for its end; about 50 bytes each.
#[derive(Debug, Default)]
pub(super) struct Readings(BTreeMap<Channel, Vec<(MonoNanos, i64)>>);

/// How far beyond the outermost readings a window may reach: two and a half sampling intervals.
const SLACK_SECONDS: f64 = 0.25;
/// A window shorter than this, or with fewer readings, is flagged: sensors average over a second.
const MIN_SECONDS: f64 = 60.0;
const MIN_READINGS: usize = 60;

impl Readings {
    /// Adds a reading.
    pub(super) fn push(&mut self, at: MonoNanos, channel: Channel, value: i64) {
        self.0.entry(channel).or_default().push((at, value));
    }

    fn within(&self, series: Series, from: MonoNanos, to: MonoNanos) -> impl Iterator<Item = i64> {
        let all = self.0.get(&series.into()).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(move |(at, _)| (from..=to).contains(at)).map(|(_, value)| *value)
    }

    /// Seconds since `origin` and values in units of 10^-`decimals`.
    fn points(&self, series: Series, origin: MonoNanos, scale: f64) -> Vec<energy::Point> {
        let seconds = |at: &MonoNanos| (at.0 as f64 - origin.0 as f64) * 1e-9;
        let all = self.0.get(&series.into()).map(Vec::as_slice).unwrap_or_default();
        all.iter().map(|(at, value)| (seconds(at), *value as f64 * scale)).collect()
    }

    /// Joules between two moments.
    fn energy(&self, domain: &Result<EnergyDomain, String>, from: MonoNanos, to: MonoNanos) -> Reading<Energy> {
        let domain = match domain {
            Ok(domain) => *domain,
            Err(why) => return Reading::Unavailable(why.clone()),
        };
        let end = to.seconds_since(from);
        let counter = |series, scale, source: &str| {
            let points = self.points(series, from, scale);
            let joules = energy::counter_difference(&points, 0.0, end, SLACK_SECONDS)?;
            let readings = self.within(series, from, to).count() as u64;
            Some(Energy { joules, domain, source: source.to_owned(), readings })
        };
        let measured = match domain {
            EnergyDomain::CpuPackages => counter(Series::CpuPackageEnergyMicrojoules, 1e-6, "RAPL package counters"),
            EnergyDomain::Gpu => counter(Series::GpuEnergyMillijoules, 1e-3, "NVML energy counter").or_else(|| {
                let points = self.points(Series::GpuPowerMilliwatts, from, 1e-3);
                let joules = energy::integrate(&points, 0.0, end, SLACK_SECONDS)?;
                let readings = self.within(Series::GpuPowerMilliwatts, from, to).count() as u64;
                Some(Energy { joules, domain, source: "NVML power, integrated".to_owned(), readings })
            }),
        };
        match measured {
            Some(energy) => Reading::Measured(energy),
            None => Reading::Unavailable("the meter's readings do not cover the window".to_owned()),
        }
    }
}

/// The phases of an attempt with their times, memory and energy; `marks` are the beginnings of their stretches, `end`
/// is the end of the last.
pub(super) fn phases(
    attempt: Attempt,
    marks: &[(Phase, MonoNanos)],
    end: MonoNanos,
    readings: &Readings,
    domain: &Result<EnergyDomain, String>,
) -> Vec<PhaseRecord> {
    let mut phases = Vec::new();
    merge_phases(
        &mut phases,
        marks.iter().enumerate().map(|(i, (phase, from))| {
            let to = marks.get(i + 1).map_or(end, |(_, next)| *next);
            let seconds = to.seconds_since(*from);
            let resident = readings.within(Series::ProcessResidentBytes, *from, to).max();
            PhaseRecord {
                phase: *phase,
                windows: vec![Window { attempt, starts_at: *from, seconds }],
                seconds,
                peak_process_bytes: resident.and_then(|b| u64::try_from(b).ok()),
                energy: readings.energy(domain, *from, to),
            }
        }),
    );
    phases
}

/// What a careful reader must know about these phases.
pub(super) fn flags(phases: &[PhaseRecord]) -> Vec<String> {
    let mut flags = Vec::new();
    for phase in phases.iter().filter(|p| matches!(p.phase, Phase::Train | Phase::Evaluate)) {
        if let Reading::Measured(energy) = &phase.energy
            && (phase.seconds < MIN_SECONDS || energy.readings < MIN_READINGS as u64)
        {
            flags.push(format!(
                "short window: {} took {:.1} s with {} energy readings; believable from {MIN_SECONDS:.0} s and \
                 {MIN_READINGS} readings",
                phase.phase.name(),
                phase.seconds,
                energy.readings
            ));
        }
    }
    flags
}

/// What a careful reader must know about a trial that was interrupted.
pub(super) fn interruptions(segments: &[Segment]) -> Option<String> {
    let parts: Vec<String> = segments
        .iter()
        .map(|s| format!("attempt {} did steps {} to {}", s.attempt, s.from_step + 1, s.to_step))
        .collect();
    (segments.len() > 1).then(|| format!("interrupted: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn phases_split_a_curve_of_known_energy() {
        // 100 W for ten seconds, then 200 W: the counter rises accordingly.
        let mut readings = Readings::default();
        let mut millijoules = 0;
        for tick in 0..=200u64 {
            let at = MonoNanos(5 * S + tick * S / 10);
            readings.push(at, Series::GpuEnergyMillijoules.into(), millijoules);
            readings.push(at, Series::ProcessResidentBytes.into(), 1000 + tick as i64);
            millijoules += if tick < 100 { 10_000 } else { 20_000 };
        }
        let marks = [(Phase::Train, MonoNanos(7 * S)), (Phase::Evaluate, MonoNanos(17 * S))];
        let phases = phases(Attempt::FIRST, &marks, MonoNanos(20 * S), &readings, &Ok(EnergyDomain::Gpu));
        let joules: Vec<f64> = phases.iter().map(|p| p.energy.value().expect("measured").joules).collect();
        assert!((joules[0] - (8.0 * 100.0 + 2.0 * 200.0)).abs() < 1e-6, "{joules:?}");
        assert!((joules[1] - 600.0).abs() < 1e-6, "{joules:?}");
        assert_eq!(phases[0].seconds, 10.0);
        assert_eq!(phases[1].peak_process_bytes, Some(1150));
        assert!(flags(&phases).iter().all(|f| f.starts_with("short window")));
    }

    #[test]
    fn without_a_counter_power_is_integrated_and_without_a_meter_nothing_is_made_up() {
        let mut readings = Readings::default();
        for tick in 0..=20u64 {
            readings.push(MonoNanos(tick * S / 10), Series::GpuPowerMilliwatts.into(), 50_000);
        }
        let marks = [(Phase::Train, MonoNanos(0))];
        let one = phases(Attempt::FIRST, &marks, MonoNanos(2 * S), &readings, &Ok(EnergyDomain::Gpu));
        let energy = one[0].energy.value().expect("measured");
        assert!((energy.joules - 100.0).abs() < 1e-9 && energy.source.contains("integrated"));
        let late = phases(Attempt::FIRST, &marks, MonoNanos(9 * S), &readings, &Ok(EnergyDomain::Gpu));
        assert!(matches!(&late[0].energy, Reading::Unavailable(why) if why.contains("do not cover")));
        let none = phases(Attempt::FIRST, &marks, MonoNanos(2 * S), &readings, &Err("no meter".into()));
        assert_eq!(none[0].energy, Reading::Unavailable("no meter".into()));
    }
}
