//! Parameters, trainable parameters and multiply-accumulates of the full-size models, against counts made with timm and
//! peft (models.md §2 of the design; `counts_pypi.json` and
//! `counts_ext.json` of the reference fixtures).

mod support;

use fleet_common::plan::MethodSettings;
use fleet_common::record::BlockChoice;
use fleet_common::spec::{Backbone, is_target};
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models::{self, Model};
use fleet_worker::nn::{Builder, Param, Params, Role, Seed, Weights};
use fleet_worker::peft;
use serde_json::json;
use support::one_at_a_time;
use tch::{Device, Kind, Tensor};

fn build(backbone: Backbone, classes: i64, method: &MethodSettings) -> (Box<dyn Model>, Params) {
    let b = Builder::new(peft::method(method), None, Seed::root(1), Device::Cpu, Kind::Float);
    let model = models::build(backbone, backbone.image_size(), classes, &b).expect("a backbone that is trained");
    let (params, loaded) = b.finish().expect("builds");
    assert!(loaded.is_none());
    (model, params)
}

fn lora(rank: u32, targets: &[&str]) -> MethodSettings {
    let settings = json!({ "name": "lora", "rank": rank, "alpha": 16.0, "dropout": 0.0, "targets": targets });
    serde_json::from_value(settings).expect("settings")
}

fn adalora(targets: &[&str]) -> MethodSettings {
    let settings = json!({ "name": "adalora", "init_rank": 12, "target_rank": 8, "alpha": 16.0, "dropout": 0.0,
        "targets": targets, "tinit": 1, "tfinal": 1, "delta_t": 1, "beta1": 0.85, "beta2": 0.85,
        "orthogonal_weight": 0.5 });
    serde_json::from_value(settings).expect("settings")
}

fn qlora(targets: &[&str]) -> MethodSettings {
    let settings = json!({ "name": "qlora", "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": targets, "block": 64,
        "double_quantization": false });
    serde_json::from_value(settings).expect("settings")
}

/// Counts of a reference: with 100 and 1000 classes, tensors of the state, multiply-accumulates, and what trains.
struct Counts {
    backbone: Backbone,
    params: u64,
    params_1000: u64,
    tensors: usize,
    macs: u64,
    head: u64,
    bitfit: u64,
    adapters: &'static [Adapted],
}

/// What trains under an adapter, the head included.
enum Adapted {
    Lora(u32, &'static [&'static str], u64),
    AdaLora(&'static [&'static str], u64),
}
use Adapted::{AdaLora, Lora};

const ALL: &[&str] = &["qkv", "attn.proj", "fc1", "fc2"];
const VIM_ALL: &[&str] = &["in_proj", "x_proj", "dt_proj", "out_proj", "x_proj_b", "dt_proj_b"];
const MAMBA_VISION_ALL: &[&str] = &["qkv", "mixer.proj", "in_proj", "x_proj", "dt_proj", "out_proj", "fc1", "fc2"];

const REFERENCES: [Counts; 7] = [
    Counts {
        backbone: Backbone::VitSmallPatch16,
        params: 21_704_164,
        params_1000: 22_050_664,
        tensors: 152,
        macs: 4_598_536_704,
        head: 38_500,
        bitfit: 89_956,
        adapters: &[
            Lora(8, &["qkv"], 185_956),
            Lora(8, &["qkv", "proj"], 259_684),
            Lora(8, ALL, 628_324),
            Lora(16, &["qkv"], 333_412),
            AdaLora(ALL, 923_812),
        ],
    },
    Counts {
        backbone: Backbone::TinyVit5m,
        params: 5_103_864,
        params_1000: 5_392_764,
        tensors: 296,
        macs: 1_254_886_720,
        head: 32_100,
        bitfit: 57_764,
        adapters: &[
            Lora(8, &["qkv"], 91_492),
            Lora(8, &["qkv", "proj"], 121_188),
            Lora(8, ALL, 269_668),
            Lora(16, &["qkv"], 150_884),
            AdaLora(ALL, 388_932),
        ],
    },
    Counts {
        backbone: Backbone::TinyVit11m,
        params: 10_592_872,
        params_1000: 10_996_972,
        tensors: 296,
        macs: 2_015_642_944,
        head: 44_900,
        bitfit: 81_348,
        adapters: &[
            Lora(8, &["qkv"], 130_916),
            Lora(8, &["qkv", "proj"], 173_924),
            Lora(8, ALL, 388_964),
            Lora(16, &["qkv"], 216_932),
            AdaLora(ALL, 561_476),
        ],
    },
    Counts {
        backbone: Backbone::TinyVit21m,
        params: 20_679_268,
        params_1000: 21_198_568,
        tensors: 296,
        macs: 4_249_811_136,
        head: 57_700,
        bitfit: 109_684,
        adapters: &[
            Lora(8, &["qkv"], 180_580),
            Lora(8, &["qkv", "proj"], 242_020),
            Lora(8, ALL, 549_220),
            Lora(16, &["qkv"], 303_460),
            AdaLora(ALL, 795_460),
        ],
    },
    Counts {
        backbone: Backbone::VimTiny,
        params: 6_974_308,
        params_1000: 7_148_008,
        tensors: 415,
        macs: 1_292_544_768,
        head: 19_300,
        bitfit: 56_356,
        adapters: &[Lora(8, &["in_proj", "out_proj"], 314_212), Lora(8, VIM_ALL, 630_628)],
    },
    Counts {
        backbone: Backbone::VimSmall,
        params: 25_450_084,
        params_1000: 25_796_584,
        tensors: 415,
        macs: 4_850_898_432,
        head: 38_500,
        bitfit: 112_612,
        adapters: &[Lora(8, &["in_proj", "out_proj"], 628_324), Lora(8, VIM_ALL, 1_248_868)],
    },
    Counts {
        backbone: Backbone::MambaVisionT,
        params: 31_217_348,
        params_1000: 31_794_248,
        tensors: 252,
        macs: 4_563_934_976,
        head: 64_100,
        bitfit: 114_452,
        adapters: &[Lora(8, &["qkv", "in_proj", "out_proj"], 227_940), Lora(8, MAMBA_VISION_ALL, 702_308)],
    },
];

#[test]
fn counts_are_the_references() {
    let _alone = one_at_a_time();
    for c in &REFERENCES {
        let name = c.backbone.name();
        let (model, params) = build(c.backbone, 100, &MethodSettings::Full);
        assert_eq!((params.count(), params.count_trainable(), params.len()), (c.params, c.params, c.tensors), "{name}");
        let image = Tensor::zeros([1, 3, 224, 224], (Kind::Float, Device::Cpu));
        let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
        assert_eq!(models::count_macs(model.as_ref(), &image, &executor), c.macs, "{name}");
        assert_eq!(build(c.backbone, 1000, &MethodSettings::Full).1.count(), c.params_1000, "{name}");
        assert_eq!(build(c.backbone, 100, &MethodSettings::BitFit).1.count_trainable(), c.bitfit, "{name}");
        for adapted in c.adapters {
            let (method, trainable) = match adapted {
                Lora(rank, targets, trainable) => (lora(*rank, targets), *trainable),
                AdaLora(targets, trainable) => (adalora(targets), *trainable),
            };
            let (_, params) = build(c.backbone, 100, &method);
            assert_eq!(params.count_trainable(), trainable, "{name}, {method:?}");
            assert_eq!(params.count() - c.params, trainable - c.head, "{name}, {method:?}: head and adapters train");
        }
        // Packed weights count as what they stand for, and take at most 0.6 bytes each.
        let every: Vec<&str> = c.backbone.linear_layers().to_vec();
        let (_, dense) = build(c.backbone, 100, &lora(8, &every));
        let (_, params) = build(c.backbone, 100, &qlora(&every));
        assert_eq!((params.count_trainable(), params.count()), (dense.count_trainable(), dense.count()));
        let packed: Vec<_> = params.iter().filter_map(|p| p.packed.as_ref()).collect();
        let (bytes, values) = packed.iter().fold((0, 0), |(b, v), p| (b + p.bytes(), v + p.count()));
        assert!(bytes as f64 <= 0.6 * values as f64, "{name}: {bytes} bytes for {values} values");
        let linear = |p: &&Param| p.role == Role::Base && p.shape().len() == 2 && p.name.ends_with(".weight");
        assert!(params.iter().filter(linear).all(|p| p.packed.is_some()), "{name}: all linear layers are packed");
        assert!(packed.len() >= 4);
    }
}

/// What planning knows of a backbone and what the model is must not drift apart.
#[test]
fn plans_and_models_agree_about_every_backbone() {
    let _alone = one_at_a_time();
    for backbone in Backbone::TRAINED {
        let (model, params) = build(backbone, 8, &MethodSettings::Full);
        let side = i64::from(backbone.image_size());
        let image = Tensor::zeros([1, 3, side, side], (Kind::Float, Device::Cpu));
        let executor = CheckpointingExecutor::uniform(BlockChoice::Whole);
        assert!(models::count_macs(model.as_ref(), &image, &executor) > 0);
        assert!(!model.blocks().is_empty());
        for layer in backbone.linear_layers() {
            let adapted = build(backbone, 8, &lora(2, &[layer])).1;
            assert!(adapted.count() > params.count(), "{layer} of {} takes no adapter", backbone.name());
        }
        // And no linear layer of a block is missing from the list.
        let linear = |p: &&Param| p.role == Role::Base && p.tensor.dim() == 2 && p.name.ends_with(".weight");
        for p in params.iter().filter(linear) {
            let layer = p.name.strip_suffix(".weight").expect("a layer's name");
            assert!(backbone.linear_layers().iter().any(|l| is_target(l, layer)), "{layer} of {}", backbone.name());
        }
    }
}

#[test]
fn fresh_weights_depend_on_the_seed_and_not_on_the_method() {
    let _alone = one_at_a_time();
    let values = |seed, method: &MethodSettings| {
        let b = Builder::new(peft::method(method), None, Seed::root(seed), Device::Cpu, Kind::Float);
        let _ = models::build(Backbone::VitMicro, 64, 8, &b).expect("a backbone that is trained");
        b.finish().expect("builds").0.get("blocks.3.mlp.fc1.weight").expect("there").tensor.detach()
    };
    let full = values(1, &MethodSettings::Full);
    assert!(full.equal(&values(1, &lora(4, &["qkv"]))), "an adapter more changes no other draw");
    assert!(!full.equal(&values(2, &MethodSettings::Full)));
}

#[test]
fn a_rank_larger_than_the_layer_is_an_error_with_both_numbers() {
    let _alone = one_at_a_time();
    let b = Builder::new(peft::method(&lora(500, &["qkv"])), None, Seed::root(1), Device::Cpu, Kind::Float);
    let _ = models::build(Backbone::VitMicro, 64, 8, &b).expect("a backbone that is trained");
    let error = b.finish().expect_err("too large").to_string();
    assert!(error.contains("rank 500") && error.contains("at most 128"), "{error}");
}

#[test]
fn a_head_for_other_classes_starts_fresh_and_the_rest_is_loaded() {
    let _alone = one_at_a_time();
    let weights = || {
        let (_, params) = build(Backbone::VitMicro, 8, &MethodSettings::Full);
        Weights::from_tensors(params.iter().map(|p| (p.name.clone(), p.tensor.detach())))
    };
    let load = |fresh: bool, classes: i64| {
        let method = peft::method(&MethodSettings::BitFit);
        let mut b = Builder::new(method, Some(weights()), Seed::root(2), Device::Cpu, Kind::Float);
        if fresh {
            b = b.with_fresh_head();
        }
        let _ = models::build(Backbone::VitMicro, 64, classes, &b).expect("a backbone that is trained");
        let (params, load) = b.finish().expect("builds");
        (params.get("head.weight").expect("there").tensor.detach(), load.expect("there were weights"))
    };
    let head = ["head.weight".to_owned(), "head.bias".to_owned()];
    let (same, report) = load(false, 8);
    assert!(report.replaced.is_empty() && same.equal(weights().get("head.weight").expect("there")));
    for (fresh, classes) in [(true, 8), (false, 5)] {
        let (values, report) = load(fresh, classes);
        assert_eq!(report.replaced, head);
        assert_eq!(values.size()[0], classes);
        assert!(report.missing.is_empty() && report.unexpected.is_empty());
        assert!(classes != 8 || !values.equal(&same));
    }
}

#[test]
fn targets_that_match_nothing_are_errors_that_name_the_layers() {
    let _alone = one_at_a_time();
    for method in [lora(4, &["qkv", "in_proj"]), adalora(&["in_proj"]), qlora(&["in_proj"])] {
        let b = Builder::new(peft::method(&method), None, Seed::root(1), Device::Cpu, Kind::Float);
        let _ = models::build(Backbone::VitMicro, 64, 8, &b).expect("a backbone that is trained");
        let error = b.finish().expect_err("no such layer").to_string();
        assert!(
            error.contains("\"in_proj\" matches no linear layer") && error.contains("fc1, fc2, proj, qkv"),
            "{error}"
        );
        assert!(!error.contains("\"qkv\" matches"), "{error}");
    }
}
