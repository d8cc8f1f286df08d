//! Adapters in HF PEFT's layout: what a trial leaves can be merged into the weights that it began with, and so can what
//! PEFT has written. (That PEFT loads ours is tested by `make references`, which has a Python.)
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::path::{Path, PathBuf};

use fleet_common::plan::{CellSettings, MethodSettings};
use fleet_common::record::BlockChoice;
use fleet_common::record::Outcome;
use fleet_common::spec::Backbone;
use fleet_common::worker::Job;
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models;
use fleet_worker::nn::{Builder, Ctx, Params, Role, Seed, Weights};
use fleet_worker::peft::{self, layout};
use fleet_worker::torch::GradMode;
use serde_json::{Value, json};
use support::trials::{Trials, run};
use support::{max_diff, one_at_a_time};
use tch::{Device, Kind, Tensor};

fn all(p: &Params) -> Weights {
    Weights::from_tensors(p.iter().filter(|p| p.role != Role::Adapter).map(|p| (p.name.clone(), p.values())))
}

fn settings(backbone: Backbone, method: &Value) -> CellSettings {
    serde_json::from_value(json!({
        "definition": 2, "method": method, "backbone": backbone.name(), "image_size": backbone.image_size(),
        "checkpointing": "none", "dataset": { "name": "d", "fingerprint": "ab", "classes": 5 },
        "weights": { "from": "scratch" }, "seed": 3, "budget_bytes": null,
        "train": { "steps": 10, "warm_up_steps": 2, "batch": 6, "learning_rate": 0.003, "weight_decay": 0.05,
                   "sampling": "shuffle", "augment": true },
        "evaluate": { "batch": 1 }
    }))
    .unwrap()
}

/// A model whose adapters, head and statistics are not what they began with, its logits, and the weights it began with.
fn trained(settings: &CellSettings) -> (Params, Tensor, Weights) {
    let b = Builder::new(peft::method(&settings.method), None, Seed::root(1), Device::Cpu, Kind::Float);
    let model = models::build(settings.backbone, settings.image_size, 5, &b).expect("a backbone that is trained");
    let params = b.finish().unwrap().0;
    let _off = GradMode::off();
    let base =
        Weights::from_tensors(all(&params).names().map(|n| (n.to_owned(), params.get(n).unwrap().values().copy())));
    let changed = |p: &&fleet_worker::nn::Param| p.trains || p.name.contains(".running_");
    for (i, p) in params.iter().filter(changed).enumerate() {
        let noise = support::uniform(i as i64, &p.tensor.size()).to_kind(Kind::Float) * 0.05;
        let _ = p.tensor.shallow_clone().g_add_(&noise);
    }
    let logits = model.forward(&images(settings), &Ctx::eval(), &CheckpointingExecutor::uniform(BlockChoice::Keep));
    (params, logits, base)
}

fn images(settings: &CellSettings) -> Tensor {
    let side = i64::from(settings.image_size);
    support::uniform(9, &[2, 3, side, side]).to_kind(Kind::Float)
}

fn plain_logits(settings: &CellSettings, weights: Weights) -> Tensor {
    let b = Builder::new(peft::method(&MethodSettings::Full), Some(weights), Seed::root(2), Device::Cpu, Kind::Float);
    let model = models::build(settings.backbone, settings.image_size, 5, &b).expect("a backbone that is trained");
    let (_, load) = b.finish().unwrap();
    let load = load.unwrap();
    assert!(load.unexpected.is_empty() && load.missing.is_empty() && load.replaced.is_empty(), "{load:?}");
    let _off = GradMode::off();
    model.forward(&images(settings), &Ctx::eval(), &CheckpointingExecutor::uniform(BlockChoice::Keep))
}

#[test]
fn what_is_saved_and_merged_computes_what_was_trained() {
    let _alone = one_at_a_time();
    let targets = json!(["qkv", "proj", "fc1", "fc2"]);
    let methods = [
        json!({ "name": "lora", "rank": 4, "alpha": 6.0, "dropout": 0.0, "targets": targets }),
        json!({ "name": "lora", "rank": 4, "alpha": 6.5, "dropout": 0.1, "targets": ["qkv"], "rslora": true }),
        json!({ "name": "adalora", "init_rank": 4, "target_rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": targets,
                "tinit": 1, "tfinal": 1, "delta_t": 1, "beta1": 0.85, "beta2": 0.85, "orthogonal_weight": 0.5 }),
        // The weights that it began with are those that were packed: what merges is what they mean now.
        json!({ "name": "qlora", "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": targets, "block": 64,
                "double_quantization": false }),
    ];
    for (backbone, method) in
        [Backbone::VitMicro, Backbone::TinyVit5m].into_iter().flat_map(|b| methods.iter().map(move |m| (b, m)))
    {
        merging_changes_nothing(backbone, method);
    }
    // On Vim's projections they act; HF PEFT around the published code, which reads weights past its layers, has none
    // there.
    for backbone in [Backbone::VimTiny, Backbone::MambaVisionT] {
        for mut method in methods.clone() {
            method["targets"] = json!(backbone.lora_targets());
            merging_changes_nothing(backbone, &method);
        }
    }
}

fn merging_changes_nothing(backbone: Backbone, method: &Value) {
    let settings = settings(backbone, method);
    let (params, logits, base) = trained(&settings);
    let dir = tempfile::tempdir().unwrap();
    let adapter = layout::Adapter::of(&settings, &params).unwrap();
    adapter.write(dir.path(), |w| w.with_classes(&["a".to_owned(), "b".to_owned()])).unwrap();
    let (merged, report) = layout::merge(base, dir.path()).unwrap();
    assert_eq!(merged.classes(), Some(&["a".to_owned(), "b".to_owned()][..]));
    assert!(report.layers > 0 && report.replaced.iter().any(|n| n.starts_with("head")), "{report:?}");
    let difference = max_diff(&plain_logits(&settings, merged), &logits);
    assert!(difference < 2e-5, "{backbone:?}, {method}: {difference}");
}

#[test]
fn methods_without_an_adapter_leave_none() {
    let _alone = one_at_a_time();
    for method in [json!({ "name": "full" }), json!({ "name": "bitfit" })] {
        let settings = settings(Backbone::VitMicro, &method);
        assert!(layout::Adapter::of(&settings, &trained(&settings).0).is_none());
    }
}

/// What PEFT's own `save_pretrained` writes, from the tensors of a recorded reference.
fn peft_folder(dir: &Path) -> (Weights, Weights) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let io = Weights::read(&fixtures.join("peft_lora_merge/io.safetensors")).unwrap();
    let base = Weights::read(&fixtures.join("vit_tiny_timm/weights.safetensors")).unwrap();
    let saved = io.names().filter_map(|n| {
        let name = n.strip_prefix("adapter.").filter(|n| *n != "logits")?;
        Some((format!("base_model.model.{}", name.replace(".default", "")), io.get(n)?.shallow_clone()))
    });
    let saved: Vec<(String, Tensor)> = saved.collect();
    std::fs::create_dir_all(dir).unwrap();
    Weights::from_tensors(saved).write(&dir.join("adapter_model.safetensors")).unwrap();
    config(dir, &json!({}));
    (base, io)
}

/// A configuration with PEFT's defaults, some of them changed.
fn config(dir: &Path, changes: &Value) {
    let mut config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
        "target_modules": ["qkv", "attn.proj", "fc1", "fc2"], "modules_to_save": ["head"], "use_rslora": false,
        "use_dora": false, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": false, "task_type": null,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
}

#[test]
fn an_adapter_of_pefts_merges_as_peft_merges_it() {
    let _alone = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let (base, io) = peft_folder(dir.path());
    let (merged, report) = layout::merge(base, dir.path()).unwrap();
    assert_eq!((report.layers, report.replaced), (12, vec!["head.bias".to_owned(), "head.weight".to_owned()]));
    let name = "blocks.0.attn.qkv.weight";
    assert!(max_diff(merged.get(name).unwrap(), io.get(&format!("merged.{name}")).unwrap()) < 1e-6);
}

#[test]
fn what_cannot_be_merged_says_why_and_writes_nothing() {
    let _alone = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let reason = |base: Weights| format!("{:#}", layout::merge(base, dir.path()).unwrap_err());
    assert!(reason(Weights::default()).contains("expected an adapter's folder"), "{}", reason(Weights::default()));
    for (changes, words) in [
        (json!({ "peft_type": "IA3" }), "expected peft_type LORA or ADALORA, found \"IA3\""),
        (json!({ "use_dora": true }), "an adapter with use_dora = true cannot be merged"),
        (json!({ "bias": "all" }), "an adapter with bias = \"all\""),
        (json!({ "rank_pattern": { "qkv": 2 } }), "an adapter with rank_pattern"),
        (json!({ "r": 0 }), "expected r to be at least 1"),
        (json!({ "lora_alpha": "much" }), "expected lora_alpha to be a number, found \"much\""),
    ] {
        let (base, _) = peft_folder(dir.path());
        config(dir.path(), &changes);
        assert!(reason(base).contains(words), "{changes}");
    }
    let (base, _) = peft_folder(dir.path());
    let other = base.names().map(|n| (n.replace("qkv", "in_proj"), base.get(n).unwrap().shallow_clone()));
    let other: Vec<_> = other.collect();
    assert!(reason(Weights::from_tensors(other)).contains("blocks.0.attn.qkv, which the weights do not have"));
    let narrow = base.names().map(|n| (n.to_owned(), base.get(n).unwrap().narrow(0, 0, 1)));
    let narrow: Vec<_> = narrow.collect();
    assert!(reason(Weights::from_tensors(narrow)).contains("the weights have [1, 48]"));
    let file = dir.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    assert!(reason(peft_base()).contains("cut short"));
}

fn peft_base() -> Weights {
    Weights::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/vit_tiny_timm/weights.safetensors"))
        .unwrap()
}

#[test]
fn a_trial_leaves_its_adapter_where_it_is_told_to() {
    let trials = Trials::new();
    let folder: PathBuf = trials.dir.path().join("kept/adapter");
    let lora = json!({ "name": "lora", "rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["qkv"] });
    let weights = Some(trials.weights("merged"));
    let job = Job { save_adapter: Some(folder.clone()), save_weights: weights, ..trials.job(&lora, "none") };
    assert_eq!(run(&job, |_, _| {}).outcome, Outcome::Completed);
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["peft_type"]), (&json!(2), &json!(4), &json!("LORA")));
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 6, "one per block: {config}");
    assert_eq!(config["modules_to_save"], json!(["head"]));
    let adapter = Weights::read(&folder.join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter.names().count(), 2 * 6 + 2);
    // The weights of the same trial have it merged: they serve as they are.
    let merged = Weights::read(&trials.weights("merged")).unwrap();
    assert!(merged.names().all(|n| !n.contains("lora")), "no adapter beside the weights");
    let again = Job {
        weights: Some(trials.weights("merged")),
        save_weights: None,
        ..trials.job(&json!({ "name": "full" }), "none")
    };
    assert_eq!(run(&again, |_, _| {}).outcome, Outcome::Completed);
}
