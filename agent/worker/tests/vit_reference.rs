//! The ViT, its methods and the optimiser against timm and HF PEFT.

mod support;

use std::cell::RefCell;

use fleet_common::plan::MethodSettings;
use fleet_common::spec::Checkpointing;
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models::Model;
use fleet_worker::models::vit::{Vit, VitConfig};
use fleet_worker::nn::{Builder, Ctx, Executor, Params, Role, Seed, Slot};
use fleet_worker::peft;
use fleet_worker::torch::adamw::{AdamW, AdamWConfig};
use fleet_worker::torch::{GradMode, grad};
use support::fixture::{Fixture, relative_error};
use support::{max_diff, one_at_a_time, same_bits};
use tch::{Device, Kind, Reduction, Tensor};

fn config(f: &Fixture) -> VitConfig {
    VitConfig {
        image_size: f.int("img_size"),
        patch_size: f.int("patch_size"),
        width: f.int("embed_dim"),
        depth: f.int("depth"),
        heads: f.int("num_heads"),
        mlp_ratio: 4,
        classes: f.int("num_classes"),
        norm_eps: 1e-6,
    }
}

fn build(f: &Fixture, method: &MethodSettings, kind: Kind) -> (Vit, Params) {
    let b = Builder::new(peft::method(method), Some(f.weights()), Seed::root(1), Device::Cpu, kind);
    let vit = Vit::new(&b, &config(f));
    let (params, load) = b.finish().expect("builds");
    let load = load.expect("weights were given");
    assert!(load.missing.is_empty() && load.unexpected.is_empty() && load.replaced.is_empty(), "{load:?}");
    (vit, params)
}

fn loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
}

/// Keeps every block's output.
struct Observer(RefCell<Vec<Tensor>>);

impl Executor for Observer {
    fn run(&self, blocks: &[Slot], mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        for block in blocks {
            xs = block.forward(&xs, ctx);
            self.0.borrow_mut().push(xs[0].shallow_clone());
        }
        xs
    }
}

#[test]
fn eval_outputs_match_timm_block_by_block() {
    let _alone = one_at_a_time();
    let f = Fixture::open("vit_tiny_timm");
    let (vit, _) = build(&f, &MethodSettings::Full, Kind::Float);
    let _off = GradMode::off();
    let observer = Observer(RefCell::default());
    let input = f.io("input");
    assert!(max_diff(&vit.features(&input, &Ctx::eval(), &observer), &f.io("eval.features")) < 1e-5);
    for (i, output) in observer.0.borrow().iter().enumerate() {
        assert!(max_diff(output, &f.io(&format!("eval.stage.blocks.{i}"))) < 1e-5, "block {i}");
    }
    let logits = vit.forward(&input, &Ctx::eval(), &observer);
    assert!(max_diff(&logits, &f.io("eval.logits")) < 1e-5);
}

#[test]
fn in_double_precision_the_logits_agree_to_ten_digits() {
    let _alone = one_at_a_time();
    let f = Fixture::open("vit_tiny_timm");
    let (vit, _) = build(&f, &MethodSettings::Full, Kind::Double);
    let _off = GradMode::off();
    let executor = CheckpointingExecutor::new(Checkpointing::None);
    let logits = vit.forward(&f.io("input").to_kind(Kind::Double), &Ctx::eval(), &executor);
    assert!(max_diff(&logits, &f.io("eval.logits_f64")) < 1e-10);
}

/// Loss, logits and gradients of one training pass.
fn training_pass(
    vit: &Vit,
    params: &Params,
    f: &Fixture,
    how: Checkpointing,
) -> (Tensor, Tensor, Vec<(String, Tensor)>) {
    let executor = CheckpointingExecutor::new(how);
    let logits = vit.forward(&f.io("input"), &Ctx::train(Seed::root(5)), &executor);
    let loss = loss(&logits, &f.io("labels"));
    let targets: Vec<&Tensor> = params.trainable().map(|p| &p.tensor).collect();
    let grads = grad(&[&loss], &[None], &targets).expect("gradients");
    let named = params
        .trainable()
        .zip(grads)
        .map(|(p, g)| (p.name.clone(), g.unwrap_or_else(|| panic!("{} got no gradient", p.name))))
        .collect();
    (loss.detach(), logits.detach(), named)
}

#[test]
fn gradients_match_timm_with_and_without_checkpointing() {
    let _alone = one_at_a_time();
    let f = Fixture::open("vit_tiny_timm");
    let (vit, params) = build(&f, &MethodSettings::Full, Kind::Float);
    for how in Checkpointing::ALL {
        let (loss, logits, grads) = training_pass(&vit, &params, &f, how);
        assert!(max_diff(&logits, &f.io("train.logits")) < 1e-5);
        assert!((loss.double_value(&[]) - f.config["train_loss"].as_f64().expect("a loss")).abs() < 1e-5);
        let mut compared = 0;
        for (name, got) in &grads {
            let norm = f.config["grad_norms"][name].as_f64().unwrap_or_else(|| panic!("no norm of {name}"));
            let got_norm = got.norm().double_value(&[]);
            assert!((got_norm - norm).abs() < 1e-4 * norm + 1e-6, "norm of {name}: {got_norm} against {norm}");
        }
        for (name, reference) in f.io_under("grad.") {
            let got = &grads.iter().find(|(n, _)| *n == name).expect("a gradient").1;
            assert!(relative_error(got, &reference, 1e-6) < 1e-4, "{name}");
            compared += 1;
        }
        assert!(compared >= 10, "the fixture holds gradients");
    }
}

fn lora() -> MethodSettings {
    MethodSettings::Lora { rank: 4, alpha: 8.0, dropout: 0.0, targets: vec!["qkv".to_owned()] }
}

#[test]
fn checkpointing_changes_no_bit_under_any_method() {
    let _alone = one_at_a_time();
    let f = Fixture::open("vit_tiny_timm");
    let dropout =
        MethodSettings::Lora { rank: 4, alpha: 8.0, dropout: 0.3, targets: vec!["qkv".to_owned(), "fc2".to_owned()] };
    for method in [MethodSettings::Full, lora(), dropout, MethodSettings::BitFit] {
        let (vit, params) = build(&f, &method, Kind::Float);
        // LoRA's B starts at zero, which would hide the adapter's path.
        for p in params.iter().filter(|p| p.name.ends_with("lora_B.weight")) {
            let _off = GradMode::off();
            let _ = p.tensor.shallow_clone().fill_(0.02);
        }
        let (loss, logits, grads) = training_pass(&vit, &params, &f, Checkpointing::None);
        let (loss2, logits2, grads2) = training_pass(&vit, &params, &f, Checkpointing::Static);
        assert!(same_bits(&loss, &loss2) && same_bits(&logits, &logits2), "{method:?}");
        assert_eq!(grads.len(), grads2.len());
        for ((name, a), (_, b)) in grads.iter().zip(&grads2) {
            assert!(same_bits(a, b), "{method:?}: gradient of {name} differs by {}", max_diff(a, b));
            assert!(a.abs().max().double_value(&[]) > 0.0, "{method:?}: gradient of {name} is zero");
        }
    }
}

/// The parameter's name in PEFT's model: adapters are called "default" there.
fn peft_name(name: &str) -> String {
    name.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.weight", "lora_B.default.weight")
}

fn head_size(params: &Params) -> i64 {
    params.iter().filter(|p| p.role == Role::Head).map(|p| p.tensor.numel() as i64).sum()
}

fn trace(name: &str, method: &MethodSettings) {
    let f = Fixture::open(name);
    for how in Checkpointing::ALL {
        let (vit, params) = build(&f, method, Kind::Float);
        let trainable: Vec<_> = params.trainable().collect();
        let mut names: Vec<String> = trainable.iter().map(|p| peft_name(&p.name)).collect();
        let mut expected: Vec<String> =
            f.config["trainable"].as_array().expect("names").iter().map(|n| n.as_str().expect("text").into()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "what trains");
        assert_eq!(params.count_trainable() as i64, f.int("trainable_params"));
        // PEFT keeps the frozen original of the head beside the copy that trains; we have one head.
        let copies = if matches!(method, MethodSettings::Lora { .. }) { head_size(&params) } else { 0 };
        assert_eq!(params.count() as i64 + copies, f.int("total_params"));
        for p in &trainable {
            let _off = GradMode::off();
            p.tensor.shallow_clone().copy_(&f.io(&format!("init.{}", peft_name(&p.name))));
        }

        let args = &f.config["optimizer_args"];
        let number = |key: &str| args[key].as_f64().expect(key);
        let config = AdamWConfig {
            beta1: args["betas"][0].as_f64().expect("beta1"),
            beta2: args["betas"][1].as_f64().expect("beta2"),
            eps: number("eps"),
            weight_decay: number("weight_decay"),
        };
        let mut optimizer = AdamW::new(trainable.iter().map(|p| p.tensor.shallow_clone()).collect(), config);
        let executor = CheckpointingExecutor::new(how);
        let (input, labels) = (f.io("input"), f.io("labels"));
        let forward = || vit.forward(&input, &Ctx::train(Seed::root(0)), &executor);
        for (step, reference) in f.floats("losses").into_iter().enumerate() {
            let logits = forward();
            if step == 0 {
                assert!(max_diff(&logits, &f.io("step1.logits")) < 1e-5);
            }
            let loss = loss(&logits, &labels);
            let value = loss.double_value(&[]);
            assert!((value - reference).abs() < 1e-4, "{name}, step {step}: loss {value} against {reference}");
            let targets: Vec<&Tensor> = trainable.iter().map(|p| &p.tensor).collect();
            let grads = grad(&[&loss], &[None], &targets).expect("gradients");
            if step == 0 {
                for (p, g) in trainable.iter().zip(&grads) {
                    let reference = f.config["grad_norms_step1"][peft_name(&p.name)].as_f64().expect("a norm");
                    let norm = g.as_ref().map_or(0.0, |g| g.norm().double_value(&[]));
                    assert!((norm - reference).abs() < 1e-4 * reference + 1e-6, "{}: {norm} {reference}", p.name);
                }
            }
            optimizer.step(&grads, number("lr")).expect("a step");
        }
        let final_loss = loss(&forward(), &labels).double_value(&[]);
        assert!((final_loss - f.config["final_loss"].as_f64().expect("a loss")).abs() < 1e-4);
        assert!(max_diff(&forward(), &f.io("final.logits")) < 1e-4);
        let width = f.int("embed_dim");
        for p in &trainable {
            let (mut got, mut reference) = (p.tensor.shallow_clone(), f.io(&format!("final.{}", peft_name(&p.name))));
            if p.name.ends_with("attn.qkv.bias") {
                // The key part's exact gradient is zero; AdamW amplifies the noise (the fixture's `not_comparable`).
                let without_keys = |t: &Tensor| Tensor::cat(&[t.narrow(0, 0, width), t.narrow(0, 2 * width, width)], 0);
                (got, reference) = (without_keys(&got), without_keys(&reference));
            }
            let difference = max_diff(&got, &reference);
            assert!(difference < 1e-4, "{name}: final {} differs by {difference}", p.name);
        }
    }
}

#[test]
fn full_fine_tuning_follows_the_reference_trace() {
    let _alone = one_at_a_time();
    trace("train_full_adamw", &MethodSettings::Full);
}

#[test]
fn lora_follows_the_peft_trace() {
    let _alone = one_at_a_time();
    trace("peft_lora_qkv", &lora());
}

#[test]
fn bitfit_follows_the_reference_trace() {
    let _alone = one_at_a_time();
    trace("peft_bitfit", &MethodSettings::BitFit);
}
