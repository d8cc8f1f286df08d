//! From the ABI of NVIDIA's library to a trial's joules, on scripted time: curves of known energy, and what a careful
//! reader has to be told.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::path::Path;

use fleet_agent::meter::{self, Account, Cache, Covered};
use fleet_common::energy::Readings;
use fleet_common::id::Attempt;
use fleet_common::record::{Energy, EnergyDomain, PhaseRecord, Reading};
use fleet_common::worker::Phase;
use support::{Played, first, nowhere, seconds};

/// Readings per second.
const HERTZ: f64 = 10.0;
/// What a window of a minute or more may be off by.
const BELIEVABLE: f64 = 0.005;

/// Plays boards on scripted time from 0 to `end` and reads the first board's meters at 10 Hz, with the jitter of a busy
/// machine.
fn readings(played: &Played, end: f64) -> (Readings, Covered, Vec<String>) {
    played.set(0.0);
    let slot = first(played);
    let cache = Cache::open(Path::new("/nowhere"));
    let mut found = meter::of(&slot, "host", Some(&played.nvidia()), &nowhere(), None, &cache);
    let (mut readings, mut remarks) = (Readings::default(), Vec::new());
    for tick in 0..(end * HERTZ) as u32 {
        let jitter = 0.03 * (f64::from(tick) * 2.39).sin();
        let t = (f64::from(tick) / HERTZ + jitter).max(0.0);
        played.set(t);
        for meter in &mut found.meters {
            meter.read(seconds(t)).iter().for_each(|r| readings.push(r.at, r.channel, r.value));
            remarks.extend(meter.remarks());
        }
    }
    (readings, found.covered, remarks)
}

/// A trial that trains from 10 s to 75 s and evaluates until 140 s.
fn trial(played: &Played) -> (Vec<PhaseRecord>, Vec<String>) {
    let (readings, covered, mut said) = readings(played, 142.0);
    let marks = [(Phase::Load, seconds(2.0)), (Phase::Train, seconds(10.0)), (Phase::Evaluate, seconds(75.0))];
    let account = Account { readings: &readings, covered: &covered };
    let (phases, remarks) = account.phases(Attempt::FIRST, &marks, seconds(140.0));
    said.extend(remarks);
    (phases, said)
}

fn energy(phases: &[PhaseRecord], phase: Phase) -> Energy {
    let record = phases.iter().find(|p| p.phase == phase).unwrap();
    record.energy.value().unwrap_or_else(|| panic!("{:?}", record.energy)).clone()
}

/// Corners of a curve, watts over seconds.
type Curve = Vec<(f64, f64)>;

fn constant() -> Curve {
    vec![(0.0, 150.0)]
}

/// Load until 10 s, training with pauses, then a drop to evaluation.
fn phases_of_work() -> Curve {
    let mut curve = vec![(0.0, 28.0), (9.99, 28.0)];
    for k in 0..14 {
        let t = 10.0 + 3.37 * f64::from(k);
        curve.extend([(t, 235.0), (t + 2.6, 221.0), (t + 2.61, 90.0), (t + 3.36, 95.0)]);
    }
    curve.extend([(57.2, 240.0), (75.0, 230.0), (75.05, 180.0), (140.0, 170.0), (140.1, 30.0)]);
    curve
}

fn ramp() -> Curve {
    vec![(0.0, 40.0), (142.0, 300.0)]
}

fn exact(curve: &Curve, from: f64, to: f64) -> f64 {
    let watts = |t: f64| {
        let right = curve.partition_point(|p| p.0 <= t);
        match (right.checked_sub(1).map(|i| curve[i]), curve.get(right)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (t - a.0) / (b.0 - a.0),
            (Some(a), None) => a.1,
            (None, _) => curve[0].1,
        }
    };
    let n = 200_000;
    let step = (to - from) / f64::from(n);
    (0..n).map(|i| watts(from + (f64::from(i) + 0.5) * step) * step).sum()
}

fn script(curve: &Curve, rest: &str) -> String {
    let corners: Vec<String> = curve.iter().map(|(t, w)| format!("{t}:{w}")).collect();
    // The stand-in takes 64 corners.
    format!("boards 1\n0 power {}\n{rest}", corners.join(" "))
}

#[test]
fn windows_of_a_minute_are_right_to_half_a_percent_whatever_the_sensor_does() {
    let sensors = [
        ("a counter", "0 update 0.02\n", "NVML energy counter"),
        ("a slow counter", "0 update 0.1\n", "NVML energy counter"),
        ("both powers", "0 counter 0\n0 instant 1\n0 averaging 1\n0 update 0.1\n", "NVML power, integrated"),
        ("a mean over a second", "0 counter 0\n0 averaging 1\n0 update 0.1\n", "NVML power, integrated"),
        ("an old board's power", "0 counter 0\n0 capability 7 5\n0 update 0.05\n", "NVML power, integrated"),
    ];
    for (curve, name) in [(constant(), "constant"), (ramp(), "ramp"), (phases_of_work(), "work")] {
        for (sensor, rest, source) in sensors {
            let (phases, remarks) = trial(&Played::new(&script(&curve, rest)));
            for (phase, from, to) in [(Phase::Train, 10.0, 75.0), (Phase::Evaluate, 75.0, 140.0)] {
                let (found, truth) = (energy(&phases, phase), exact(&curve, from, to));
                let off = found.joules / truth - 1.0;
                assert!(off.abs() < BELIEVABLE, "{name} by {sensor}, {phase:?}: {off:+.4} of {truth:.0} J");
                assert_eq!((found.source.as_str(), found.domain), (source, EnergyDomain::Gpu));
                assert!(found.readings >= 600 && found.longest_gap_seconds < 0.2, "{found:?}");
                let uncertainty = found.uncertainty.unwrap();
                assert!(uncertainty.timing < BELIEVABLE && uncertainty.sensor > 0.1, "{uncertainty:?}");
            }
            assert_eq!(remarks, Vec::<String>::new(), "{name} by {sensor}");
        }
    }
}

#[test]
fn a_counter_that_starts_again_is_replaced_by_power_and_one_that_disagrees_is_said() {
    let played = Played::new(&script(&constant(), "0 reset 40\n"));
    let (phases, remarks) = trial(&played);
    let train = energy(&phases, Phase::Train);
    assert!((train.joules / 9750.0 - 1.0).abs() < BELIEVABLE && train.source == "NVML power, integrated", "{train:?}");
    assert!(remarks.iter().any(|r| r.starts_with("train: ") && r.contains("went backwards")), "{remarks:?}");
    assert_eq!(energy(&phases, Phase::Evaluate).source, "NVML energy counter", "the other phase is not touched");

    // What averages over 60 s sees nothing of a board that has just begun to work: the two sources disagree.
    let late = vec![(0.0, 30.0), (9.9, 30.0), (10.0, 250.0)];
    let (phases, remarks) = trial(&Played::new(&script(&late, "0 averaging 60\n")));
    assert!((energy(&phases, Phase::Train).joules / exact(&late, 10.0, 75.0) - 1.0).abs() < BELIEVABLE);
    assert!(energy(&phases, Phase::Train).ratio().unwrap() < 0.8);
    assert!(remarks.iter().any(|r| r.starts_with("train: sources disagree")), "{remarks:?}");
}

#[test]
fn a_board_that_falls_off_the_bus_has_no_energy_from_then_on_and_none_is_made_up() {
    let (phases, remarks) = trial(&Played::new(&script(&constant(), "0 lost 100\n")));
    assert!((energy(&phases, Phase::Train).joules / 9750.0 - 1.0).abs() < BELIEVABLE);
    let evaluate = phases.iter().find(|p| p.phase == Phase::Evaluate).unwrap();
    assert!(matches!(&evaluate.energy, Reading::Unavailable(why) if why.contains("do not cover")), "{evaluate:?}");
    assert!(remarks.iter().any(|r| r.contains("fell off the bus")), "{remarks:?}");
}

#[test]
fn company_heat_and_a_changed_power_limit_are_flagged_in_the_phase_where_they_were() {
    let rest = "0 others 0:0 20:1 30:0\n0 throttle 0:4 90:32 110:4\n0 limit 0:200 60:160\n";
    let (_, remarks) = trial(&Played::new(&script(&constant(), rest)));
    let expected = [
        "evaluate: throttled: software thermal slowdown",
        "train: interference: up to 1 other",
        "train: the power limit changed between 160 and 200 W",
    ];
    assert_eq!(remarks.len(), expected.len(), "{remarks:?}");
    for (remark, beginning) in remarks.iter().zip(expected) {
        assert!(remark.starts_with(beginning), "{remark}");
    }
}

#[test]
fn two_unlike_boards_are_metered_each_by_itself() {
    let played = Played::new(
        "boards 2\n0 name NVIDIA GeForce RTX 4090\n0 power 0:300\n1 name NVIDIA GeForce RTX 2060 SUPER\n\
         1 power 0:120\n1 counter 0\n1 capability 7 5\n",
    );
    let cache = Cache::open(Path::new("/nowhere"));
    let joules: Vec<(f64, f64)> = played
        .nvidia()
        .boards(None, None)
        .slots
        .iter()
        .map(|slot| {
            let mut found = meter::of(slot, "host", Some(&played.nvidia()), &nowhere(), None, &cache);
            let mut readings = Readings::default();
            for tick in 0..700 {
                let t = f64::from(tick) / HERTZ;
                played.set(t);
                found.meters[0].read(seconds(t)).iter().for_each(|r| readings.push(r.at, r.channel, r.value));
            }
            let account = Account { readings: &readings, covered: &found.covered };
            let marks = [(Phase::Train, seconds(1.0))];
            let (phases, _) = account.phases(Attempt::FIRST, &marks, seconds(61.0));
            let energy = energy(&phases, Phase::Train);
            (energy.joules, energy.uncertainty.unwrap().sensor)
        })
        .collect();
    let [(a, a_term), (b, b_term)] = joules[..] else { panic!("{joules:?}") };
    assert!((a / 18_000.0 - 1.0).abs() < BELIEVABLE && (b / 7_200.0 - 1.0).abs() < BELIEVABLE, "{a} {b}");
    assert!((a_term - 0.053).abs() < 1e-9 && (b_term - 0.127).abs() < 1e-9, "each has its own board's term");
}
