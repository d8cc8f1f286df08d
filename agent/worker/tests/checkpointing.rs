//! Every method on every architecture computes the same with and without checkpointing, to the last bit.

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use fleet_common::plan::MethodSettings;
use fleet_common::record::BlockChoice;
use fleet_common::spec::Backbone::{TinyVit5m, VimTiny};
use fleet_common::spec::{BatchNorm, Precision};
use fleet_worker::checkpointing::{Adaptive, CheckpointingExecutor, Policy};
use fleet_worker::models::Model;
use fleet_worker::models::mamba_vision::{MambaVision, MambaVisionConfig};
use fleet_worker::models::tiny_vit::{TinyVit, TinyVitConfig};
use fleet_worker::models::vim::{Vim, VimConfig};
use fleet_worker::models::vit::{Vit, VitConfig};
use fleet_worker::nn::{Builder, Ctx, Params, Role, Seed};
use fleet_worker::peft;
use fleet_worker::torch::memory::Memory;
use fleet_worker::torch::{GradMode, grad};
use support::{max_diff, methods, one_at_a_time, same_bits};
use tch::{Device, Kind, Reduction, Tensor};

const SIDE: i64 = 64;

fn vit(b: &Builder) -> Box<dyn Model> {
    let config = VitConfig { image_size: SIDE, patch_size: 16, width: 48, depth: 3, heads: 3, ..VitConfig::micro(5) };
    Box::new(Vit::new(b, &config))
}

/// With padded, several and exact windows, and stochastic depth.
fn tiny_vit(b: &Builder) -> Box<dyn Model> {
    let config = TinyVitConfig {
        widths: vec![16, 24, 32, 48],
        depths: vec![2, 2, 2, 1],
        heads: vec![1, 2, 4, 6],
        windows: vec![5, 5, 2, 2],
        drop_path: 0.3,
        ..TinyVitConfig::preset(TinyVit5m, 5)
    };
    Box::new(TinyVit::new(b, &config))
}

/// With an odd number of patches on either side of the class token, and stochastic depth.
fn vim(b: &Builder) -> Box<dyn Model> {
    let config = VimConfig { image_size: SIDE, width: 32, depth: 3, drop_path: 0.3, ..VimConfig::preset(VimTiny, 5) };
    Box::new(Vim::new(b, &config))
}

/// With padded, several and exact windows, layer scale, and stochastic depth.
fn mamba_vision(b: &Builder) -> Box<dyn Model> {
    let config = MambaVisionConfig {
        image_size: SIDE,
        width: 8,
        stem_width: 8,
        depths: vec![1, 1, 3, 2],
        heads: vec![1, 1, 2, 4],
        windows: vec![8, 8, 3, 2],
        layer_scale: Some(0.5),
        layer_scale_conv: Some(0.5),
        drop_path: 0.3,
        ..MambaVisionConfig::tiny(5)
    };
    Box::new(MambaVision::new(b, &config))
}

type Architecture = fn(&Builder) -> Box<dyn Model>;

const ARCHITECTURES: [(&str, Architecture, &[&str]); 4] = [
    ("vit", vit, &["qkv", "proj", "fc1", "fc2"]),
    ("tiny_vit", tiny_vit, &["qkv", "proj", "fc1", "fc2"]),
    ("vim", vim, &["in_proj", "x_proj", "dt_proj", "out_proj"]),
    ("mamba_vision", mamba_vision, &["in_proj", "out_proj", "qkv", "fc1", "fc2"]),
];

fn build(architecture: Architecture, method: &MethodSettings, frozen: BatchNorm) -> (Box<dyn Model>, Params) {
    let mut b = Builder::new(peft::method(method), None, Seed::root(3), Device::Cpu, Kind::Float);
    if frozen == BatchNorm::Frozen {
        b = b.with_frozen_statistics();
    }
    let model = architecture(&b);
    let (params, _) = b.finish().expect("builds");
    // What starts at zero would hide the path behind it: an adapter's B or E, the gain of a fresh MBConv.
    for p in params.iter().filter(|p| p.role != Role::Buffer && p.packed.is_none()) {
        if p.tensor.abs().max().double_value(&[]) == 0.0 {
            let _off = GradMode::off();
            let _ = p.tensor.shallow_clone().fill_(0.05);
        }
    }
    (model, params)
}

struct Pass {
    logits: Tensor,
    grads: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
}

fn pass(model: &dyn Model, params: &Params, how: BlockChoice, precision: Precision) -> Pass {
    pass_under(model, params, &CheckpointingExecutor::uniform(how), precision)
}

fn pass_under(model: &dyn Model, params: &Params, executor: &CheckpointingExecutor, precision: Precision) -> Pass {
    let images = support::uniform(7, &[3, 3, SIDE, SIDE]).to_kind(Kind::Float);
    let labels = Tensor::from_slice(&[0i64, 4, 2]);
    let logits = model.forward(&images, &Ctx::train(Seed::root(5)).with_precision(precision), executor);
    let loss = logits.to_kind(Kind::Float).cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0);
    let targets: Vec<&Tensor> = params.trainable().map(|p| &p.tensor).collect();
    let grads = grad(&[&loss], &[None], &targets).expect("gradients");
    let named = params.trainable().zip(grads);
    let buffers = params.iter().filter(|p| p.role == Role::Buffer);
    Pass {
        logits: logits.detach(),
        grads: named.map(|(p, g)| (p.name.clone(), g.unwrap_or_else(|| panic!("{}: no gradient", p.name)))).collect(),
        buffers: buffers.map(|p| (p.name.clone(), p.tensor.copy())).collect(),
    }
}

fn same(a: &Pass, b: &Pass, what: &str) {
    assert!(same_bits(&a.logits, &b.logits), "{what}: logits differ by {}", max_diff(&a.logits, &b.logits));
    for ((name, a), (_, b)) in a.grads.iter().zip(&b.grads).chain(a.buffers.iter().zip(&b.buffers)) {
        assert!(same_bits(a, b), "{what}: {name} differs by {}", max_diff(a, b));
    }
}

#[test]
fn checkpointing_changes_no_bit() {
    let _alone = one_at_a_time();
    for (name, architecture, targets) in ARCHITECTURES {
        for method in methods(targets) {
            for precision in [Precision::Fp32, Precision::Bf16] {
                let run = |how| {
                    let (model, params) = build(architecture, &method, BatchNorm::Moving);
                    pass(model.as_ref(), &params, how, precision)
                };
                let plain = run(BlockChoice::Keep);
                let what = format!("{name}, {}, {}", method.method().name(), precision.name());
                for how in [BlockChoice::Cheap, BlockChoice::Whole, BlockChoice::WholeCheap] {
                    same(&plain, &run(how), &format!("{what}, {}", how.name()));
                }
                for (name, gradient) in &plain.grads {
                    assert!(gradient.abs().max().double_value(&[]) > 0.0, "{what}: the gradient of {name} is zero");
                }
            }
        }
    }
}

/// Keeps everything, and notes what is in use in front of each block.
struct Probe(Rc<RefCell<Vec<u64>>>);

impl Policy for Probe {
    fn choose(&mut self, _index: usize, _xs: &[Tensor]) -> BlockChoice {
        self.0.borrow_mut().push(Memory::of(Device::Cpu).stats().expect("counted").live);
        BlockChoice::Keep
    }
}

/// The adaptive strategy with what is in use in front of the middle block as its threshold: that one and all later ones
/// run again, and nothing else changes.
#[test]
fn adaptive_checkpointing_recomputes_from_the_threshold_on_and_changes_no_bit() {
    let _alone = one_at_a_time();
    let _counting = Memory::of(Device::Cpu); // before the first tensor
    for (name, architecture, targets) in ARCHITECTURES {
        for method in methods(targets) {
            let what = format!("{name}, {}", method.method().name());
            let (model, params) = build(architecture, &method, BatchNorm::Moving);
            let plain = pass(model.as_ref(), &params, BlockChoice::Keep, Precision::Fp32);
            let in_use = Rc::new(RefCell::new(Vec::new()));
            let probe = CheckpointingExecutor::with(Box::new(Probe(in_use.clone())));
            let _ = pass_under(model.as_ref(), &params, &probe, Precision::Fp32);
            drop((model, params));

            let (model, params) = build(architecture, &method, BatchNorm::Moving);
            let (in_use, blocks) = (in_use.borrow(), model.blocks().len());
            let middle = blocks / 2;
            assert!(in_use[middle - 1] < in_use[middle], "{what}: a block keeps nothing");
            let threshold = in_use[middle];
            let executor = CheckpointingExecutor::with(Box::new(Adaptive::new(Device::Cpu, threshold)));
            let adaptive = pass_under(model.as_ref(), &params, &executor, Precision::Fp32);
            same(&plain, &adaptive, &what);
            assert_eq!(executor.recomputed_blocks(), (middle as u32..blocks as u32).collect::<Vec<_>>(), "{what}");
        }
    }
}

#[test]
fn adaptive_checkpointing_decides_anew_in_each_step() {
    let _alone = one_at_a_time();
    let memory = Memory::of(Device::Cpu);
    let (model, params) = build(vit, &MethodSettings::Full, BatchNorm::Moving);
    let threshold = memory.stats().expect("counted").live + (64 << 20);
    let executor = CheckpointingExecutor::with(Box::new(Adaptive::new(Device::Cpu, threshold)));
    let ballast = Tensor::zeros([64 << 20], (Kind::Uint8, Device::Cpu));
    let _ = pass_under(model.as_ref(), &params, &executor, Precision::Fp32);
    assert_eq!(executor.recomputed_blocks(), [0, 1, 2], "the memory in use is above the threshold from the start");
    drop(ballast);
    let _ = pass_under(model.as_ref(), &params, &executor, Precision::Fp32);
    assert!(executor.recomputed_blocks().is_empty(), "and never reaches it in the next step");
}

#[test]
fn statistics_move_once_per_step_or_not_at_all() {
    let _alone = one_at_a_time();
    for method in methods(ARCHITECTURES[1].2) {
        for (how, norm) in [
            (BlockChoice::Keep, BatchNorm::Moving),
            (BlockChoice::Whole, BatchNorm::Moving),
            (BlockChoice::Whole, BatchNorm::Frozen),
        ] {
            let (model, params) = build(tiny_vit, &method, norm);
            let before: Vec<Tensor> = params.iter().map(|p| p.tensor.detach().copy()).collect();
            let expected = i64::from(norm == BatchNorm::Moving);
            let after = pass(model.as_ref(), &params, how, Precision::Fp32);
            for (name, value) in &after.buffers {
                let place = params.iter().position(|p| p.name == *name).expect("a buffer");
                if name.ends_with("num_batches_tracked") {
                    assert_eq!(value.int64_value(&[]), expected, "{name} under {method:?}, {how:?}");
                } else {
                    assert_eq!(!same_bits(value, &before[place]), norm == BatchNorm::Moving, "{name}, {how:?}");
                }
            }
            // Evaluation moves nothing.
            let _off = GradMode::off();
            let images = support::uniform(7, &[2, 3, SIDE, SIDE]).to_kind(Kind::Float);
            let executor = CheckpointingExecutor::uniform(how);
            let one = model.forward(&images, &Ctx::eval(), &executor);
            assert!(same_bits(&one, &model.forward(&images, &Ctx::eval(), &executor)));
        }
    }
}

#[test]
fn frozen_statistics_are_those_that_normalise() {
    let _alone = one_at_a_time();
    let method = MethodSettings::BitFit;
    let (model, params) = build(tiny_vit, &method, BatchNorm::Frozen);
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let images = support::uniform(7, &[2, 3, SIDE, SIDE]).to_kind(Kind::Float);
    let _off = GradMode::off();
    let eval = model.forward(&images, &Ctx::eval(), &executor);
    for p in params.iter().filter(|p| p.name.ends_with("running_mean")) {
        let _ = p.tensor.shallow_clone().fill_(0.5);
    }
    assert!(!same_bits(&eval, &model.forward(&images, &Ctx::eval(), &executor)));
}

#[test]
fn half_precision_computes_nearly_the_same_with_less_memory() {
    let _alone = one_at_a_time();
    let (model, params) = build(vit, &MethodSettings::Full, BatchNorm::Moving);
    let exact = pass(model.as_ref(), &params, BlockChoice::Keep, Precision::Fp32);
    let low = pass(model.as_ref(), &params, BlockChoice::Keep, Precision::Bf16);
    assert_eq!(low.logits.kind(), Kind::BFloat16);
    // bfloat16 has 8 bits: a few parts in 256 of the logits' size.
    let scale = exact.logits.abs().max().double_value(&[]);
    let difference = max_diff(&exact.logits, &low.logits.to_kind(Kind::Float));
    assert!(difference > 0.0 && difference < 0.05 * scale, "{difference} of {scale}");
    for ((name, a), (_, b)) in exact.grads.iter().zip(&low.grads) {
        assert_eq!(b.kind(), Kind::Float, "{name}: gradients are of the parameters' own precision");
        let cosine = (a * b).sum(Kind::Float) / (a.norm() * b.norm() + 1e-12);
        // The key part of the bias has an exact gradient of zero; the rest of that tensor carries the direction.
        assert!(cosine.double_value(&[]) > 0.95, "{name}: {cosine:?}");
    }
}
