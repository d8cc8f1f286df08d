//! Models that are not trained, at their public sizes with random weights: images per second of the encoders, and what scoring
//! class names behind one prompt saves beside asking about each class by itself.
//!
//! `cargo bench -p fleet-worker --bench frozen`, or as a part of `make bench`.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use fleet_common::record::BlockChoice;
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models::config;
use fleet_worker::models::dinov2::{Dinov2, Dinov2Config, Dinov2Names};
use fleet_worker::models::siglip::Siglip;
use fleet_worker::models::smolvlm::{SmolVlm, SmolVlmConfig};
use fleet_worker::models::vlm::{Vlm, read};
use fleet_worker::nn::{Builder, Ctx, Seed};
use fleet_worker::peft::Frozen;
use fleet_worker::torch::GradMode;
use fleet_worker::torch::memory::Memory;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const EVAL: Ctx<'static> = Ctx::eval();
/// Classes of the Describable Textures.
const CLASSES: i64 = 47;
/// Tokens of a class's name, about.
const NAME: i64 = 3;
/// Tokens of the question: a list of the classes, and what is asked.
const QUESTION: i64 = 190;

fn builder() -> Builder {
    Builder::new(Rc::new(Frozen::default()), None, Seed::root(1), Device::Cpu, Kind::Float)
}

/// Seconds of the fastest of three.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let time = |()| {
        let from = Instant::now();
        run();
        from.elapsed().as_secs_f64()
    };
    [(); 3].map(time).into_iter().fold(f64::INFINITY, f64::min)
}

fn main() {
    let _off = GradMode::off();
    let _memory = Memory::of(Device::Cpu);
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    println!("{} threads", tch::get_num_threads());
    println!("| encoder | batch | images/s |\n|---|---|---|");
    let images = Tensor::rand([8, 3, 224, 224], (Kind::Float, Device::Cpu));
    let dinov2 = Dinov2::new(&builder(), Dinov2Names::Hf, &Dinov2Config::SMALL);
    let seconds = fastest(|| drop(black_box(dinov2.forward(&images, &EVAL, &executor))));
    println!("| DINOv2 ViT-S/14 | 8 | {:.2} |", 8.0 / seconds);
    let sizes = config::siglip(&Value::Null);
    let siglip = Siglip::new(&builder(), &sizes.vision, &sizes.text);
    let seconds = fastest(|| drop(black_box(siglip.encode_images(&images, &EVAL, &executor))));
    println!("| SigLIP base/16 | 8 | {:.2} |", 8.0 / seconds);
    drop((dinov2, siglip));

    let model = SmolVlm::new(&builder(), &SmolVlmConfig::m256());
    let tile = Tensor::rand([1, 3, 512, 512], (Kind::Float, Device::Cpu));
    let question = Tensor::randint(49_000, [1, QUESTION], (Kind::Int64, Device::Cpu));
    let answers: Vec<Vec<i64>> = (0..CLASSES).map(|c| (0..NAME).map(|t| 100 + c * NAME + t).collect()).collect();
    let prompt = || {
        let image = model.image_tokens(&tile, &EVAL, &executor);
        let x = Tensor::cat(&[image, model.decoder().embed(&question)], 1);
        read(&model, x, &EVAL)
    };
    let shared = fastest(|| drop(black_box(prompt().scores(&model, &answers, &EVAL))));
    // Asking about each class: the image and the question again, and as many tokens as the name has.
    let one = fastest(|| drop(black_box(prompt().answers(&model, NAME as usize, &[], &EVAL))));
    let apart = one * CLASSES as f64;
    println!(
        "\nSmolVLM-256M, one image of one tile, {CLASSES} classes: scored behind one prompt in {shared:.2} s, asked about each by itself in \
         {apart:.1} s ({CLASSES} times one): {:.1} times",
        apart / shared
    );
}
