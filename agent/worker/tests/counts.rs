//! Parameters, trainable parameters and multiply-accumulates of the full-size models, against counts made with timm and
//! peft (models.md §2 of the design; `counts_pypi.json` of the reference fixtures).

mod support;

use fleet_common::plan::MethodSettings;
use fleet_common::spec::{Backbone, Checkpointing};
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models::{self, Model};
use fleet_worker::nn::{Builder, Params, Seed, Weights};
use fleet_worker::peft;
use support::one_at_a_time;
use tch::{Device, Kind, Tensor};

fn build(backbone: Backbone, classes: i64, method: &MethodSettings) -> (Box<dyn Model>, Params) {
    let b = Builder::new(peft::method(method), None, Seed::root(1), Device::Cpu, Kind::Float);
    let model = models::build(backbone, backbone.image_size(), classes, &b);
    let (params, loaded) = b.finish().expect("builds");
    assert!(loaded.is_none());
    (model, params)
}

fn lora(rank: u32, targets: &[&str]) -> MethodSettings {
    let targets = targets.iter().map(|t| (*t).to_owned()).collect();
    MethodSettings::Lora { rank, alpha: 16.0, dropout: 0.0, targets }
}

#[test]
fn vit_small_has_the_reference_counts() {
    let _alone = one_at_a_time();
    let (model, params) = build(Backbone::VitSmallPatch16, 100, &MethodSettings::Full);
    assert_eq!((params.count(), params.count_trainable(), params.len()), (21_704_164, 21_704_164, 152));
    let image = Tensor::zeros([1, 3, 224, 224], (Kind::Float, Device::Cpu));
    let executor = CheckpointingExecutor::new(Checkpointing::None);
    assert_eq!(models::count_macs(model.as_ref(), &image, &executor), 4_598_536_704);
    assert_eq!(build(Backbone::VitSmallPatch16, 1000, &MethodSettings::Full).1.count(), 22_050_664);
    for (method, trainable) in [
        (MethodSettings::BitFit, 89_956),
        (lora(8, &["qkv"]), 185_956),
        (lora(8, &["qkv", "proj"]), 259_684),
        (lora(8, &["qkv", "proj", "fc1", "fc2"]), 628_324),
        (lora(16, &["qkv"]), 333_412),
    ] {
        let (_, params) = build(Backbone::VitSmallPatch16, 100, &method);
        assert_eq!(params.count_trainable(), trainable, "{method:?}");
        let adapters = params.count() - 21_704_164;
        let base_trains = if method == MethodSettings::BitFit { 89_956 } else { 38_500 };
        assert_eq!(params.count_trainable(), base_trains + adapters, "{method:?}");
    }
}

/// What planning knows of a backbone and what the model is must not drift apart.
#[test]
fn plans_and_models_agree_about_every_backbone() {
    let _alone = one_at_a_time();
    for backbone in Backbone::ALL {
        let (model, params) = build(backbone, 8, &MethodSettings::Full);
        let side = i64::from(backbone.image_size());
        let image = Tensor::zeros([1, 3, side, side], (Kind::Float, Device::Cpu));
        let executor = CheckpointingExecutor::new(Checkpointing::Static);
        assert!(models::count_macs(model.as_ref(), &image, &executor) > 0);
        assert!(!model.blocks().is_empty());
        for layer in backbone.linear_layers() {
            let adapted = build(backbone, 8, &lora(2, &[layer])).1;
            assert!(adapted.count() > params.count(), "{layer} of {} takes no adapter", backbone.name());
        }
        // And no linear layer of a block is missing from the list.
        let inside = |name: &str| name.starts_with("blocks.") && name.ends_with(".weight") && !name.contains("norm");
        for p in params.iter().filter(|p| inside(&p.name)) {
            let layer = p.name.rsplit('.').nth(1).expect("a layer's name");
            assert!(backbone.linear_layers().contains(&layer), "{} of {}", p.name, backbone.name());
        }
    }
}

#[test]
fn fresh_weights_depend_on_the_seed_and_not_on_the_method() {
    let _alone = one_at_a_time();
    let values = |seed, method: &MethodSettings| {
        let b = Builder::new(peft::method(method), None, Seed::root(seed), Device::Cpu, Kind::Float);
        let _ = models::build(Backbone::VitMicro, 64, 8, &b);
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
    let _ = models::build(Backbone::VitMicro, 64, 8, &b);
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
        let _ = models::build(Backbone::VitMicro, 64, classes, &b);
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
