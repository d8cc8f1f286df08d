//! Records that a campaign could have left, made through their JSON form as the journal's are.

use std::collections::BTreeMap;

use fleet_common::compare::{Comparison, Preparation, compare};
use fleet_common::id::TrialId;
use fleet_common::plan::{CellSettings, Excluded};
use fleet_common::record::Record;
use fleet_common::score::Exponents;
use fleet_common::spec::{Backbone, Checkpointing, Method};
use fleet_common::telemetry::{MonoNanos, Sample, Series};
use serde_json::{Value, json};

use crate::report::ReportInput;

pub(super) const CPU: &str = "AMD EPYC 7763 64-Core Processor";
pub(super) const GPU: &str = "NVIDIA GeForce RTX 4090";
pub(super) const NO_METER: &str =
    "the package energy counter can be read by root only (0400); `doctor` prints the remedy";

/// One trial to make up.
#[derive(Clone)]
pub(super) struct Trial {
    pub(super) backbone: &'static str,
    pub(super) method: &'static str,
    pub(super) checkpointing: &'static str,
    pub(super) dataset: &'static str,
    pub(super) hardware: &'static str,
    pub(super) seed: u64,
    pub(super) repeat: u32,
    pub(super) evaluated: u64,
    pub(super) batch: u32,
    pub(super) outcome: Value,
    pub(super) flags: Vec<&'static str>,
    pub(super) weights: Option<String>,
    /// Whether it kept memory over a step, and has a budget that this needs.
    pub(super) traced: bool,
}

pub(super) fn trial(method: &'static str, checkpointing: &'static str, hardware: &'static str, seed: u64) -> Trial {
    Trial {
        backbone: "vit_micro",
        method,
        checkpointing,
        dataset: "textures",
        hardware,
        seed,
        repeat: 0,
        evaluated: 400,
        batch: 32,
        outcome: json!({ "class": "completed" }),
        flags: vec!["short window"],
        weights: None,
        traced: false,
    }
}

/// A number in [-1, 1] that depends on `of` alone.
fn wobble(of: &str) -> f64 {
    let hash = of.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 11) as f64 / (1u64 << 53) as f64) * 2.0 - 1.0
}

/// What a trial measures, before its seed's luck.
struct Typical {
    parameters: u64,
    trainable: u64,
    macs: u64,
    accuracy: f64,
    peak: f64,
    seconds: f64,
    watts: f64,
}

fn typical(t: &Trial) -> Typical {
    let (parameters, macs, size): (u64, u64, f64) = match t.backbone {
        "vit_micro" => (1_208_456, 78_000_000, 1.0),
        "vit_tiny_patch16_224" => (5_526_536, 1_080_000_000, 9.0),
        _ => (21_668_744, 4_250_000_000, 22.0),
    };
    let (share, accuracy, memory, time) = match t.method {
        "full" => (1.0, 63.1, 1.0, 1.0),
        "lora" => (0.069, 59.9, 0.59, 0.86),
        _ => (0.011, 55.2, 0.52, 0.74),
    };
    let (memory, time) = if t.checkpointing == "static" { (memory * 0.45, time * 1.29) } else { (memory, time) };
    let gpu = t.hardware == GPU;
    let mib = f64::from(1 << 20);
    Typical {
        parameters,
        trainable: (parameters as f64 * share) as u64,
        macs,
        accuracy: accuracy + 9.0 * size.log10() + 2.0 * (f64::from(t.batch) / 32.0).log2(),
        peak: 412.0 * memory * size.sqrt() * (f64::from(t.batch) / 32.0).powf(0.7) * mib,
        seconds: 41.0 * time * size / if gpu { 14.0 } else { 1.0 },
        watts: if gpu { 212.0 } else { 118.0 },
    }
}

impl Trial {
    fn name(&self) -> String {
        format!("{}{}{}{}{}{}", self.backbone, self.method, self.dataset, self.hardware, self.seed, self.repeat)
    }

    fn budget(&self) -> u64 {
        let completed = self.outcome["class"] == "completed";
        if self.traced {
            return BUDGET;
        }
        if completed && self.backbone != "vit_micro" { 4 << 30 } else { 512 << 20 }
    }

    fn settings(&self) -> Value {
        let method = match self.method {
            "lora" => {
                json!({ "name": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["fc1", "fc2", "qkv"] })
            }
            "adalora" => json!({
                "name": "adalora", "init_rank": 12, "target_rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["qkv"],
                "tinit": 20, "tfinal": 100, "delta_t": 10, "beta1": 0.85, "beta2": 0.85, "orthogonal_weight": 0.5
            }),
            "qlora" => json!({
                "name": "qlora", "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["qkv"], "block": 64,
                "double_quantization": false
            }),
            name => json!({ "name": name }),
        };
        if self.is_untrained() {
            return self.untrained_settings();
        }
        let weights = match &self.weights {
            Some(sha256) => json!({ "from": "file", "sha256": sha256 }),
            None => json!({ "from": "scratch" }),
        };
        let rate = if self.method == "full" { 1e-3 } else { 5e-3 };
        let mut settings = json!({
            "definition": 1, "method": method, "backbone": self.backbone, "image_size": 64,
            "checkpointing": self.checkpointing,
            "dataset": { "name": self.dataset, "fingerprint": "5eed".repeat(16), "classes": 8 },
            "weights": weights, "seed": self.seed, "budget_bytes": self.budget(),
            "train": {
                "steps": 240, "warm_up_steps": 2, "batch": self.batch, "learning_rate": rate, "weight_decay": 0.05,
                "sampling": "replacement", "augment": true
            },
            "evaluate": { "batch": 64 }
        });
        match self.checkpointing {
            "adaptive" => settings["adaptive_ratio"] = json!(0.5),
            "planned" => settings["planned_margin"] = json!(0.02),
            _ => {}
        }
        settings
    }

    /// Whether its model is used as it was published.
    fn is_untrained(&self) -> bool {
        matches!(self.method, "zero-shot" | "knn" | "linear-probe" | "vlm-prompt" | "vlm-score")
    }

    fn untrained_settings(&self) -> Value {
        let method = match self.method {
            "zero-shot" => json!({ "name": "zero-shot", "templates": ["a photo of a {}.", "{}."] }),
            "knn" => json!({ "name": "knn", "k": 20 }),
            "vlm-prompt" => json!({ "name": "vlm-prompt", "prompt": "Which of these is it? {}", "new_tokens": 16 }),
            "vlm-score" => json!({ "name": "vlm-score", "prompt": "Which of these is it? {}" }),
            name => json!({ "name": name, "rates": [1e-5, 0.01, 0.1], "batch": 128, "steps": 500, "held_back": 0.1 }),
        };
        json!({
            "definition": 2, "method": method, "backbone": self.backbone, "image_size": 224, "checkpointing": "none",
            "dataset": { "name": self.dataset, "fingerprint": "5eed".repeat(16), "classes": 8 },
            "weights": { "from": "folder", "sha256": "c0ffee00".repeat(8) }, "seed": self.seed,
            "budget_bytes": self.budget(), "evaluate": { "batch": 64 }
        })
    }

    fn energy(&self, joules: f64) -> Value {
        match self.hardware {
            GPU => json!({ "measured": {
                "joules": joules, "domain": "gpu", "source": "NVML energy counter", "readings": 180
            } }),
            _ => json!({ "unavailable": NO_METER }),
        }
    }

    fn machine(&self) -> Value {
        let gpu = (self.hardware == GPU).then(|| {
            json!({
                "name": GPU, "uuid_hash": "9f31c2aa04d7e6b1", "memory_bytes": 25_757_220_864u64, "driver": "580.95.05",
                "compute_capability": "8.9", "power_limit_milliwatts": 450_000
            })
        });
        let host = if gpu.is_some() { "rack-3" } else { "bench-1" };
        let mut machine = json!({
            "agent": format!("{host}-a1"), "slot": if gpu.is_some() { "cuda:0" } else { "cpu" }, "hardware": self.hardware,
            "host": host, "os": "Linux 6.8.0-45-generic", "cpu": CPU, "cpus": 16, "memory_bytes": 67_430_000_000u64
        });
        if let (Some(gpu), Some(fields)) = (gpu, machine.as_object_mut()) {
            fields.insert("gpu".to_owned(), gpu);
        }
        machine
    }

    /// The record, by way of its JSON.
    pub(super) fn record(&self) -> Record {
        let settings = self.settings();
        let cell = serde_json::from_value::<CellSettings>(settings.clone()).expect("settings").id();
        let t = typical(self);
        let luck = wobble(&self.name());
        let completed = self.outcome["class"] == "completed";
        // Nothing holds more than its budget: the allocator stops it.
        let t = Typical { peak: t.peak.min(self.budget() as f64 - 1e6), ..t };
        let t = if completed { t } else { Typical { seconds: t.seconds * 0.13, ..t } };
        let accuracy = (t.accuracy + 0.9 * luck).clamp(0.5, 99.5) / 100.0 * self.evaluated as f64;
        let seconds = t.seconds * (1.0 + 0.012 * wobble(&(self.name() + self.checkpointing)));
        let steps = if completed { 240 } else { 31 };
        let losses: Vec<f64> = (0..steps)
            .map(|i| {
                let noise = wobble(&format!("{}{i}", self.name()));
                let floor = 0.3 + 0.03 * (66.0 - t.accuracy).max(0.0);
                floor
                    + (2.08 - floor) * (-f64::from(i) / (40.0 + 2.0 * (66.0 - t.accuracy).max(0.0))).exp()
                    + 0.11 * noise
            })
            .collect();
        let before = match self.is_untrained() {
            true => vec![("load", 0.8, 0, 0.09), ("prepare", seconds / 4.0, 480, 0.31)],
            false => {
                vec![("load", 0.8, 0, 0.09), ("warm_up", seconds / 60.0, 64, 0.94), ("train", seconds, 238 * 32, 1.0)]
            }
        };
        let losses = if self.is_untrained() { Vec::new() } else { losses };
        let phases: Vec<(&str, f64, u64, f64)> =
            before.into_iter().chain(completed.then_some(("evaluate", seconds / 9.0, self.evaluated, 0.31))).collect();
        let place = |phase: &str| match phase {
            "train" => json!({ "phase": "backward", "block": 5 }),
            _ => json!({ "phase": "forward", "block": 0 }),
        };
        let worker: Vec<Value> = phases
            .iter()
            .map(|(phase, seconds, images, memory)| {
                json!({
                    "phase": phase, "steps": images / 32, "images": images, "compute_seconds": seconds * 0.96,
                    "data_wait_seconds": seconds * 0.04, "peak_bytes": (t.peak * memory) as u64,
                    "peak_reserved_bytes": (t.peak * memory * 1.07) as u64, "peak_place": place(phase)
                })
            })
            .collect();
        let mut start = BOOT;
        let timed: Vec<Value> = phases
            .iter()
            .map(|(phase, seconds, _, _)| {
                let starts_at = (start * 1e9) as u64;
                start += seconds;
                json!({
                    "phase": phase, "seconds": seconds,
                    "windows": [{ "attempt": 1 + self.seed % 2, "starts_at": starts_at, "seconds": seconds }],
                    "peak_process_bytes": (t.peak * 1.2) as u64 + (350 << 20),
                    "energy": self.energy(seconds * t.watts * (1.0 + 0.02 * luck))
                })
            })
            .collect();
        let document = json!({
            "schema": "fleet.record/1",
            "trial": { "cell": cell, "hardware": self.hardware, "repeat": self.repeat },
            "attempt": 1 + self.seed % 2, "settings": settings, "outcome": self.outcome,
            "training": {
                "parameters": t.parameters, "trainable": t.trainable, "macs": t.macs, "losses": losses,
                "top1_percent": completed.then_some(100.0 * accuracy.round() / self.evaluated as f64),
                "evaluation_loss": completed.then_some(1.21), "evaluated": if completed { self.evaluated } else { 0 },
                "phases": worker, "recomputed_blocks": [],
                "software": {
                    "fleet": "0.1.0", "libtorch": "2.11.0", "cuda": (self.hardware == GPU).then_some("13.0"),
                    "threads": 8, "decode_threads": 2
                }
            },
            "phases": timed, "machine": self.machine(),
            "started_unix_ms": 1_790_000_000_000u64 + self.seed * 60_000,
            "finished_unix_ms": 1_790_000_050_000u64 + self.seed * 60_000,
            "samples_taken": 4000, "flags": self.flags
        });
        let mut record = Record::from_json(document.to_string().as_bytes()).expect("a record");
        if self.traced && completed {
            self.trace(&mut record);
        }
        record
    }

    /// Memory over a step of six blocks, and what the strategy did.
    fn trace(&self, record: &mut Record) {
        let kept = match self.checkpointing {
            "none" => 6,
            "static" => 0,
            "adaptive" => 3,
            _ => 4,
        };
        let held = if self.method == "full" { 40 } else { 24 };
        let (mut at, mut live, mut windows) = (0.0, 20u64, Vec::new());
        let mut push = |phase: &str, block: Option<u32>, long: f64, live: u64, above: u64| {
            let (from, most) = (live << 20, (live + above) << 20);
            windows.push(json!({ "phase": phase, "block": block, "at": at, "live": from, "peak": most }));
            at += long;
        };
        push("forward", None, 2.0, live, 4);
        for block in 0..6 {
            push("forward", Some(block), 8.0, live, held + 6);
            live += if block < kept { held } else { 3 };
        }
        push("backward", None, 2.0, live, 3);
        for block in (0..6).rev() {
            if block >= kept {
                push("recompute", Some(block), 8.0, live, held + 6);
                live += held - 3;
            }
            push("backward", Some(block), 15.0, live, 12);
            live -= held;
        }
        push("optimizer", None, 3.0, live, 1);
        let trace = json!({ "step": 1, "milliseconds": at, "windows": windows });
        record.training.memory_trace = serde_json::from_value(trace).expect("a trace");
        record.training.recomputed_blocks = (kept..6).collect();
        match self.checkpointing {
            "adaptive" => record.training.recompute_threshold_bytes = Some(BUDGET / 2),
            "planned" => {
                let plan = json!({
                    "blocks": ["keep", "keep", "keep", "keep", "whole", "whole"], "limit_bytes": 210_000_000,
                    "predicted_peak_bytes": 200 << 20, "measured_peak_bytes": 201 << 20, "recompute_seconds": 0.016,
                    "blocks_seconds": 0.138, "replanned": self.seed == 0
                });
                record.training.memory_plan = serde_json::from_value(plan).expect("a plan");
            }
            _ => {}
        }
    }
}

/// The budget of the trials with a trace.
const BUDGET: u64 = 256 << 20;

/// Seconds since the machine started when a trial's first phase begins.
const BOOT: f64 = 7_200.0;

/// Readings of the trial: memory rising and falling with each step, and power where there is a meter.
pub(super) fn samples(record: &Record) -> Vec<Sample> {
    let mut out = Vec::new();
    let peak = record.training.phases.iter().map(|p| p.peak_bytes).max().unwrap_or(0) as f64;
    let mut start = BOOT;
    for phase in &record.phases {
        let (name, top) = (phase.phase.name(), record.worker_phase(phase.phase).map_or(0.0, |p| p.peak_bytes as f64));
        let count = (phase.seconds * 40.0).clamp(4.0, 4_000.0) as u32;
        for i in 0..count {
            let share = f64::from(i) / f64::from(count);
            let at = MonoNanos(((start + share * phase.seconds) * 1e9) as u64);
            let base = peak * 0.09;
            let wave = (0.5 - 0.5 * (f64::from(i) * 0.9).cos()).powf(0.8);
            let live = if name == "load" { base * share } else { base + (top - base) * wave };
            let mut push = |series: Series, value: f64| {
                out.push(Sample { number: 0, at, channel: series.into(), value: value as i64 });
            };
            push(Series::AllocatorLiveBytes, live);
            push(Series::ProcessResidentBytes, live * 1.2 + 3.5e8);
            if record.machine.gpu.is_some() && i % 4 == 0 {
                let busy = if name == "load" { 61.0 } else { 212.0 + 24.0 * wobble(&format!("{name}{i}")) };
                push(Series::GpuPowerMilliwatts, busy * 1e3);
            }
        }
        start += phase.seconds;
    }
    out.iter_mut().enumerate().for_each(|(i, s)| s.number = i as u64);
    out
}

/// Everything that a report needs, owned.
pub(super) struct World {
    pub(super) campaign: String,
    pub(super) toml: String,
    pub(super) records: Vec<Record>,
    pub(super) samples: BTreeMap<TrialId, Vec<Sample>>,
    pub(super) comparison: Comparison,
    pub(super) excluded: Vec<Excluded>,
    pub(super) warnings: Vec<String>,
    pub(super) waiting: u64,
    pub(super) running: u64,
    pub(super) cancelled: u64,
    pub(super) wasted: Vec<fleet_common::record::Waste>,
}

impl World {
    pub(super) fn of(trials: &[Trial]) -> Self {
        let mut records: Vec<Record> = trials.iter().map(Trial::record).collect();
        records.iter_mut().for_each(|r| r.samples_taken = samples(r).len() as u64);
        Self {
            campaign: "textures-micro".to_owned(),
            toml: "name = \"textures-micro\"\nseeds = [0, 1, 2]\n".to_owned(),
            samples: records.iter().map(|r| (r.trial.clone(), samples(r))).collect(),
            comparison: compare(&records, &Exponents::default(), Preparation::Apart),
            records,
            excluded: Vec::new(),
            warnings: Vec::new(),
            waiting: 0,
            running: 0,
            cancelled: 0,
            wasted: Vec::new(),
        }
    }

    pub(super) fn input(&self) -> ReportInput<'_> {
        ReportInput {
            campaign: &self.campaign,
            generated_unix_ms: 1_790_003_600_000,
            version: "0.1.0",
            toml: &self.toml,
            asked: self.records.len() as u64 + self.waiting + self.running + self.cancelled,
            waiting: self.waiting,
            running: self.running,
            cancelled: self.cancelled,
            excluded: &self.excluded,
            warnings: &self.warnings,
            comparison: &self.comparison,
            records: &self.records,
            samples: &self.samples,
            given_up: &[],
            wasted: &self.wasted,
            grams_per_kwh: None,
            superseded: 0,
        }
    }
}

/// Methods × strategies × seeds on one backbone and hardware class.
pub(super) fn matrix(backbone: &'static str, dataset: &'static str, hardware: &'static str, seeds: u64) -> Vec<Trial> {
    let mut trials = Vec::new();
    for method in ["full", "lora", "bitfit"] {
        for checkpointing in ["none", "static"] {
            let seeded = (0..seeds).map(|s| Trial { backbone, dataset, ..trial(method, checkpointing, hardware, s) });
            trials.extend(seeded);
        }
    }
    trials
}

/// Every strategy with a trace under a budget that full fine-tuning does not fit without one.
pub(super) fn traced() -> World {
    let outcome = json!({
        "class": "does_not_fit", "needed_bytes": 270u64 << 20, "budget_bytes": BUDGET,
        "place": { "phase": "forward", "block": 5 }
    });
    let with = |method, checkpointing, seed| Trial { traced: true, ..trial(method, checkpointing, CPU, seed) };
    let mut trials = vec![Trial { outcome, ..with("full", "none", 0) }, with("lora", "none", 1)];
    for method in ["full", "lora"] {
        for checkpointing in ["static", "adaptive", "planned"] {
            trials.extend([1, 0].map(|seed| with(method, checkpointing, seed)));
        }
    }
    World::of(&trials)
}

/// Both hardware classes, three seeds, and every way to end.
pub(super) fn rich() -> World {
    let mut trials = matrix("vit_micro", "textures", CPU, 3);
    trials.extend(matrix("vit_micro", "textures", GPU, 3));
    let ended = |t: Trial, outcome: Value| Trial { outcome, flags: vec!["several owners of the device"], ..t };
    let large = |method, checkpointing, seed| Trial {
        backbone: "vit_small_patch16_224",
        ..trial(method, checkpointing, CPU, seed)
    };
    let (needed, budget) = (913u64 << 20, 512u64 << 20);
    trials.extend([
        ended(
            large("full", "none", 0),
            json!({
                "class": "does_not_fit", "needed_bytes": needed, "budget_bytes": budget,
                "place": { "phase": "forward", "block": 7 }
            }),
        ),
        ended(trial("full", "none", CPU, 7), json!({ "class": "diverged", "step": 31 })),
        ended(large("lora", "none", 1), json!({ "class": "crashed", "message": "the worker ended by signal 11" })),
        ended(
            large("lora", "static", 1),
            json!({ "class": "bad_input", "message": "expected 8 classes, found 10: <script>alert('x')</script>" }),
        ),
        ended(trial("bitfit", "none", GPU, 9), json!({ "class": "cancelled" })),
    ]);
    let mut world = World::of(&trials);
    world.waiting = 3;
    world.running = 2;
    world.cancelled = 1;
    world.warnings = vec!["3 seeds give a mean; an interval wants 5".to_owned()];
    world.excluded = vec![Excluded {
        method: Method::Lora,
        backbone: Backbone::VitTinyPatch16,
        checkpointing: Checkpointing::Static,
        dataset: "dtd".to_owned(),
        cells: 3,
        reason: "data/dtd is not there".to_owned(),
    }];
    world
}
