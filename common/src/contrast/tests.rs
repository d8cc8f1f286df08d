use serde_json::json;

use super::*;
use crate::record::{EnergyDomain, Reading};

/// A trial to make up; what is not said is the same for all.
#[derive(Clone)]
struct Trial {
    hardware: &'static str,
    method: &'static str,
    backbone: &'static str,
    checkpointing: &'static str,
    seed: u64,
    top1: f64,
    seconds: f64,
    joules: Option<f64>,
    domain: &'static str,
    peak_mib: u64,
    steps: u32,
    rate: f64,
    fingerprint: &'static str,
    weights: Option<&'static str>,
    evaluated: u64,
    budget: Option<u64>,
    completed: bool,
}

const BASE: Trial = Trial {
    hardware: "GPU A",
    method: "full",
    backbone: "vit_micro",
    checkpointing: "none",
    seed: 0,
    top1: 60.0,
    seconds: 10.0,
    joules: Some(1000.0),
    domain: "gpu",
    peak_mib: 400,
    steps: 10,
    rate: 0.001,
    fingerprint: "ab",
    weights: None,
    evaluated: 400,
    budget: None,
    completed: true,
};

impl Trial {
    fn record(&self) -> Record {
        let energy = match self.joules {
            Some(j) => json!({ "measured": { "joules": j, "domain": self.domain, "source": "test", "readings": 99 } }),
            None => json!({ "unavailable": "no meter" }),
        };
        let phase = |name: &str| json!({ "phase": name, "windows": [], "seconds": self.seconds, "energy": energy });
        let worker = |name: &str| {
            json!({ "phase": name, "steps": 10, "images": 320, "compute_seconds": 1.0, "data_wait_seconds": 0.0,
                    "peak_bytes": self.peak_mib << 20, "peak_reserved_bytes": 0 })
        };
        let method = match self.method {
            "lora" => {
                json!({ "name": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["fc1", "fc2", "qkv"] })
            }
            name => json!({ "name": name }),
        };
        let weights = match self.weights {
            Some(sha256) => json!({ "from": "file", "sha256": sha256 }),
            None => json!({ "from": "scratch" }),
        };
        let outcome =
            if self.completed { json!({ "class": "completed" }) } else { json!({ "class": "diverged", "step": 1 }) };
        let settings = json!({
            "definition": 1, "method": method, "backbone": self.backbone,
            "image_size": if self.backbone == "vit_micro" { 64 } else { 224 }, "checkpointing": self.checkpointing,
            "dataset": { "name": "textures", "fingerprint": self.fingerprint, "classes": 8 },
            "weights": weights, "seed": self.seed, "budget_bytes": self.budget,
            "train": { "steps": self.steps, "warm_up_steps": 0, "batch": 32, "learning_rate": self.rate,
                       "weight_decay": 0.05, "sampling": "replacement", "augment": true },
            "evaluate": { "batch": 64 }
        });
        let cell = serde_json::from_value::<CellSettings>(settings.clone()).expect("settings").id();
        let document = json!({
            "schema": crate::record::SCHEMA,
            "trial": { "cell": cell, "hardware": null, "repeat": 0 }, "attempt": 1,
            "settings": settings, "outcome": outcome,
            "training": {
                "parameters": 2_000_000, "trainable": 1000, "macs": 500_000_000u64, "losses": [1.0],
                "top1_percent": self.top1, "evaluation_loss": 1.0, "evaluated": self.evaluated,
                "phases": [worker("warm_up"), worker("train"), worker("evaluate")], "recomputed_blocks": [],
                "software": { "fleet": "0", "libtorch": "0", "threads": 1, "decode_threads": 1 }
            },
            "phases": [phase("warm_up"), phase("train"), phase("evaluate")],
            "machine": { "agent": self.hardware.replace(' ', "-"), "slot": "cpu", "hardware": self.hardware, "host": "h",
                         "os": "o", "cpu": "c", "cpus": 1, "memory_bytes": 1 },
            "started_unix_ms": 0, "finished_unix_ms": 0, "samples_taken": 0
        });
        Record::from_json(document.to_string().as_bytes()).expect("a record")
    }
}

/// A record for tests elsewhere.
pub(crate) fn example(seed: u64) -> Record {
    Trial { seed, ..BASE }.record()
}

fn of(trials: &[Trial], factor: Factor) -> Contrast {
    let records: Vec<Record> = trials.iter().map(Trial::record).collect();
    contrast(&records, factor, &Exponents::default(), Preparation::Apart)
}

fn measured<T>(reading: &Reading<T>) -> &T {
    reading.value().expect("measured")
}

fn why<T>(reading: &Reading<T>) -> &str {
    match reading {
        Reading::Unavailable(why) => why,
        Reading::Measured(_) => panic!("there is a value"),
    }
}

#[test]
fn ratios_are_geometric_means_over_what_both_levels_have() {
    let lora = Trial { method: "lora", rate: 0.005, ..BASE };
    let contrast = of(
        &[
            BASE,
            Trial { seed: 1, seconds: 14.0, ..BASE },
            Trial { seconds: 6.0, joules: Some(500.0), peak_mib: 100, ..lora.clone() },
            // A second combination, at twice the price instead of half.
            Trial { checkpointing: "static", ..BASE },
            Trial { checkpointing: "static", seconds: 20.0, joules: Some(4000.0), ..lora.clone() },
            // Only one level has this.
            Trial { hardware: "GPU B", ..BASE },
        ],
        Factor::Method,
    );
    assert_eq!(contrast.levels, ["full", "lora"]);
    assert_eq!(contrast.combinations.len(), 2);
    let full = &contrast.combinations[0].sides[0];
    assert_eq!((full.completed, full.training.seconds.expect("times").mean), (2, 12.0));
    let pair = &contrast.ratios[0];
    assert_eq!((pair.one.as_str(), pair.other.as_str(), pair.matched), ("full", "lora", 2));
    let seconds = measured(&pair.training.seconds);
    assert!((seconds.geometric_mean - 1.0).abs() < 1e-12, "0.5 and 2 cancel: {seconds:?}");
    assert_eq!((seconds.min, seconds.max, seconds.combinations), (0.5, 2.0, 2));
    assert!((measured(&pair.training.joules).geometric_mean - 2f64.sqrt()).abs() < 1e-12);
    assert!((measured(&pair.training.peak_bytes).geometric_mean - 0.5).abs() < 1e-12);
    assert_eq!(contrast.alone.len(), 1);
    assert_eq!(contrast.alone[0].hardware.as_str(), "GPU B");
    assert_eq!(contrast.not_compared, []);
    assert_eq!(contrast.agreement, []);
}

#[test]
fn two_recipes_of_one_method_are_two_levels() {
    let contrast = of(&[BASE, Trial { rate: 0.01, ..BASE }, Trial { method: "lora", ..BASE }], Factor::Method);
    assert_eq!(contrast.levels, ["full (learning rate 0.001)", "full (learning rate 0.01)", "lora"]);
    assert_eq!(contrast.ratios.len(), 3);
}

#[test]
fn whatever_differs_beside_the_factor_is_refused_by_name() {
    let b = Trial { hardware: "GPU B", ..BASE };
    let cases = [
        (Trial { fingerprint: "cd", ..b.clone() }, "dataset.fingerprint", json!("ab"), json!("cd")),
        (Trial { weights: Some("f00d"), ..b.clone() }, "weights.from", json!("scratch"), json!("file")),
        (Trial { evaluated: 8, ..b.clone() }, "evaluated", json!(400), json!(8)),
        (Trial { budget: Some(1 << 30), ..b.clone() }, "budget_bytes", json!(null), json!(1u64 << 30)),
        (Trial { steps: 20, ..b.clone() }, "train.steps", json!(10), json!(20)),
    ];
    for (other, setting, one, two) in cases {
        let contrast = of(&[BASE, other], Factor::Hardware);
        assert_eq!(contrast.combinations, [], "{setting}");
        assert_eq!(contrast.ratios[0].matched, 0);
        assert_eq!(why(&contrast.ratios[0].training.seconds), "no combination was measured at both");
        assert_eq!(contrast.agreement, [], "{setting}");
        let [refused] = contrast.not_compared.as_slice() else { panic!("{setting}: {contrast:?}") };
        assert_eq!((refused.one.level.as_str(), refused.other.level.as_str()), ("GPU A", "GPU B"));
        let found = refused.differences.iter().find(|d| d.setting == setting).expect(setting);
        assert_eq!((&found.one, &found.other), (&one, &two));
        assert_eq!(contrast.alone, [], "what is refused is not told twice");
    }
}

#[test]
fn what_has_its_counterpart_is_not_refused_for_another() {
    let b = Trial { hardware: "GPU B", ..BASE };
    let longer = |t: &Trial| Trial { steps: 20, ..t.clone() };
    let contrast = of(&[BASE, b.clone(), longer(&BASE), longer(&b)], Factor::Hardware);
    assert_eq!((contrast.combinations.len(), contrast.not_compared.len()), (2, 0));
}

#[test]
fn joules_of_different_domains_are_neither_related_nor_ranked() {
    let mut trials = Vec::new();
    for (method, seconds) in [("full", 10.0), ("lora", 8.0), ("bitfit", 6.0)] {
        let a = Trial { method, seconds, joules: Some(seconds * 100.0), ..BASE };
        trials.push(Trial { hardware: "CPU", domain: "cpu_packages", seconds: seconds * 9.0, ..a.clone() });
        trials.push(a);
    }
    let contrast = of(&trials, Factor::Hardware);
    let pair = &contrast.ratios[0];
    assert!((measured(&pair.training.seconds).geometric_mean - 1.0 / 9.0).abs() < 1e-12);
    assert!(why(&pair.training.joules).contains("another part"));
    let refused = &contrast.not_compared[0];
    assert_eq!((refused.relation, refused.combinations), (Relation::Energy, 3));
    assert_eq!(refused.differences[0].one, json!("cpu_packages"));
    assert_eq!(contrast.combinations[0].sides[1].training.domain, Some(EnergyDomain::Gpu));
    let tau = |name: &str| &contrast.agreement[0].measures.iter().find(|m| m.measure == name).expect("ranked").tau_b;
    assert_eq!(*measured(tau("training.seconds")), 1.0);
    assert!(why(tau("training.joules")).contains("another part"));
    assert!(why(tau("training.scores.ns_sharp")).contains("another part"));
    assert!(why(tau("top1_percent")).contains("equal"), "all have 60 %");
}

#[test]
fn agreement_ranks_only_what_may_be_ranked_together() {
    let mut trials = Vec::new();
    for hardware in ["GPU A", "GPU B"] {
        for (method, top1) in [("full", 60.0), ("lora", 58.0), ("bitfit", 50.0)] {
            // The two machines agree on two of three pairs: lora is ahead of full on the other.
            let top1 = if hardware == "GPU B" && method == "lora" { 61.0 } else { top1 };
            trials.push(Trial { hardware, method, top1, ..BASE });
        }
        // Other data is another ranking, of one.
        trials.push(Trial { hardware, fingerprint: "cd", top1: 1.0, ..BASE });
    }
    let contrast = of(&trials, Factor::Hardware);
    let top1: Vec<&Measure> = contrast.agreement.iter().map(|a| &a.measures[0]).collect();
    assert_eq!(top1.len(), 2);
    assert!((measured(&top1[0].tau_b) - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(top1[0].combinations, 3);
    assert!(why(&top1[1].tau_b).contains("at least 3"), "{top1:?}");
    let joules = &contrast.agreement[0].measures[2];
    assert!(why(&joules.tau_b).contains("equal"));
}

#[test]
fn without_a_meter_the_reason_is_told() {
    let contrast = of(&[Trial { joules: None, ..BASE }, Trial { hardware: "GPU B", ..BASE }], Factor::Hardware);
    assert_eq!(why(&contrast.ratios[0].training.joules), "no meter");
    assert_eq!(why(&contrast.agreement[0].measures[2].tau_b), "no meter");
    assert_eq!(why(&contrast.combinations[0].sides[0].training.scores.ns_e), "no meter");
    assert!(contrast.combinations[0].sides[1].training.scores.ns_e.value().is_some());
}

#[test]
fn backbones_bring_their_own_weights_and_two_files_are_not_two_backbones() {
    let tiny = Trial { backbone: "vit_tiny_patch16_224", weights: Some("22222222aa"), ..BASE };
    let micro = Trial { weights: Some("1111111122"), ..BASE };
    let other = Trial { weights: Some("3333333344"), ..BASE };
    let contrast = of(&[tiny, micro, other], Factor::Backbone);
    let names = ["vit_micro (weights 11111111)", "vit_micro (weights 33333333)", "vit_tiny_patch16_224"];
    assert_eq!(contrast.levels, names);
    assert_eq!(contrast.ratios.len(), 2, "micro is not related to micro");
    let [refused] = contrast.not_compared.as_slice() else { panic!("{:?}", contrast.not_compared) };
    assert_eq!(refused.differences.len(), 1);
    assert_eq!(refused.differences[0].setting, "weights.sha256");
}

#[test]
fn a_record_counts_once_and_failures_are_set_aside() {
    let b = Trial { hardware: "GPU B", ..BASE };
    let again = Trial { seconds: 11.0, ..BASE };
    let failed = Trial { completed: false, seed: 5, ..BASE };
    let contrast = of(&[BASE, b, BASE, again, failed], Factor::Hardware);
    assert_eq!(contrast.repeated, 1);
    let first = &contrast.combinations[0].sides[0];
    assert_eq!(first.completed, 2, "the same trial measured again is another measurement");
    assert_eq!(contrast.failures.len(), 1);
}
