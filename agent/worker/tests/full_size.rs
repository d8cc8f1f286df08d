//! What checkpointing saves at full size: ViT-Small at 224 pixels, batch 8, one full step with the optimiser.

mod support;

use fleet_common::plan::MethodSettings;
use fleet_common::record::BlockChoice;
use fleet_common::spec::Backbone;
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models;
use fleet_worker::nn::{Builder, Ctx, Seed};
use fleet_worker::peft;
use fleet_worker::torch::adamw::{AdamW, AdamWConfig};
use fleet_worker::torch::grad;
use fleet_worker::torch::memory::Memory;
use support::{one_at_a_time, same_bits};
use tch::{Device, Kind, Reduction, Tensor};

#[test]
fn static_checkpointing_takes_at_most_three_fifths_of_the_memory_and_gives_the_same_step() {
    let _alone = one_at_a_time();
    let memory = Memory::of(Device::Cpu);
    let step = |how: BlockChoice| {
        let b = Builder::new(peft::method(&MethodSettings::Full), None, Seed::root(1), Device::Cpu, Kind::Float);
        let model = models::build(Backbone::VitSmallPatch16, 224, 100, &b).expect("a backbone that is trained");
        let params = b.finish().expect("builds").0;
        let executor = CheckpointingExecutor::uniform(how);
        let trainable: Vec<Tensor> = params.trainable().map(|p| p.tensor.shallow_clone()).collect();
        let mut optimizer = AdamW::new(trainable.iter().map(Tensor::shallow_clone).collect(), AdamWConfig::default());
        tch::manual_seed(3);
        let images = Tensor::randn([8, 3, 224, 224], (Kind::Float, Device::Cpu));
        let labels = Tensor::arange(8, (Kind::Int64, Device::Cpu));
        let before = memory.stats().expect("figures").live;
        memory.reset_peak().expect("resets");
        let logits = model.forward(&images, &Ctx::train(Seed::root(2)), &executor);
        let loss = logits.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0);
        drop(logits);
        let grads = grad(&[&loss], &[None], &trainable.iter().collect::<Vec<_>>()).expect("gradients");
        optimizer.step(&grads, 1e-3).expect("a step");
        let (loss, peak) = (loss.detach(), memory.stats().expect("figures").peak);
        drop(grads);
        assert_eq!(memory.stats().expect("figures").live - before, 4, "only the loss is left of the step");
        let weights = params.get("blocks.11.mlp.fc1.weight").expect("there").tensor.detach().copy();
        (loss, weights, peak)
    };
    let (loss, weights, none) = step(BlockChoice::Keep);
    let (loss2, weights2, with) = step(BlockChoice::Whole);
    assert!(same_bits(&loss, &loss2) && same_bits(&weights, &weights2), "the same step, bit for bit");
    println!("peak: none {} MiB, static {} MiB", none >> 20, with >> 20);
    assert!(with as f64 <= 0.6 * none as f64, "static {with} of none {none}");
}
