//! Records → comparison: one group per combination and hardware class, with mean and spread over seeds and repeats.
//!
//! Only what may be averaged is averaged: a group's trials share everything but their seed and repeat, and ran on one
//! hardware class. Nothing is ranked across data sets, hardware classes or energy domains.

mod cost;
mod phases;
mod totals;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::canonical;
use crate::id::{HardwareClass, TrialId};
use crate::plan::{CellSettings, WeightsRef};
use crate::record::{EnergyDomain, Outcome, Record};
use crate::score::{Exponents, Summary, pareto_front};
use crate::spec::{Checkpointing, Method};

pub use cost::{Cost, EnergyError, Intervals, ScoreSummaries};
use cost::{cost, summary};
use phases::Phases;
pub use phases::Preparation;
pub use totals::{Total, totals};

/// Name and version of this form, for `--json`.
pub const SCHEMA: &str = "fleet.comparison/1";

/// The comparison of a campaign's records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Exponents of the scores.
    pub exponents: Exponents,
    /// What counts as inference of models that are not trained.
    pub preparation: Preparation,
    /// One per combination and hardware class, ordered by data set, hardware, backbone, method, checkpointing.
    pub groups: Vec<Group>,
    /// Trials that did not complete.
    pub failures: Vec<Failure>,
}

/// Trials that may be averaged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// The settings that they share; the seed is the first trial's.
    pub settings: CellSettings,
    /// Where they ran.
    pub hardware: HardwareClass,
    /// Completed trials.
    pub completed: usize,
    /// Seeds of the completed trials.
    pub seeds: BTreeSet<u64>,
    /// Parameters that train, and all.
    pub trainable: u64,
    /// All parameters.
    pub parameters: u64,
    /// Multiply-accumulates of one forward pass of one image.
    pub macs: u64,
    /// Images evaluated per trial.
    pub evaluated: u64,
    /// Top-1 accuracy, percent.
    pub top1_percent: Option<Summary>,
    /// Training, or where nothing is trained what is needed before the first image can be classified; without scores
    /// then.
    pub training: Cost,
    /// Inference over the evaluated images; with what was prepared for it, where [`Comparison::preparation`] says so.
    pub inference: Cost,
    /// Whether no other group of the same data set, hardware and number of evaluated images (and, for energy, the same
    /// domain) has at least the accuracy for less of this; `None` where the cost was not measured.
    pub on_front: Front,
}

/// Membership in the Pareto fronts of accuracy against one training cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Front {
    /// Against peak memory.
    pub memory: Option<bool>,
    /// Against time.
    pub time: Option<bool>,
    /// Against energy.
    pub energy: Option<bool>,
}

/// A trial that did not complete.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Which.
    pub trial: TrialId,
    /// Its settings.
    pub settings: CellSettings,
    /// Where it ran.
    pub hardware: HardwareClass,
    /// How it ended.
    pub outcome: Outcome,
}

impl Failure {
    /// What is told of a trial that did not complete.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            trial: record.trial.clone(),
            settings: record.settings.clone(),
            hardware: record.machine.hardware.clone(),
            outcome: record.outcome.clone(),
        }
    }
}

/// Compares records.
pub fn compare<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    exponents: &Exponents,
    preparation: Preparation,
) -> Comparison {
    let mut by_group: BTreeMap<(HardwareClass, String, u64, Option<EnergyDomain>), Vec<&Record>> = BTreeMap::new();
    let mut failures = Vec::new();
    for record in records {
        if record.outcome == Outcome::Completed {
            let shared = canonical::json(&CellSettings { seed: 0, ..record.settings.clone() });
            let key = (record.machine.hardware.clone(), shared, record.training.evaluated, domain(record));
            by_group.entry(key).or_default().push(record);
        } else {
            failures.push(Failure::of(record));
        }
    }
    let mut groups: Vec<Group> =
        by_group.into_values().map(|records| group(&records, exponents, preparation)).collect();
    groups.sort_by(|a, b| order(a).cmp(&order(b)));
    mark_fronts(&mut groups);
    failures.sort_by(|a, b| a.trial.cmp(&b.trial));
    Comparison { schema: SCHEMA, exponents: *exponents, preparation, groups, failures }
}

/// See [`order`].
pub(crate) type Order = (String, HardwareClass, &'static str, bool, Method, Checkpointing, String);

/// Data set, hardware, backbone, scratch or not, method, checkpointing; whatever else differs comes last.
pub(crate) fn order(g: &Group) -> Order {
    let s = &g.settings;
    (
        s.dataset.name.clone(),
        g.hardware.clone(),
        s.backbone.name(),
        s.weights == WeightsRef::Scratch,
        s.method.method(),
        s.checkpointing,
        canonical::json(s),
    )
}

/// What the joules cover of what comes before classifying.
fn domain(record: &Record) -> Option<EnergyDomain> {
    Phases::before(&record.settings).energy(record).value().map(|e| e.domain)
}

/// One group of completed records that may be averaged; there must be at least one.
pub(crate) fn group(records: &[&Record], exponents: &Exponents, preparation: Preparation) -> Group {
    let first = records[0];
    let mut training = cost(records, exponents, Phases::before(&first.settings));
    if first.settings.train.is_none() {
        training.without_scores("nothing is trained; what inference costs is what it is compared by");
    }
    Group {
        settings: first.settings.clone(),
        hardware: first.machine.hardware.clone(),
        completed: records.len(),
        seeds: records.iter().map(|r| r.settings.seed).collect(),
        trainable: first.training.trainable,
        parameters: first.training.parameters,
        macs: first.training.macs,
        evaluated: first.training.evaluated,
        top1_percent: summary(records, |r| r.training.top1_percent),
        training,
        inference: cost(records, exponents, Phases::inference(&first.settings, preparation)),
        on_front: Front::default(),
    }
}

/// Marks the fronts, one per data set, hardware class and number of evaluated images; for energy, per domain too.
fn mark_fronts(groups: &mut [Group]) {
    type Costs = fn(&Group) -> Option<f64>;
    type Mark = fn(&mut Front) -> &mut Option<bool>;
    let axes: [(bool, Costs, Mark); 3] = [
        (false, |g| g.training.peak_bytes.map(|s| s.mean), |f| &mut f.memory),
        (false, |g| g.training.seconds.map(|s| s.mean), |f| &mut f.time),
        (true, |g| g.training.joules.value().map(|s| s.mean), |f| &mut f.energy),
    ];
    for (by_domain, cost, mark) in axes {
        let mut strata: BTreeMap<_, Vec<(usize, (f64, f64))>> = BTreeMap::new();
        for (i, g) in groups.iter().enumerate() {
            if let (Some(cost), Some(accuracy)) = (cost(g), g.top1_percent) {
                let dataset = (g.settings.dataset.name.clone(), g.settings.dataset.fingerprint.clone());
                let domain = g.training.domain.filter(|_| by_domain);
                let key = (dataset, g.hardware.clone(), g.evaluated, domain);
                strata.entry(key).or_default().push((i, (cost, accuracy.mean)));
            }
        }
        for members in strata.values() {
            let front = pareto_front(&members.iter().map(|(_, point)| *point).collect::<Vec<_>>());
            for (k, (i, _)) in members.iter().enumerate() {
                *mark(&mut groups[*i].on_front) = Some(front.contains(&k));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{Reading, Uncertainty};
    use crate::worker::Phase;

    /// A record with the fields that a comparison reads.
    fn record(method: &str, seed: u64, top1: f64, peak_mib: u64, seconds: f64, joules: Option<f64>) -> Record {
        let energy = match joules {
            Some(j) => json!({ "measured": { "joules": j, "domain": "gpu", "source": "test", "readings": 99 } }),
            None => json!({ "unavailable": "no meter" }),
        };
        let phase = |name: &str, factor: f64| json!({ "phase": name, "windows": [], "seconds": seconds * factor, "energy": energy });
        let worker = |name: &str, peak: u64| {
            json!({ "phase": name, "steps": 10, "images": 320, "compute_seconds": seconds, "data_wait_seconds": 0.0,
                    "peak_bytes": peak << 20, "peak_reserved_bytes": peak << 20 })
        };
        let document = json!({
            "schema": crate::record::SCHEMA,
            "trial": { "cell": format!("{seed:032x}"), "hardware": null, "repeat": 0 }, "attempt": 1,
            "settings": {
                "definition": 1, "method": { "name": method }, "backbone": "vit_micro", "image_size": 64,
                "checkpointing": "none", "dataset": { "name": "textures", "fingerprint": "ab", "classes": 8 },
                "weights": { "from": "scratch" }, "seed": seed, "budget_bytes": null,
                "train": { "steps": 10, "warm_up_steps": 0, "batch": 32, "learning_rate": 0.001, "weight_decay": 0.05,
                           "sampling": "replacement", "augment": true },
                "evaluate": { "batch": 64 }
            },
            "outcome": { "class": "completed" },
            "training": {
                "parameters": 2_000_000, "trainable": 1000, "macs": 500_000_000u64, "losses": [1.0], "top1_percent": top1,
                "evaluation_loss": 1.0, "evaluated": 400,
                "phases": [worker("warm_up", peak_mib), worker("train", peak_mib - 1), worker("evaluate", peak_mib / 2)],
                "recomputed_blocks": [],
                "software": { "fleet": "0", "libtorch": "0", "threads": 1, "decode_threads": 1 }
            },
            "phases": [phase("warm_up", 0.1), phase("train", 1.0), phase("evaluate", 0.5)],
            "machine": { "agent": "a", "slot": "cpu", "hardware": "X", "host": "h", "os": "o", "cpu": "c", "cpus": 1, "memory_bytes": 1 },
            "started_unix_ms": 0, "finished_unix_ms": 0, "samples_taken": 0
        });
        Record::from_json(document.to_string().as_bytes()).expect("a record")
    }

    #[test]
    fn seeds_are_averaged_and_the_windows_are_the_right_ones() {
        let records = [
            record("full", 0, 60.0, 400, 10.0, Some(1000.0)),
            record("full", 1, 64.0, 402, 14.0, Some(1400.0)),
            record("bitfit", 0, 58.0, 200, 8.0, Some(700.0)),
        ];
        let comparison = compare(&records, &Exponents::default(), Preparation::Apart);
        assert_eq!(comparison.groups.len(), 2);
        let full = &comparison.groups[0];
        assert_eq!((full.completed, full.seeds.len()), (2, 2));
        assert_eq!(full.top1_percent.expect("accuracies").mean, 62.0);
        assert_eq!(full.training.seconds.expect("times").mean, 12.0);
        assert_eq!(full.training.images_per_second.expect("rates").max, 32.0);
        // The peak of the warm-up counts: the optimiser's state appears there.
        assert_eq!(full.training.peak_bytes.expect("peaks").max, f64::from(402 << 20));
        assert_eq!(full.inference.peak_bytes.expect("peaks").min, f64::from(200 << 20));
        assert_eq!(full.training.joules.value().expect("measured").mean, 1200.0);
        // NS-E of the first trial: 20·log10(60² / (10 · 100)^(1/8)).
        let ns_e = 20.0 * (2.0 * 60f64.log10() - 3.0 / 8.0);
        assert!((full.training.scores.ns_e.value().expect("a score").min - ns_e).abs() < 1e-9);
        let (a, b) = (comparison.groups[0].on_front, comparison.groups[1].on_front);
        assert_eq!((a.memory, a.energy, b.memory, b.energy), (Some(true), Some(true), Some(true), Some(true)));
    }

    #[test]
    fn one_trial_without_a_meter_leaves_the_group_without_a_mean() {
        let records = [record("full", 0, 60.0, 400, 10.0, None), record("full", 1, 64.0, 402, 14.0, None)];
        let group = &compare(&records, &Exponents::default(), Preparation::Apart).groups[0];
        assert_eq!(group.training.joules, Reading::Unavailable("no meter".into()));
        assert_eq!(group.training.scores.ns_sharp, Reading::Unavailable("no meter".into()));
        assert!(group.training.scores.ns_m.value().is_some());
        assert_eq!(group.on_front.energy, None);
        // Trials with and without a meter are not one group: their joules could not be one number.
        let mixed = [record("full", 0, 60.0, 400, 10.0, None), record("full", 1, 64.0, 402, 14.0, Some(9.0))];
        assert_eq!(compare(&mixed, &Exponents::default(), Preparation::Apart).groups.len(), 2);
    }

    #[test]
    fn a_dominated_group_is_off_the_front_and_failures_are_set_aside() {
        let mut failed = record("bitfit", 3, 0.0, 100, 1.0, None);
        failed.outcome = Outcome::Diverged { step: 3 };
        let records = [record("full", 0, 60.0, 400, 10.0, None), record("bitfit", 0, 58.0, 500, 8.0, None), failed];
        let comparison = compare(&records, &Exponents::default(), Preparation::Apart);
        assert_eq!(comparison.failures.len(), 1);
        let fronts: Vec<_> = comparison.groups.iter().map(|g| (g.on_front.memory, g.on_front.time)).collect();
        assert_eq!(fronts, [(Some(true), Some(true)), (Some(false), Some(true))]);
    }

    #[test]
    fn energy_comes_with_idle_power_rates_and_an_interval_that_the_sensor_dominates() {
        let mut records: Vec<Record> =
            (0..5).map(|seed| record("full", seed, 60.0, 400, 10.0, Some(998.0 + seed as f64))).collect();
        for record in &mut records {
            for phase in &mut record.phases {
                if let Reading::Measured(energy) = &mut phase.energy {
                    energy.above_idle = Reading::Measured(energy.joules - 200.0);
                    energy.uncertainty = Some(Uncertainty { sensor: 0.12, basis: "sheet".into(), timing: 0.05 });
                }
            }
        }
        let one = compare(&records, &Exponents::default(), Preparation::Apart);
        let training = &one.groups[0].training;
        assert_eq!(training.above_idle_joules.value().expect("idle is known").mean, 800.0);
        assert!((training.watts.value().expect("measured").mean - 100.0).abs() < 1e-9);
        assert!((training.joules_per_image.value().expect("measured").mean - 1000.0 / 320.0).abs() < 1e-9);
        let error = training.energy_error.as_ref().expect("known");
        assert!((error.relative - 0.13).abs() < 1e-12 && error.sensor == 0.12 && error.devices.len() == 1);
        let joules = training.intervals.joules.expect("there is a mean");
        assert!(
            joules.run_to_run && (joules.high - 1130.0).abs() < 0.1 && (joules.low - 870.0).abs() < 0.1,
            "{joules:?}"
        );
        let ns_e = training.intervals.ns_e.expect("there is a score");
        let half = 20.0 * 0.125 * 1.13f64.log10();
        assert!((ns_e.high - ns_e.low - 2.0 * half).abs() < 0.01, "{ns_e:?}");
        // One trial of an older version: nothing can be said of the whole.
        if let Reading::Measured(energy) = &mut records[4].phases[1].energy {
            energy.uncertainty = None;
        }
        assert_eq!(records[4].phases[1].phase, Phase::Train);
        let other = compare(&records, &Exponents::default(), Preparation::Apart);
        assert_eq!((&other.groups[0].training.energy_error, other.groups[0].training.intervals.ns_e), (&None, None));
    }

    #[test]
    fn what_a_campaign_took_is_what_records_tell_and_what_is_in_none() {
        use crate::record::Waste;
        let mut failed = record("full", 7, 60.0, 400, 10.0, Some(1e6));
        failed.outcome = Outcome::Crashed { message: "it is told of as waste".into() };
        let records = [
            record("full", 0, 60.0, 400, 10.0, Some(1000.0)),
            record("bitfit", 0, 60.0, 400, 10.0, Some(500.0)),
            record("bitfit", 1, 60.0, 400, 10.0, None),
            failed,
        ];
        let waste = Waste {
            trial: records[0].trial.clone(),
            attempt: records[0].attempt,
            agent: records[0].machine.agent.clone(),
            hardware: records[0].machine.hardware.clone(),
            energy: records[0].phases[1].energy.value().expect("measured").clone(),
            seconds: 10.0,
            reason: "killed".into(),
        };
        let [total] = totals(&records, [&waste, &waste])[..] else { panic!("one domain") };
        // Warm-up, training and evaluation have the same joules in these records.
        assert_eq!((total.useful_joules, total.trials), (4500.0, 2));
        assert_eq!((total.wasted_joules, total.wasted_attempts), (2000.0, 2));
        assert!((total.grams(400.0) - 6500.0 / 3.6e6 * 400.0).abs() < 1e-12);
        let again = Waste::from_json(&waste.to_json()).expect("our own document");
        assert_eq!(again, waste);
        let nonsense = String::from_utf8(waste.to_json()).expect("text").replace("1000.0", "-1.0");
        assert!(Waste::from_json(nonsense.as_bytes()).expect_err("negative").contains("expected"));
    }
}
