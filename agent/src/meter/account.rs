//! A trial's phases from what the worker said and the meters read, with what a careful reader must know about them.

use std::collections::BTreeSet;

use fleet_common::energy::{Readings, energy_of};
use fleet_common::id::Attempt;
use fleet_common::record::{Energy, PhaseRecord, Reading, Segment, SegmentMachine, Window, merge_phases};
use fleet_common::telemetry::{MonoNanos, Series};
use fleet_common::worker::Phase;

use super::slot::{Covered, Metered};

/// A window shorter than this, or with fewer readings, is flagged: sensors average over a second.
const MIN_SECONDS: f64 = 60.0;
const MIN_READINGS: usize = 60;
/// Clocks that are lowered for less of a phase are an episode of warming up.
const MUCH_THROTTLING: f64 = 0.01;

/// The beginning of a stretch of a phase.
pub type Mark = (Phase, MonoNanos);

/// Why NVML says that clocks are lowered, where that is not the board's ordinary business (idling, and keeping to its
/// power limit under load).
const THROTTLING: [(i64, &str); 4] = [
    (0x08, "hardware slowdown"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "power brake"),
];

/// What an attempt's readings amount to.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// What was read.
    pub readings: &'a Readings,
    /// What the device's and the machine's meters cover.
    pub covered: &'a Covered,
}

impl Account<'_> {
    /// The phases of an attempt with their times, memory and energy; `marks` are the beginnings of their stretches,
    /// `end` is the end of the last. Beside them, remarks on how they were measured.
    pub fn phases(&self, attempt: Attempt, marks: &[Mark], end: MonoNanos) -> (Vec<PhaseRecord>, Vec<String>) {
        let (mut phases, mut remarks) = (Vec::new(), BTreeSet::new());
        merge_phases(
            &mut phases,
            marks.iter().enumerate().map(|(i, (phase, from))| {
                let to = marks.get(i + 1).map_or(end, |(_, next)| *next);
                let seconds = to.seconds_since(*from);
                let on_board = self.readings.within(Series::GpuProcessMemoryBytes.into(), *from, to).max();
                let resident = self.readings.within(Series::ProcessResidentBytes.into(), *from, to).max();
                let (energy, said) = self.energy(*from, to);
                if is_cost(*phase) {
                    let observed = said.into_iter().chain(self.observed(*from, to));
                    remarks.extend(observed.map(|r| format!("{}: {r}", phase.name())));
                }
                PhaseRecord {
                    phase: *phase,
                    windows: vec![Window { attempt, starts_at: *from, seconds }],
                    seconds,
                    peak_process_bytes: resident.and_then(|b| u64::try_from(b).ok()),
                    peak_driver_bytes: on_board.and_then(|b| u64::try_from(b).ok()),
                    energy,
                    other_energy: self.others(*from, to),
                }
            }),
        );
        (phases, remarks.into_iter().collect())
    }

    fn energy(&self, from: MonoNanos, to: MonoNanos) -> (Reading<Energy>, Vec<String>) {
        match &self.covered.device {
            Ok(metered) => energy_of(self.readings, &metered.gauge, from, to),
            Err(why) => (Reading::Unavailable(why.clone()), Vec::new()),
        }
    }

    fn others(&self, from: MonoNanos, to: MonoNanos) -> Vec<Energy> {
        let energy = |metered: &Metered| energy_of(self.readings, &metered.gauge, from, to).0.value().cloned();
        self.covered.others.iter().filter_map(energy).collect()
    }

    /// What else was going on.
    fn observed(&self, from: MonoNanos, to: MonoNanos) -> Vec<String> {
        let within = |series: Series| self.readings.within(series.into(), from, to);
        let mut found = Vec::new();
        if let Some(most) = within(Series::GpuOtherProcesses).max().filter(|n| *n > 0) {
            found.push(format!("interference: up to {most} other processes computed on the GPU"));
        }
        let reasons: Vec<i64> = within(Series::GpuThrottleReasons).collect();
        for (bit, name) in THROTTLING {
            let share = reasons.iter().filter(|r| *r & bit != 0).count() as f64 / reasons.len().max(1) as f64;
            if share > MUCH_THROTTLING {
                found.push(format!("throttled: {name} in {:.0} % of the readings", share * 100.0));
            }
        }
        let limits: BTreeSet<i64> = within(Series::GpuPowerLimitMilliwatts).collect();
        if let (Some(low), Some(high)) = (limits.first(), limits.last())
            && low != high
        {
            found.push(format!("the power limit changed between {} and {} W", low / 1000, high / 1000));
        }
        let skew = within(Series::WallSkewMicroseconds).max().unwrap_or(0) as f64 * 1e-6;
        if skew > 0.5 {
            found.push(format!("the wall meter answered late: its readings are off by up to {skew:.1} s"));
        }
        found
    }

    /// Joules of the device that are in none of `kept` (windows of this attempt that went into a record or a state).
    pub fn wasted(&self, attempt: Attempt, kept: &[PhaseRecord]) -> Option<(Energy, f64)> {
        let gauge = &self.covered.device.as_ref().ok()?.gauge;
        // Meters have channels of their own; a worker's last reading of memory may be later than the last of energy.
        let channel = gauge.counter.iter().map(|(c, _)| *c).chain(gauge.powers.iter().map(|p| p.channel));
        let times: Vec<MonoNanos> = channel.flat_map(|c| self.readings.of(c)).map(|(at, _)| *at).collect();
        let (first, last) = (times.iter().min()?, times.iter().max()?);
        let mut whole = energy_of(self.readings, gauge, *first, *last).0.value()?.clone();
        let mut seconds = last.seconds_since(*first);
        for window in kept.iter().flat_map(|p| &p.windows).filter(|w| w.attempt == attempt) {
            let to = MonoNanos(window.starts_at.0 + (window.seconds * 1e9) as u64);
            let part = energy_of(self.readings, gauge, window.starts_at, to).0;
            let part = part.value()?;
            whole.joules -= part.joules;
            if let (Reading::Measured(all), Reading::Measured(some)) = (&mut whole.above_idle, &part.above_idle) {
                *all -= some;
            }
            seconds -= window.seconds;
        }
        whole.joules = whole.joules.max(0.0);
        Some((whole, seconds.max(0.0)))
    }
}

/// Whether the phase is part of what a trial is scored by.
fn is_cost(phase: Phase) -> bool {
    matches!(phase, Phase::Train | Phase::Evaluate)
}

/// Windows that are too short to be believed.
pub(crate) fn short_windows(phases: &[PhaseRecord]) -> Vec<String> {
    let mut flags = Vec::new();
    for phase in phases.iter().filter(|p| is_cost(p.phase)) {
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

/// What a careful reader must know about a trial that was interrupted; where it was on several machines, on which.
pub(crate) fn interruptions(segments: &[Segment]) -> Option<String> {
    let moved = segments.windows(2).any(|s| s[0].machine != s[1].machine);
    let place = |s: &Segment| match &s.machine {
        Some(SegmentMachine { agent, host, .. }) if moved => format!(" on {host} ({agent})"),
        None if moved => " on the machine before".to_owned(),
        _ => String::new(),
    };
    let parts: Vec<String> = segments
        .iter()
        .map(|s| format!("attempt {} did steps {} to {}{}", s.attempt, s.from_step + 1, s.to_step, place(s)))
        .collect();
    (segments.len() > 1).then(|| format!("interrupted: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use fleet_common::energy::{Gauge, PowerSource, SensorTerm};
    use fleet_common::record::EnergyDomain;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn covered() -> Covered {
        let gauge = Gauge {
            domain: EnergyDomain::Gpu,
            counter: Some((Series::GpuEnergyMillijoules.into(), "NVML energy counter".into())),
            powers: vec![PowerSource {
                channel: Series::GpuPowerMilliwatts.into(),
                name: "NVML power".into(),
                lag_seconds: 0.0,
            }],
            update_seconds: 0.1,
            idle_watts: Reading::Measured(30.0),
            sensor: SensorTerm { factor: 1.0, relative: 0.05, basis: "test".into() },
        };
        let metered = Metered { key: "gpu".into(), gauge, character: Default::default() };
        Covered { device: Ok(metered), others: Vec::new() }
    }

    /// 100 W for ten seconds, then 200 W: the counter rises accordingly.
    fn readings() -> Readings {
        let mut readings = Readings::default();
        let mut millijoules = 0;
        for tick in 0..=200u64 {
            let at = MonoNanos(5 * S + tick * S / 10);
            readings.push(at, Series::GpuEnergyMillijoules.into(), millijoules);
            readings.push(at, Series::ProcessResidentBytes.into(), 1000 + tick as i64);
            millijoules += if tick < 100 { 10_000 } else { 20_000 };
        }
        readings
    }

    #[test]
    fn phases_split_a_curve_of_known_energy() {
        let (readings, covered) = (readings(), covered());
        let account = Account { readings: &readings, covered: &covered };
        let marks = [(Phase::Train, MonoNanos(7 * S)), (Phase::Evaluate, MonoNanos(17 * S))];
        let (phases, remarks) = account.phases(Attempt::FIRST, &marks, MonoNanos(20 * S));
        let joules: Vec<f64> = phases.iter().map(|p| p.energy.value().expect("measured").joules).collect();
        assert!((joules[0] - (8.0 * 100.0 + 2.0 * 200.0)).abs() < 1e-6, "{joules:?}");
        assert!((joules[1] - 600.0).abs() < 1e-6, "{joules:?}");
        assert_eq!(phases[0].seconds, 10.0);
        assert_eq!(phases[1].peak_process_bytes, Some(1150));
        assert!(short_windows(&phases).iter().all(|f| f.starts_with("short window")));
        assert_eq!(remarks, Vec::<String>::new());
        // 3,000 J in all, of which 1,800 J were kept.
        let (wasted, seconds) = account.wasted(Attempt::FIRST, &phases).expect("measured");
        assert!((wasted.joules - 1200.0).abs() < 1e-6 && (seconds - 7.0).abs() < 1e-9, "{wasted:?} {seconds}");
        assert!((wasted.above_idle.value().expect("idle is known") - 990.0).abs() < 1e-6);
        let (all, _) = account.wasted(Attempt::FIRST.next(), &phases).expect("measured");
        assert!((all.joules - 3000.0).abs() < 1e-6, "windows of another attempt do not count");
    }

    #[test]
    fn an_interrupted_trial_names_its_machines_where_there_were_several() {
        let segment = |attempt: u32, from_step, host: Option<&str>| Segment {
            attempt: attempt.try_into().expect("an attempt"),
            started_unix_ms: 0,
            ended_unix_ms: 1,
            from_step,
            to_step: from_step + 10,
            machine: host.map(|host| SegmentMachine {
                agent: format!("{host}-1").parse().expect("an id"),
                slot: "cpu".parse().expect("a slot"),
                host: host.into(),
            }),
        };
        let told = |hosts: [Option<&str>; 2]| {
            interruptions(&[segment(1, 0, hosts[0]), segment(2, 10, hosts[1])]).expect("interrupted")
        };
        let plain = "interrupted: attempt 1 did steps 1 to 10, attempt 2 did steps 11 to 20";
        assert_eq!(told([Some("a"), Some("a")]), plain);
        assert_eq!(told([None, None]), plain, "of an earlier version");
        assert_eq!(
            told([Some("a"), Some("b")]),
            "interrupted: attempt 1 did steps 1 to 10 on a (a-1), attempt 2 did steps 11 to 20 on b (b-1)"
        );
        assert_eq!(interruptions(&[segment(1, 0, Some("a"))]), None);
    }

    #[test]
    fn without_a_counter_power_is_integrated_and_without_a_meter_nothing_is_made_up() {
        let mut readings = Readings::default();
        for tick in 0..=20u64 {
            readings.push(MonoNanos(tick * S / 10), Series::GpuPowerMilliwatts.into(), 50_000);
        }
        let marks = [(Phase::Train, MonoNanos(0))];
        let one = |covered: &Covered, end| {
            let account = Account { readings: &readings, covered };
            account.phases(Attempt::FIRST, &marks, MonoNanos(end)).0.remove(0).energy
        };
        let energy = one(&covered(), 2 * S);
        let energy = energy.value().expect("measured");
        assert!((energy.joules - 100.0).abs() < 1e-9 && energy.source.contains("integrated"));
        assert!(matches!(one(&covered(), 9 * S), Reading::Unavailable(why) if why.contains("do not cover")));
        let none = Covered { device: Err("no meter".into()), others: Vec::new() };
        assert_eq!(one(&none, 2 * S), Reading::Unavailable("no meter".into()));
        let account = Account { readings: &readings, covered: &none };
        assert!(account.wasted(Attempt::FIRST, &[]).is_none());
    }

    #[test]
    fn interference_throttling_and_a_changed_limit_are_named_with_their_phase() {
        let mut readings = readings();
        for second in 5..25u64 {
            let at = MonoNanos(second * S);
            readings.push(at, Series::GpuOtherProcesses.into(), i64::from(second == 8));
            readings.push(at, Series::GpuThrottleReasons.into(), if second % 2 == 0 { 0x20 } else { 0x4 });
            readings.push(at, Series::GpuPowerLimitMilliwatts.into(), if second < 12 { 200_000 } else { 150_000 });
        }
        let covered = covered();
        let account = Account { readings: &readings, covered: &covered };
        let marks =
            [(Phase::Load, MonoNanos(5 * S)), (Phase::Train, MonoNanos(7 * S)), (Phase::Save, MonoNanos(17 * S))];
        let (_, remarks) = account.phases(Attempt::FIRST, &marks, MonoNanos(20 * S));
        assert_eq!(
            remarks,
            [
                "train: interference: up to 1 other processes computed on the GPU",
                "train: the power limit changed between 150 and 200 W",
                "train: throttled: software thermal slowdown in 45 % of the readings",
            ]
        );
    }
}
