//! What a group costs, and the scores and intervals that rest on it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::phases::Phases;
use crate::record::{Energy, EnergyDomain, Reading, Record};
use crate::score::interval::{self, Interval};
use crate::score::{Costs, Exponents, Scores, Summary};

/// What one side (training or inference) of a group costs, and its scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Wall-clock seconds of the measured window.
    pub seconds: Option<Summary>,
    /// Images per second of that window, if any went through the model.
    pub images_per_second: Option<Summary>,
    /// Peak allocator memory, bytes.
    pub peak_bytes: Option<Summary>,
    /// Energy of the window, joules.
    pub joules: Reading<Summary>,
    /// What the joules cover.
    pub domain: Option<EnergyDomain>,
    /// Energy beyond what the idle device would have taken in that time, joules.
    pub above_idle_joules: Reading<Summary>,
    /// Mean power of the window, watts.
    pub watts: Reading<Summary>,
    /// Joules per image that went through the model in the window.
    pub joules_per_image: Reading<Summary>,
    /// How far the meter may be off, where that is known.
    pub energy_error: Option<EnergyError>,
    /// Where the means that rest on energy lie.
    pub intervals: Intervals,
    /// NetScore family; a score is the mean over trials of the trials' scores.
    pub scores: ScoreSummaries,
}

/// The NetScore family over a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreSummaries {
    /// NS.
    pub ns: Reading<Summary>,
    /// NS-E.
    pub ns_e: Reading<Summary>,
    /// NS-M.
    pub ns_m: Reading<Summary>,
    /// NS#.
    pub ns_sharp: Reading<Summary>,
}

/// How far a meter may be off.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnergyError {
    /// Half width of the interval relative to the joules: the largest of the trials'.
    pub relative: f64,
    /// Of it, the sensor's part, which is the same for all trials on one device.
    pub sensor: f64,
    /// Where the sensor's part comes from, each once.
    pub basis: BTreeSet<String>,
    /// The devices that were measured, agent and slot: with one of them the sensor's part cancels in comparisons.
    pub devices: BTreeSet<String>,
}

impl EnergyError {
    /// How far two meters may be off against each other, relative to a ratio of their joules; 0 where one device was
    /// measured both times, because its error cancels.
    pub fn against(&self, other: &Self) -> f64 {
        let same = self.devices.len() == 1 && self.devices == other.devices;
        if same { 0.0 } else { self.sensor.hypot(other.sensor) }
    }
}

/// Intervals around means that rest on energy; absent where there is no mean, or nothing is known about the meter.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Intervals {
    /// Of the joules.
    pub joules: Option<Interval>,
    /// Of NS-E.
    pub ns_e: Option<Interval>,
    /// Of NS#.
    pub ns_sharp: Option<Interval>,
}

impl Cost {
    /// Takes the scores away.
    pub(super) fn without_scores(&mut self, why: &str) {
        let none = || Reading::Unavailable(why.to_owned());
        self.scores = ScoreSummaries { ns: none(), ns_e: none(), ns_m: none(), ns_sharp: none() };
        self.intervals = Intervals { joules: self.intervals.joules, ns_e: None, ns_sharp: None };
    }
}

pub(super) fn summary(records: &[&Record], value: impl Fn(&Record) -> Option<f64>) -> Option<Summary> {
    let values: Vec<f64> = records.iter().filter_map(|r| value(r)).collect();
    Summary::of(&values)
}

/// Costs of one side.
pub(super) fn cost(records: &[&Record], exponents: &Exponents, phases: Phases) -> Cost {
    let seconds = |r: &Record| phases.seconds(r);
    let peak = |r: &Record| phases.peak_bytes(r);
    let energy = |r: &Record| phases.energy(r);
    // Where none went through the model, as in describing classes, there is no rate of any.
    let rate = |r: &Record| Some(phases.images(r).filter(|n| *n > 0)? as f64 / seconds(r)?);
    let scores: Vec<Scores> = records
        .iter()
        .filter_map(|r| {
            let seconds = seconds(r)?;
            let watts = match energy(r) {
                Reading::Measured(e) => Reading::Measured(e.joules / seconds),
                Reading::Unavailable(why) => Reading::Unavailable(why),
            };
            Some(Scores::of(
                exponents,
                &Costs {
                    accuracy_percent: r.training.top1_percent?,
                    parameters_millions: r.training.parameters as f64 / 1e6,
                    gmacs: r.training.macs as f64 / 1e9,
                    seconds,
                    peak_mib: peak(r)? / f64::from(1 << 20),
                    watts,
                },
            ))
        })
        .collect();
    let domains: BTreeSet<EnergyDomain> = records.iter().filter_map(|r| energy(r).value().map(|e| e.domain)).collect();
    let one_domain = |reading: Reading<Summary>| match reading {
        Reading::Measured(_) if domains.len() > 1 => Reading::Unavailable(
            "the energy of some trials covers other parts of the machine than that of others".into(),
        ),
        reading => reading,
    };
    let measured = |value: &dyn Fn(&Energy, &Record) -> Reading<f64>| {
        let of = |r: &&Record| match energy(r) {
            Reading::Measured(e) => value(&e, r),
            Reading::Unavailable(why) => Reading::Unavailable(why),
        };
        one_domain(all(&records.iter().map(of).collect::<Vec<_>>()))
    };
    let joules = measured(&|e, _| Reading::Measured(e.joules));
    let scores = ScoreSummaries {
        ns: all(&scores.iter().map(|s| s.ns.clone()).collect::<Vec<_>>()),
        ns_e: one_domain(all(&scores.iter().map(|s| s.ns_e.clone()).collect::<Vec<_>>())),
        ns_m: all(&scores.iter().map(|s| s.ns_m.clone()).collect::<Vec<_>>()),
        ns_sharp: one_domain(all(&scores.iter().map(|s| s.ns_sharp.clone()).collect::<Vec<_>>())),
    };
    let energy_error = energy_error(records, phases);
    Cost {
        seconds: summary(records, seconds),
        images_per_second: summary(records, rate),
        peak_bytes: summary(records, peak),
        domain: domains.first().copied().filter(|_| domains.len() == 1),
        above_idle_joules: measured(&|e, _| e.above_idle.clone()),
        watts: measured(&|e, r| match seconds(r).filter(|s| *s > 0.0) {
            Some(seconds) => Reading::Measured(e.joules / seconds),
            None => Reading::Unavailable("the window has no length".to_owned()),
        }),
        joules_per_image: measured(&|e, r| match phases.images(r).filter(|n| *n > 0) {
            Some(images) => Reading::Measured(e.joules / images as f64),
            None => Reading::Unavailable("no image went through the model in the window".to_owned()),
        }),
        intervals: intervals(&joules, &scores, energy_error.as_ref(), exponents),
        energy_error,
        joules,
        scores,
    }
}

/// What is known about the meters of a window; `None` unless it is of every trial.
fn energy_error(records: &[&Record], phases: Phases) -> Option<EnergyError> {
    let mut error = EnergyError { relative: 0.0, sensor: 0.0, basis: BTreeSet::new(), devices: BTreeSet::new() };
    for record in records {
        let energy = phases.energy(record);
        let uncertainty = energy.value()?.uncertainty.as_ref()?;
        error.relative = error.relative.max(uncertainty.relative());
        error.sensor = error.sensor.max(uncertainty.sensor);
        error.basis.insert(uncertainty.basis.clone());
        error.devices.insert(format!("{} {}", record.machine.agent, record.machine.slot));
    }
    (!records.is_empty()).then_some(error)
}

fn intervals(
    joules: &Reading<Summary>,
    scores: &ScoreSummaries,
    error: Option<&EnergyError>,
    exponents: &Exponents,
) -> Intervals {
    let Some(error) = error else { return Intervals::default() };
    let score = |reading: &Reading<Summary>| {
        let half = interval::decibels(error.relative, exponents.w);
        reading.value().map(|summary| interval::around(summary, half))
    };
    Intervals {
        joules: joules.value().map(|s| interval::around(s, s.mean.abs() * error.relative)),
        ns_e: score(&scores.ns_e),
        ns_sharp: score(&scores.ns_sharp),
    }
}

/// A mean needs every trial's value: leaving out those without one would change what is compared.
fn all(readings: &[Reading<f64>]) -> Reading<Summary> {
    let mut values = Vec::new();
    for reading in readings {
        match reading {
            Reading::Measured(value) => values.push(*value),
            Reading::Unavailable(why) => return Reading::Unavailable(why.clone()),
        }
    }
    match Summary::of(&values) {
        Some(summary) => Reading::Measured(summary),
        None => Reading::Unavailable("no completed trial".to_owned()),
    }
}
