//! What planning estimates of a training step's memory, against what the allocator counts.

mod support;

use std::rc::Rc;

use fleet_common::memory::estimate;
use fleet_common::plan::{CellSettings, MethodSettings};
use fleet_common::record::BlockChoice;
use fleet_common::spec::{Backbone, Checkpointing, DatasetName, MethodSpecs, Precision};
use fleet_common::units::Bytes;
use fleet_worker::checkpointing::{Adaptive, CheckpointingExecutor, Policy, Uniform};
use fleet_worker::models::{self, Model};
use fleet_worker::nn::{Builder, Ctx, Params, Seed};
use fleet_worker::peft::{self, Method, Schedule};
use fleet_worker::torch::adamw::{AdamW, AdamWConfig};
use fleet_worker::torch::grad;
use fleet_worker::torch::memory::Memory;
use serde_json::json;
use support::one_at_a_time;
use tch::{Device, Kind, Reduction, Tensor};

const CLASSES: u32 = 100;

fn settings(backbone: Backbone, method: &MethodSettings, side: u32, batch: u32, how: Checkpointing) -> CellSettings {
    serde_json::from_value(json!({
        "definition": 2, "method": method, "backbone": backbone.name(), "image_size": side, "checkpointing": how.name(),
        "dataset": { "name": "textures", "fingerprint": "ab", "classes": CLASSES }, "weights": { "from": "scratch" },
        "seed": 3, "budget_bytes": null,
        "train": { "steps": 100, "warm_up_steps": 2, "batch": batch, "learning_rate": 0.003, "weight_decay": 0.05,
                   "sampling": "shuffle", "augment": true },
        "evaluate": { "batch": 1 }
    }))
    .expect("settings")
}

/// A model with its optimiser, as the training loop has them.
struct Built {
    model: Box<dyn Model>,
    params: Params,
    method: Rc<dyn Method>,
    trainable: Vec<Tensor>,
    optimizer: AdamW,
    schedule: Option<Box<dyn Schedule>>,
    /// Bytes that tensors held before it was there.
    empty: u64,
    /// Bytes that it holds.
    persistent: u64,
}

fn live() -> u64 {
    Memory::of(Device::Cpu).stats().expect("counted").live
}

impl Built {
    fn new(settings: &CellSettings) -> Self {
        let empty = live();
        let method = peft::method(&settings.method);
        let b = Builder::new(method.clone(), None, Seed::root(1), Device::Cpu, Kind::Float);
        let model = models::build(settings.backbone, settings.image_size, i64::from(settings.dataset.classes), &b)
            .expect("a backbone that is trained");
        let params = b.finish().expect("builds").0;
        let trainable: Vec<Tensor> = params.trainable().map(|p| p.tensor.shallow_clone()).collect();
        let optimizer = AdamW::new(trainable.iter().map(Tensor::shallow_clone).collect(), AdamWConfig::default());
        let schedule = method.schedule(&params, settings.train.as_ref().expect("it trains").steps);
        let persistent = live() - empty;
        Self { model, params, method, trainable, optimizer, schedule, empty, persistent }
    }

    /// The peak of one step, as the training loop makes it.
    fn step(&mut self, settings: &CellSettings) -> u64 {
        let memory = Memory::of(Device::Cpu);
        let policy: Box<dyn Policy> = match settings.budget_bytes.and_then(|b| settings.adaptive_threshold(b)) {
            Some(threshold) => Box::new(Adaptive::new(Device::Cpu, threshold)),
            None if settings.checkpointing == Checkpointing::None => Box::new(Uniform(BlockChoice::Keep)),
            None => Box::new(Uniform(BlockChoice::Whole)),
        };
        let executor = CheckpointingExecutor::with(policy);
        let parts = settings.train.as_ref().expect("it trains").micro_batches;
        let (batch, side) =
            (i64::from(settings.train.as_ref().expect("it trains").batch / parts), i64::from(settings.image_size));
        memory.reset_peak().expect("resets");
        let mut sums: Option<Vec<Option<Tensor>>> = None;
        for _ in 0..parts {
            let loss = {
                let images = Tensor::ones([batch, 3, side, side], (Kind::Float, Device::Cpu));
                let labels = Tensor::zeros([batch], (Kind::Int64, Device::Cpu));
                let ctx =
                    Ctx::train(Seed::root(2)).with_precision(settings.train.as_ref().expect("it trains").precision);
                let logits = self.model.forward(&images, &ctx, &executor).to_kind(Kind::Float);
                let entropy = logits.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0);
                match self.method.penalty(&self.params) {
                    Some(penalty) => entropy + penalty,
                    None => entropy,
                }
            };
            let grads = grad(&[&loss], &[None], &self.trainable.iter().collect::<Vec<_>>()).expect("gradients");
            drop(loss);
            sums.get_or_insert(grads);
        }
        let grads = sums.expect("at least one part");
        self.optimizer.step(&grads, 1e-3).expect("a step");
        if let Some(schedule) = &mut self.schedule {
            schedule.after_step(1, &self.params, &grads);
        }
        memory.stats().expect("counted").peak - self.empty
    }
}

fn methods(backbone: Backbone) -> Vec<MethodSettings> {
    let names = ["full", "lora", "bitfit", "qlora", "adalora"];
    let method = |name: &str| serde_json::from_value(json!(name)).expect("a method");
    let resolve = |name| {
        MethodSettings::resolve(method(name), backbone, &DatasetName::Dtd, &MethodSpecs::default()).expect("settings")
    };
    names.map(resolve).into()
}

/// Images and their side: small enough to be quick, large enough that activations count.
const CASES: [(Backbone, u32, u32); 5] = [
    (Backbone::VitMicro, 64, 16),
    (Backbone::VitTinyPatch16, 224, 4),
    (Backbone::TinyVit5m, 224, 2),
    (Backbone::VimTiny, 224, 2),
    (Backbone::MambaVisionT, 224, 2),
];

const HEADER: &str =
    "backbone, side, batch, method, checkpointing: persistent measured; peak measured, estimated, off by";

/// Measures a step, prints a line of the table, and asserts what holds for every line.
fn compare(built: &mut Built, settings: &CellSettings, remark: &str) {
    let (peak, estimated) = (built.step(settings), estimate(settings));
    let off = 100.0 * (estimated.peak_bytes as f64 / peak as f64 - 1.0);
    let line = format!(
        "{:22} {:3} {:2} {:8} {:8} {:>9}; {:>9} {:>9} {off:+5.1} % {remark}",
        settings.backbone.name(),
        settings.image_size,
        settings.train.as_ref().expect("it trains").batch,
        settings.method.method().name(),
        settings.checkpointing.name(),
        Bytes(built.persistent).to_string(),
        Bytes(peak).to_string(),
        Bytes(estimated.peak_bytes).to_string(),
    );
    println!("{line}");
    let counts = (built.params.count(), built.params.count_trainable());
    assert_eq!((estimated.parameters, estimated.trainable), counts, "{line}");
    assert_eq!(estimated.persistent_bytes, built.persistent, "{line}");
    assert!(off.abs() <= 10.0, "{line}");
}

fn trained(settings: &mut CellSettings) -> &mut fleet_common::plan::TrainSettings {
    settings.train.as_mut().expect("it trains")
}

#[test]
fn estimates_are_near_what_is_measured() {
    let _alone = one_at_a_time();
    println!("{HEADER}");
    for (backbone, side, batch) in CASES {
        for method in methods(backbone) {
            let of = |how| settings(backbone, &method, side, batch, how);
            let mut built = Built::new(&of(Checkpointing::None));
            for how in [Checkpointing::None, Checkpointing::Static] {
                compare(&mut built, &of(how), "");
            }
        }
    }
}

/// What the table above leaves at its usual value: parts of a batch, half precision, one image, padded windows, dropout
/// on an adapter's input, the adaptive strategy.
#[test]
fn other_settings_change_the_estimate_as_they_change_the_step() {
    let _alone = one_at_a_time();
    println!("{HEADER}");
    for (backbone, side, batch) in [
        (Backbone::VitMicro, 64, 8),
        (Backbone::TinyVit5m, 64, 4),
        (Backbone::VimTiny, 64, 4),
        (Backbone::MambaVisionT, 64, 4),
    ] {
        let methods = methods(backbone);
        for method in &methods[..2] {
            let usual = |batch, how| settings(backbone, method, side, batch, how);
            let mut built = Built::new(&usual(batch, Checkpointing::None));
            for how in [Checkpointing::None, Checkpointing::Static] {
                let mut parts = usual(batch, how);
                trained(&mut parts).micro_batches = 4;
                compare(&mut built, &parts, "in 4 parts");
                let mut low = usual(batch, how);
                trained(&mut low).precision = Precision::Bf16;
                compare(&mut built, &low, "bf16");
                // A batch norm over one pixel of one image has nothing to normalise.
                if side > 64 || backbone == Backbone::VitMicro || backbone == Backbone::VimTiny {
                    compare(&mut built, &usual(1, how), "one image");
                }
            }
            // From about the middle on, whatever the weights take.
            let mut adaptive = usual(batch, Checkpointing::Adaptive);
            let kept = estimate(&adaptive);
            adaptive.budget_bytes = Some(kept.persistent_bytes + kept.peak_none_bytes);
            adaptive.adaptive_ratio = Some(0.45);
            compare(&mut built, &adaptive, "adaptive");
        }
    }
}
