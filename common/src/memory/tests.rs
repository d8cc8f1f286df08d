use serde_json::{Value, json};

use super::*;
use crate::plan::{CellSettings, MethodSettings};
use crate::record::Record;
use crate::spec::{Backbone, DatasetName, Method, MethodSpecs};

fn settings(backbone: Backbone, method: &Value, checkpointing: &str, batch: u32) -> CellSettings {
    serde_json::from_value(json!({
        "definition": 2, "method": method, "backbone": backbone.name(), "image_size": backbone.image_size(),
        "checkpointing": checkpointing, "dataset": { "name": "t", "fingerprint": "ab", "classes": 100 },
        "weights": { "from": "scratch" }, "seed": 0, "budget_bytes": null,
        "train": { "steps": 100, "warm_up_steps": 2, "batch": batch, "learning_rate": 0.003, "weight_decay": 0.05,
                   "sampling": "shuffle", "augment": true },
        "evaluate": { "batch": 1 }
    }))
    .expect("settings")
}

fn usual(method: Method, backbone: Backbone) -> Value {
    let settings =
        MethodSettings::resolve(method, backbone, &DatasetName::Dtd, &MethodSpecs::default()).expect("settings");
    serde_json::to_value(settings).expect("JSON")
}

fn lora(rank: u32, targets: &[&str]) -> Value {
    json!({ "name": "lora", "rank": rank, "alpha": 16.0, "dropout": 0.0, "targets": targets })
}

fn adalora(targets: &[&str]) -> Value {
    json!({ "name": "adalora", "init_rank": 12, "target_rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": targets,
        "tinit": 1, "tfinal": 1, "delta_t": 1, "beta1": 0.85, "beta2": 0.85, "orthogonal_weight": 0.5 })
}

/// The counts of timm and PEFT that the models are held against too (`agent/worker/tests/counts.rs`), with 100 classes.
#[test]
fn parameters_are_the_references() {
    const ALL: &[&str] = &["qkv", "attn.proj", "fc1", "fc2"];
    const VIM: &[&str] = &["in_proj", "x_proj", "dt_proj", "out_proj", "x_proj_b", "dt_proj_b"];
    const MAMBA: &[&str] = &["qkv", "mixer.proj", "in_proj", "x_proj", "dt_proj", "out_proj", "fc1", "fc2"];
    type Counted<'a> = (Backbone, u64, u64, u64, &'a [(Value, u64)]);
    let known: [Counted<'_>; 7] = [
        (
            Backbone::VitSmallPatch16,
            21_704_164,
            38_500,
            89_956,
            &[(lora(8, &["qkv"]), 185_956), (lora(16, &["qkv"]), 333_412), (adalora(ALL), 923_812)],
        ),
        (
            Backbone::TinyVit5m,
            5_103_864,
            32_100,
            57_764,
            &[(lora(8, &["qkv", "proj"]), 121_188), (adalora(ALL), 388_932)],
        ),
        (Backbone::TinyVit11m, 10_592_872, 44_900, 81_348, &[(lora(8, ALL), 388_964)]),
        (Backbone::TinyVit21m, 20_679_268, 57_700, 109_684, &[(lora(8, ALL), 549_220), (adalora(ALL), 795_460)]),
        (Backbone::VimTiny, 6_974_308, 19_300, 56_356, &[(lora(8, &["in_proj", "out_proj"]), 314_212)]),
        (Backbone::VimSmall, 25_450_084, 38_500, 112_612, &[(lora(8, VIM), 1_248_868)]),
        (Backbone::MambaVisionT, 31_217_348, 64_100, 114_452, &[(lora(8, MAMBA), 702_308)]),
    ];
    for (backbone, all, head, biases, adapted) in known {
        let of = |method: &Value| {
            let found = estimate(&settings(backbone, method, "none", 1));
            (found.parameters, found.trainable)
        };
        assert_eq!(of(&json!({ "name": "full" })), (all, all), "{}", backbone.name());
        assert_eq!(of(&json!({ "name": "bitfit" })), (all, biases), "{}", backbone.name());
        for (method, trainable) in adapted {
            assert_eq!(of(method), (all + trainable - head, *trainable), "{}, {method}", backbone.name());
        }
    }
}

fn trained(settings: &mut CellSettings) -> &mut crate::plan::TrainSettings {
    settings.train.as_mut().expect("it trains")
}

#[test]
fn every_cell_has_an_estimate_whose_parts_fit_together() {
    for backbone in Backbone::TRAINED {
        for method in Method::ALL.into_iter().filter(|m| m.trains()) {
            let method = usual(method, backbone);
            for batch in [1, 4] {
                let mut none = settings(backbone, &method, "none", batch);
                trained(&mut none).batch = batch;
                let what = format!("{}, {method}, batch {batch}", backbone.name());
                let kept = estimate(&none);
                let again = estimate(&settings(backbone, &method, "static", batch));
                assert_eq!(kept.peak_bytes, kept.peak_none_bytes, "{what}");
                assert!(kept.persistent_bytes + kept.gradient_bytes < kept.least_bytes, "{what}");
                assert!(
                    kept.least_bytes <= again.peak_bytes && again.peak_bytes <= kept.peak_bytes,
                    "{what}: {again:?}"
                );
                assert_eq!(kept.blocks.len(), again.blocks.len(), "{what}");
                let activations: u64 = kept.blocks.iter().map(|b| b.kept_bytes).sum();
                assert!(kept.persistent_bytes + activations < kept.peak_bytes, "{what}");
                assert!(kept.blocks.iter().any(|b| b.backward_bytes > 0), "{what}");
            }
        }
    }
}

#[test]
fn strategies_with_a_budget_lie_between_the_others() {
    let method = json!({ "name": "full" });
    let at = |checkpointing: &str, budget: u64| {
        let mut settings = settings(Backbone::VitMicro, &method, checkpointing, 32);
        settings.budget_bytes = Some(budget);
        settings.adaptive_ratio = (checkpointing == "adaptive").then_some(0.5);
        settings.planned_margin = (checkpointing == "planned").then_some(0.0);
        estimate(&settings)
    };
    let (none, again) = (at("none", 1 << 40).peak_bytes, at("static", 1 << 40).peak_bytes);
    // Never reached; reached before the first block; reached on the way.
    assert_eq!(at("adaptive", 1 << 40).peak_bytes, none);
    assert_eq!(at("adaptive", 2).peak_bytes, again);
    let between = at("adaptive", none).peak_bytes;
    assert!(again < between && between < none, "{again} {between} {none}");
    // As much as the limit allows, all, or the least where nothing fits: below the weights too.
    let middle = (again + none) / 2;
    assert_eq!(at("planned", middle).peak_bytes, middle);
    assert_eq!(at("planned", 1 << 40).peak_bytes, none);
    let tight = at("planned", 1000);
    assert_eq!(tight.peak_bytes, tight.least_bytes);
    assert!(tight.persistent_bytes > 1000 && tight.least_bytes <= again);
}

#[test]
fn more_classes_images_and_pixels_need_more() {
    let base = settings(Backbone::TinyVit5m, &usual(Method::Lora, Backbone::TinyVit5m), "none", 4);
    let peak = |change: &dyn Fn(&mut CellSettings)| {
        let mut settings = base.clone();
        change(&mut settings);
        estimate(&settings).peak_bytes
    };
    let usual = peak(&|_| {});
    assert!(peak(&|s| s.dataset.classes = 1000) > usual);
    assert!(peak(&|s| trained(s).batch = 8) > usual);
    assert!(peak(&|s| s.image_size = 256) > usual);
    assert!(peak(&|s| trained(s).micro_batches = 4) < usual);
}

/// A completed trial of these settings that peaked at so many bytes.
fn record(settings: &CellSettings, peak: u64) -> Record {
    let phase = |name: &str, peak: u64| {
        json!({ "phase": name, "steps": 1, "images": 1, "compute_seconds": 1.0, "data_wait_seconds": 0.0,
            "peak_bytes": peak, "peak_reserved_bytes": peak })
    };
    serde_json::from_value(json!({
        "schema": crate::record::SCHEMA, "trial": { "cell": settings.id(), "hardware": null, "repeat": 0 }, "attempt": 1,
        "settings": settings, "outcome": { "class": "completed" },
        "training": {
            "parameters": 1, "trainable": 1, "macs": 1, "losses": [], "top1_percent": 1.0, "evaluation_loss": 1.0,
            "evaluated": 1, "recomputed_blocks": [],
            "phases": [phase("warm_up", peak), phase("train", peak - 1), phase("evaluate", 10 * peak)],
            "software": { "fleet": "1", "libtorch": "2", "cuda": null, "threads": 1, "decode_threads": 1 },
        },
        "phases": [],
        "machine": {
            "agent": "a", "host": "h", "slot": "cpu", "hardware": "CPU", "memory_bytes": 1, "os": "linux", "cpu": "CPU",
            "cpus": 1
        },
        "started_unix_ms": 0, "finished_unix_ms": 1, "samples_taken": 0
    }))
    .expect("a record")
}

#[test]
fn what_was_measured_goes_before_what_is_estimated() {
    let full = json!({ "name": "full" });
    let of = |checkpointing: &str, batch| settings(Backbone::VitMicro, &full, checkpointing, batch);
    let expect = |history: &History, settings: &CellSettings| history.expect(settings, &estimate(settings));
    let known = of("none", 8);
    let estimated = estimate(&known).peak_bytes;
    let plain = expect(&History::default(), &known);
    assert_eq!(plain, Expected { peak_bytes: estimated, basis: Basis::Estimated });

    // Three trials, a fifth above, a half above and a tenth below their estimates; one that did not fit says nothing.
    let mut failed = record(&known, 7 * estimated);
    failed.outcome = crate::record::Outcome::Diverged { step: 3 };
    let other = of("none", 4);
    let peaks = [estimated * 12 / 10, estimated * 9 / 10];
    let records = [
        record(&known, peaks[0]),
        record(&known, peaks[1]),
        record(&other, estimate(&other).peak_bytes * 3 / 2),
        failed,
    ];
    let history = History::of(&records);
    // The seed, the data and the learning rate do not matter.
    let mut again = known.clone();
    again.seed = 9;
    trained(&mut again).learning_rate = 1.0;
    assert_eq!(expect(&history, &again), Expected { peak_bytes: peaks[0], basis: Basis::Measured { trials: 2 } });
    // Another strategy, batch, input or precision is another step: the median corrects its estimate.
    let change: [&dyn Fn(&mut CellSettings); 4] = [
        &|s| s.checkpointing = crate::spec::Checkpointing::Static,
        &|s| trained(s).batch = 9,
        &|s| s.image_size = 72,
        &|s| trained(s).precision = crate::spec::Precision::Bf16,
    ];
    for change in change {
        let mut cell = known.clone();
        change(&mut cell);
        let found = expect(&history, &cell);
        let ratio = found.peak_bytes as f64 / estimate(&cell).peak_bytes as f64;
        assert!((ratio - 1.2).abs() < 1e-3, "{ratio}");
        assert_eq!(found.basis.to_string(), "estimated, corrected by 3 trials");
    }
    // Another method or backbone is not corrected by these.
    for cell in [
        settings(Backbone::VitMicro, &json!({ "name": "bitfit" }), "none", 8),
        settings(Backbone::VitTinyPatch16, &full, "none", 1),
    ] {
        assert_eq!(expect(&history, &cell).basis, Basis::Estimated);
    }
    // A corrected plan still aims for its limit.
    let mut planned = of("planned", 8);
    (planned.budget_bytes, planned.planned_margin) = (Some(estimated), Some(0.0));
    assert_eq!(expect(&history, &planned).peak_bytes, estimated);
}

#[test]
fn shortages_name_what_is_exceeded() {
    let expected = Expected { peak_bytes: 300 << 20, basis: Basis::Estimated };
    let words = |budget, devices: &[u64]| expected.shortage(budget, devices).map(|s| expected.describe(s));
    assert_eq!(words(None, &[]), None);
    assert_eq!(words(Some(300 << 20), &[1 << 30, 1]), None);
    assert_eq!(words(Some(256 << 20), &[1 << 30]).as_deref(), Some("needs about 300.0 MiB of 256.0 MiB"));
    let devices = words(Some(1 << 30), &[100 << 20, 200 << 20]);
    assert_eq!(devices.as_deref(), Some("needs about 300.0 MiB of 200.0 MiB that the largest device has"));
}
