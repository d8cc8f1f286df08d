//! Of which phases of a trial a cost is.

use serde::Serialize;

use crate::plan::CellSettings;
use crate::record::{Energy, Reading, Record};
use crate::worker::Phase;

/// Whether what a model that is not trained takes before its first image counts as a part of what inference costs:
/// features of the training images and a probe on them, or embeddings of descriptions of the classes. Nothing changes
/// for models that are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preparation {
    /// It stands apart, as the training side: whoever classifies many images pays for it once.
    #[default]
    Apart,
    /// It is added to the inference of the evaluated images.
    Counted,
}

/// The phases of one side of a trial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phases {
    /// Whose time and energy count, and among whose images they are shared.
    window: Phase,
    /// Whose time and energy are added.
    added: Option<Phase>,
    /// Memory peaks over all of these: the optimiser's state appears in the warm-up.
    memory: &'static [Phase],
}

impl Phases {
    /// What has to be done before a trial's model classifies.
    pub(super) const fn before(settings: &CellSettings) -> Self {
        match settings.train {
            Some(_) => Self { window: Phase::Train, added: None, memory: &[Phase::WarmUp, Phase::Train] },
            None => Self { window: Phase::Prepare, added: None, memory: &[Phase::Prepare] },
        }
    }

    /// What counts as inference.
    pub(super) const fn inference(settings: &CellSettings, preparation: Preparation) -> Self {
        let window = Phase::Evaluate;
        match (&settings.train, preparation) {
            (None, Preparation::Counted) => {
                Self { window, added: Some(Phase::Prepare), memory: &[Phase::Prepare, Phase::Evaluate] }
            }
            _ => Self { window, added: None, memory: &[Phase::Evaluate] },
        }
    }

    /// Wall-clock seconds; `None` unless every phase was reached.
    pub(super) fn seconds(self, record: &Record) -> Option<f64> {
        let of = |phase| record.phase(phase).map(|p| p.seconds);
        Some(of(self.window)? + self.added.map_or(Some(0.0), of)?)
    }

    /// Energy; a sum needs every phase's, measured in one way.
    pub(super) fn energy(self, record: &Record) -> Reading<Energy> {
        let of = |phase| match record.phase(phase) {
            Some(phase) => phase.energy.clone(),
            None => Reading::Unavailable("the phase was not reached".to_owned()),
        };
        match (of(self.window), self.added.map(of)) {
            (Reading::Measured(window), Some(Reading::Measured(added))) => match added.plus(window) {
                Ok(sum) => Reading::Measured(sum),
                Err(_) => Reading::Unavailable("preparing and classifying were measured in different ways".to_owned()),
            },
            (Reading::Measured(_), Some(unavailable)) => unavailable,
            (window, _) => window,
        }
    }

    /// Most bytes that tensors held.
    pub(super) fn peak_bytes(self, record: &Record) -> Option<f64> {
        self.memory.iter().filter_map(|&p| record.worker_phase(p)).map(|p| p.peak_bytes as f64).reduce(f64::max)
    }

    /// Images among which time and energy are shared.
    pub(super) fn images(self, record: &Record) -> Option<u64> {
        record.worker_phase(self.window).map(|p| p.images)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::compare::{Group, compare};
    use crate::score::Exponents;

    /// Neighbours by features: 480 training images take 30 s and 3000 J, 400 test images 10 s and 500 J.
    fn record() -> Record {
        let phase = |name: &str, seconds: f64, joules: f64, timing: f64| {
            json!({ "phase": name, "seconds": seconds, "energy": { "measured": {
                "joules": joules, "domain": "gpu", "source": "counter", "readings": 9,
                "above_idle": { "measured": joules - 10.0 * seconds },
                "uncertainty": { "sensor": 0.05, "basis": "sheet", "timing": timing }
            } } })
        };
        let worker = |name: &str, images: u64, mib: u64| {
            json!({ "phase": name, "steps": 1, "images": images, "compute_seconds": 1.0, "data_wait_seconds": 0.0,
                    "peak_bytes": mib << 20, "peak_reserved_bytes": 0 })
        };
        of(json!({
            "schema": crate::record::SCHEMA, "trial": { "cell": "0".repeat(32), "repeat": 0 }, "attempt": 1,
            "settings": {
                "definition": 2, "method": { "name": "knn", "k": 20 }, "backbone": "dinov2_small", "image_size": 224,
                "checkpointing": "none", "dataset": { "name": "textures", "fingerprint": "ab", "classes": 8 },
                "weights": { "from": "folder", "sha256": "c0ffee00".repeat(8) }, "seed": 0, "evaluate": { "batch": 64 }
            },
            "outcome": { "class": "completed" },
            "training": {
                "parameters": 2_000_000, "trainable": 0, "macs": 500_000_000u64, "losses": [], "top1_percent": 80.0,
                "evaluation_loss": null, "evaluated": 400, "recomputed_blocks": [],
                "phases": [worker("prepare", 480, 900), worker("evaluate", 400, 600)],
                "software": { "fleet": "0", "libtorch": "0", "threads": 1, "decode_threads": 1 }
            },
            "phases": [phase("prepare", 30.0, 3000.0, 0.1), phase("evaluate", 10.0, 500.0, 0.2)],
            "machine": { "agent": "a", "slot": "cpu", "hardware": "X", "host": "h", "os": "o", "cpu": "c", "cpus": 1,
                         "memory_bytes": 1 },
            "started_unix_ms": 0, "finished_unix_ms": 0, "samples_taken": 0
        }))
    }

    fn of(document: Value) -> Record {
        Record::from_json(document.to_string().as_bytes()).expect("a record")
    }

    fn group(record: &Record, preparation: Preparation) -> Group {
        compare([record], &Exponents::default(), preparation).groups.remove(0)
    }

    /// Seconds, joules, joules above idle, joules per image, watts, images per second, MiB.
    fn figures(group: &Group) -> [f64; 7] {
        let cost = &group.inference;
        let (seconds, rate) = (cost.seconds.expect("timed"), cost.images_per_second.expect("timed"));
        let peak = cost.peak_bytes.expect("counted").scaled(1.0 / f64::from(1 << 20));
        let measured = [&cost.joules, &cost.above_idle_joules, &cost.joules_per_image, &cost.watts]
            .map(|reading| reading.value().expect("measured").mean);
        let [joules, above_idle, per_image, watts] = measured;
        [seconds.mean, joules, above_idle, per_image, watts, rate.mean, peak.mean]
    }

    #[test]
    fn what_is_prepared_is_added_to_inference_where_that_is_asked_for() {
        let record = record();
        let (apart, counted) = (group(&record, Preparation::Apart), group(&record, Preparation::Counted));
        assert_eq!(figures(&apart), [10.0, 500.0, 400.0, 1.25, 50.0, 40.0, 600.0]);
        assert_eq!(figures(&counted), [40.0, 3500.0, 3100.0, 8.75, 87.5, 10.0, 900.0]);
        // NS-E = 20·log₁₀(A² / (t·P)^⅛), t·P = 3500 J; NS-M with r = 900 MiB; NS# with both.
        let (energy, memory) = (3500f64.log10() / 8.0, 900f64.log10() / 8.0);
        let scores = &counted.inference.scores;
        for (score, costs) in [(&scores.ns_e, energy), (&scores.ns_m, memory), (&scores.ns_sharp, energy + memory)] {
            let expected = 20.0 * (2.0 * 80f64.log10() - costs);
            assert!((score.value().expect("a score").mean - expected).abs() < 1e-9, "{score:?} {expected}");
        }
        assert_eq!(scores.ns, apart.inference.scores.ns, "it knows no cost that was measured");
        // Edges of windows err independently of each other, the sensor alike: 0.05 and √(300² + 100²) / 3500.
        let error = counted.inference.energy_error.as_ref().expect("known");
        assert!((error.relative - 0.05f64.hypot(300f64.hypot(100.0) / 3500.0)).abs() < 1e-12, "{error:?}");
        // Programs are told which of the two they read.
        for (preparation, name) in [(Preparation::Apart, "apart"), (Preparation::Counted, "counted")] {
            let comparison = compare([&record], &Exponents::default(), preparation);
            assert_eq!(serde_json::to_value(comparison).expect("a document")["preparation"], name);
        }
        // What it took to prepare stays visible on its own.
        assert_eq!(apart.training, counted.training);
        assert_eq!(counted.training.joules.value().expect("measured").mean, 3000.0);
    }

    #[test]
    fn where_no_image_goes_through_the_model_there_is_no_rate_of_images() {
        let mut record = record();
        assert_eq!(group(&record, Preparation::Apart).training.images_per_second.expect("a rate").mean, 16.0);
        record.training.phases[0].images = 0;
        let training = group(&record, Preparation::Apart).training;
        assert_eq!(training.images_per_second, None);
        assert!(training.joules_per_image.value().is_none());
    }

    #[test]
    fn a_sum_needs_both_parts_measured_in_one_way() {
        let energy = |change: fn(&mut Energy)| {
            let mut record = record();
            let Reading::Measured(energy) = &mut record.phases[0].energy else { panic!("measured") };
            change(energy);
            group(&record, Preparation::Counted).inference
        };
        for change in [
            |e: &mut Energy| e.source = "another".into(),
            |e: &mut Energy| e.domain = crate::record::EnergyDomain::Wall,
        ] {
            let inference = energy(change);
            let why = "preparing and classifying were measured in different ways";
            assert_eq!(inference.joules, Reading::Unavailable(why.into()));
            assert_eq!(inference.scores.ns_sharp, Reading::Unavailable(why.into()));
            assert_eq!(inference.seconds.expect("timed").mean, 40.0);
        }
        let mut record = record();
        record.phases[0].energy = Reading::Unavailable("no meter".into());
        let inference = group(&record, Preparation::Counted).inference;
        assert_eq!(inference.joules, Reading::Unavailable("no meter".into()));
        record.phases.remove(0);
        let inference = group(&record, Preparation::Counted).inference;
        assert_eq!(
            (inference.seconds, inference.joules_per_image.value()),
            (None, None),
            "no part stands for the whole"
        );
    }

    #[test]
    fn nothing_changes_where_a_model_is_trained() {
        let mut document = serde_json::to_value(record()).expect("a document");
        document["settings"]["train"] = json!({
            "steps": 10, "warm_up_steps": 2, "batch": 32, "learning_rate": 0.001, "weight_decay": 0.05,
            "sampling": "replacement", "augment": true
        });
        document["phases"][0]["phase"] = json!("train");
        document["training"]["phases"][0]["phase"] = json!("train");
        // Were there such a phase, it would not count.
        let mut record = of(document);
        record.phases.push(crate::record::PhaseRecord { phase: Phase::Prepare, ..record.phases[0].clone() });
        assert_eq!(group(&record, Preparation::Apart), group(&record, Preparation::Counted));
        assert_eq!(figures(&group(&record, Preparation::Counted))[0], 10.0);
    }
}
