//! Models, methods, quantisation and preprocessing against timm, the authors' Vim and MambaVision, transformers' Mamba,
//! HF PEFT, bitsandbytes and Pillow: every folder of
//! `tests/fixtures`, as `fleet-agent verify` runs it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::path::{Path, PathBuf};

use fleet_common::verify::{Check, Verdict};
use fleet_worker::nn::Weights;
use fleet_worker::verify;
use serde_json::Value;
use support::one_at_a_time;
use tch::{Device, Tensor};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn verdict(dir: &Path) -> Verdict {
    let _alone = one_at_a_time();
    verify::run(dir, Device::Cpu)
}

/// Which results are beyond their tolerance; a folder that cannot be run is none of a test's business.
fn beyond(dir: &Path) -> Vec<Check> {
    match verdict(dir) {
        Verdict::Passed(_) => Vec::new(),
        Verdict::Failed(report) => report.checks.into_iter().filter(|c| !c.passed).collect(),
        Verdict::CannotRun { reason } => panic!("{}: {reason}", dir.display()),
    }
}

#[test]
fn every_reference_of_the_repository_is_met() {
    let folders: Vec<PathBuf> = std::fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(folders.len() >= 40);
    for dir in folders {
        let beyond = beyond(&dir);
        assert!(beyond.is_empty(), "{}: {beyond:#?}", dir.display());
    }
}

/// SentencePiece's own vectors, as a folder.
#[test]
fn a_tokenizer_is_verified_and_found_out() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../common/tokenizer/tests/samples");
    let vectors: Value = serde_json::from_slice(&std::fs::read(samples.join("vectors.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"kind": "tokenizer", "architecture": "sentencepiece"}"#)
        .unwrap();
    let write = |cases: &Value| {
        std::fs::write(dir.path().join("vectors.json"), serde_json::json!({ "cases": cases }).to_string()).unwrap();
    };
    for name in ["bpe", "unigram"] {
        std::fs::copy(samples.join(format!("{name}.model")), dir.path().join("tokenizer.model")).unwrap();
        // SentencePiece reads its own control symbols as text, and shows that it does not know something.
        let plain = |case: &&Value| {
            let says = |key: &str, what: &str| case[key].as_str().unwrap().contains(what);
            !says("text", "<s>") && !says("back", "\u{2047}")
        };
        write(&vectors[name].as_array().unwrap().iter().filter(plain).cloned().collect());
        assert_eq!(beyond(dir.path()).len(), 0, "{name}");
    }
    let mut wrong = vectors["unigram"].clone();
    wrong[0]["ids"][0] = 63.into();
    write(&wrong);
    assert!(beyond(dir.path())[0].name.contains("expected [63"));
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    let Verdict::CannotRun { reason } = verdict(dir.path()) else { panic!("without a tokenizer") };
    assert!(reason.contains("bpe_simple_vocab_16e6.txt.gz"), "{reason}");
}

/// A copy of a reference, of the bases too, in which `change` may spoil something.
fn spoiled(name: &str, change: impl FnOnce(&Path, &mut Value)) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for folder in [name, "vit_tiny_timm", "tiny_vit_tiny"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        for file in std::fs::read_dir(fixtures().join(folder)).unwrap().map(|e| e.unwrap().path()) {
            std::fs::copy(&file, dir.path().join(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    let folder = dir.path().join(name);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&folder, &mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    (dir, folder)
}

/// Moves one value of a tensor of a safetensors file.
fn nudge(file: &Path, name: &str, by: f64) {
    let weights = Weights::read(file).unwrap();
    let moved = weights.names().map(|n| {
        let tensor = weights.get(n).unwrap().copy();
        if n == name {
            let _ = tensor.view([-1]).narrow(0, 0, 1).g_add_scalar_(by);
        }
        (n.to_owned(), tensor)
    });
    let moved: Vec<(String, Tensor)> = moved.collect();
    Weights::from_tensors(moved).write(file).unwrap();
}

#[test]
fn a_result_that_is_off_is_named_and_nothing_else() {
    let (_kept, dir) =
        spoiled("tiny_vit_tiny", |dir, _| nudge(&dir.join("io.safetensors"), "eval.stage.stages.2", 1e-3));
    let names: Vec<String> = beyond(&dir).into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["eval.stage.stages.2"]);
    let statistics = "post.stages.3.blocks.0.local_conv.bn.running_var";
    let (_kept, dir) = spoiled("peft_lora_tiny_vit", |dir, _| nudge(&dir.join("io.safetensors"), statistics, 1e-3));
    let names: Vec<String> = beyond(&dir).into_iter().map(|c| c.name).collect();
    assert_eq!(names, [statistics]);
    let (_kept, dir) = spoiled("peft_adalora", |_, config| config["per_step"][3]["scheduled_budget"] = 48.into());
    let names: Vec<String> = beyond(&dir).into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["step 4: budget: expected 48, found 49"]);
}

#[test]
fn other_settings_than_the_references_do_not_pass() {
    for (name, key, value) in [
        ("peft_lora_all", "lora_alpha", Value::from(9)),
        ("peft_rslora_qkv", "scaling", Value::from("alpha / r")),
        ("peft_adalora", "beta2", Value::from(0.5)),
        ("peft_adalora", "deltaT", Value::from(3)),
        ("peft_adalora", "orth_reg_weight", Value::from(0.4)),
        ("peft_qlora", "double_quant", Value::from(false)),
        ("tiny_vit_tiny", "window_sizes", Value::from(vec![5, 4, 5, 3])),
        ("vim_tiny", "norm_eps", Value::from(1e-3)),
        ("mambavision_tiny_layerscale", "window_size", Value::from(vec![8, 8, 4, 4])),
        ("mamba_hf_tiny", "layer_norm_epsilon", Value::from(1e-3)),
        ("train_full_sgd", "optimizer_args", serde_json::json!({ "lr": 0.02, "momentum": 0.8, "weight_decay": 1e-4 })),
    ] {
        let (_kept, dir) = spoiled(name, |_, config| config[key] = value);
        // Windows of another size do not even fit the tables of biases.
        assert!(!matches!(verdict(&dir), Verdict::Passed(_)), "{name} with another {key}");
    }
}

/// Spoils a folder, or its configuration.
type Change<'a> = &'a dyn Fn(&Path, &mut Value);

#[test]
fn what_cannot_be_run_says_what_would_be_right() {
    let reason = |name: &str, change: Change<'_>| {
        let (_kept, dir) = spoiled(name, |dir, config| change(dir, config));
        match verdict(&dir) {
            Verdict::CannotRun { reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    let set = |key: &'static str, value: &'static str| move |_: &Path, config: &mut Value| config[key] = value.into();
    let cases: [(&str, Change<'_>, &str); 12] = [
        (
            "vim_tiny",
            &set("bimamba_type", "v1"),
            "only bimamba_type = \"v2\" in config.json can be verified, found \"v1\"",
        ),
        ("mamba_hf_tiny", &set("architecture", "mamba2"), "only architecture = \"mamba\""),
        ("mambavision_tiny_layerscale", &set("dim", "wide"), "expected dim in config.json to be a whole number"),
        ("vit_tiny_timm", &set("kind", "weather"), "\"weather\" cannot be verified; expected backbone"),
        ("vit_tiny_timm", &set("architecture", "swin"), "\"swin\" cannot be verified; expected vit"),
        ("peft_lora_qkv", &set("method", "dora"), "\"dora\" is not there; expected full, lora"),
        ("train_full_sgd", &set("optimizer", "Lion"), "\"Lion\" is not there; expected AdamW or SGD"),
        ("nf4", &set("quant_type", "fp4"), "\"fp4\" is not there; expected nf4"),
        (
            "vit_tiny_timm",
            &set("depth", "three"),
            "expected depth in config.json to be a whole number, found \"three\"",
        ),
        ("vit_tiny_timm", &|_, config| config["depth"] = 4.into(), "the weights lack 12 of the model's 56 tensors"),
        ("vit_tiny_timm", &|_, config| config["embed_dim"] = 24.into(), "expected shape [1, 1, 24]"),
        (
            "tiny_vit_tiny",
            &|dir, _| {
                let file = dir.join("weights.safetensors");
                let bytes = std::fs::read(&file).unwrap();
                std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            },
            "was it cut short?",
        ),
    ];
    for (name, change, words) in cases {
        let reason = reason(name, change);
        assert!(reason.contains(words), "{name}: {reason}");
    }
    let Verdict::CannotRun { reason } = verdict(Path::new("/nowhere")) else { panic!("nothing is there") };
    assert!(reason.contains("a reference folder with a config.json"), "{reason}");
}
