//! Planned checkpointing: a profile predicts the memory of any choices, and its plans keep what they promise.

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use fleet_common::plan::MethodSettings;
use fleet_common::record::BlockChoice;
use fleet_common::spec::Backbone;
use fleet_worker::checkpointing::profile::{Outline, Profile};
use fleet_worker::checkpointing::{CheckpointingExecutor, Planned, Policy};
use fleet_worker::models::vit::{Vit, VitConfig};
use fleet_worker::models::{self, Model};
use fleet_worker::nn::{Builder, Ctx, Executor, Params, Seed};
use fleet_worker::peft;
use fleet_worker::torch::grad;
use fleet_worker::torch::memory::{Memory, Place};
use fleet_worker::torch::timeline::Timeline;
use support::{methods, one_at_a_time};
use tch::{Device, Kind, Reduction, Tensor};

/// What is to be predicted.
struct Case {
    model: Box<dyn Model>,
    params: Params,
    batch: i64,
    side: i64,
}

impl Case {
    fn new(backbone: Backbone, side: i64, batch: i64, method: &MethodSettings) -> Self {
        Self::of(
            |b| models::build(backbone, side as u32, 10, b).expect("a backbone that is trained"),
            side,
            batch,
            method,
        )
    }

    fn of(build: impl Fn(&Builder) -> Box<dyn Model>, side: i64, batch: i64, method: &MethodSettings) -> Self {
        let b = Builder::new(peft::method(method), None, Seed::root(3), Device::Cpu, Kind::Float);
        let model = build(&b);
        Self { model, params: b.finish().expect("builds").0, batch, side }
    }

    fn images(&self) -> Tensor {
        tch::manual_seed(7);
        Tensor::randn([self.batch, 3, self.side, self.side], (Kind::Float, Device::Cpu))
    }

    fn ctx() -> Ctx<'static> {
        Ctx::train(Seed::root(5))
    }

    /// One pass, and its memory.
    fn pass(&self, policy: Box<dyn Policy>) -> Timeline {
        let executor = CheckpointingExecutor::with(policy);
        Timeline::start(Device::Cpu).expect("starts");
        Place::phase("forward").enter();
        let loss = {
            let images = self.images();
            let labels = Tensor::arange(self.batch, (Kind::Int64, Device::Cpu)).remainder(10);
            let logits = self.model.forward(&images, &Self::ctx(), &executor);
            logits.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
        };
        Place::phase("backward").enter();
        let targets: Vec<&Tensor> = self.params.trainable().map(|p| &p.tensor).collect();
        drop(grad(&[&loss], &[None], &targets).expect("gradients"));
        Timeline::finish().expect("recorded")
    }

    fn profile(&self) -> Profile {
        let wanted = Rc::new(RefCell::new(Vec::new()));
        let timeline = self.pass(Box::new(Noting(wanted.clone())));
        let outline = Outline { timeline, wanted: wanted.take() };
        let images = self.images();
        let forward = |executor: &dyn Executor| drop(self.model.forward(&images, &Self::ctx(), executor));
        Profile::measure(Device::Cpu, &outline, &forward).expect("a profile")
    }

    fn peak(&self, choices: &[BlockChoice]) -> u64 {
        self.pass(Box::new(Planned(choices.to_vec()))).highest().expect("stretches").peak
    }
}

struct Noting(Rc<RefCell<Vec<Vec<bool>>>>);

impl Policy for Noting {
    fn choose(&mut self, _index: usize, xs: &[Tensor]) -> BlockChoice {
        self.0.borrow_mut().push(xs.iter().map(Tensor::requires_grad).collect());
        BlockChoice::WholeCheap
    }
}

/// Choices without rhyme or reason.
fn random_choices(blocks: usize, seed: u64) -> Vec<BlockChoice> {
    let number = |i: usize| Seed::root(seed).branch(i as u64).get();
    (0..blocks).map(|i| BlockChoice::ALL[(number(i) >> 32) as usize % 4]).collect()
}

#[test]
fn a_profile_predicts_the_peak_of_any_choices() {
    let _alone = one_at_a_time();
    let _counting = Memory::of(Device::Cpu);
    let cases: [(Backbone, i64, i64, &[&str]); 4] = [
        (Backbone::VitMicro, 64, 16, &["qkv", "fc1", "fc2"]),
        (Backbone::TinyVit5m, 64, 3, &["qkv", "proj", "fc1", "fc2"]),
        (Backbone::VimTiny, 64, 3, &["in_proj", "x_proj", "dt_proj", "out_proj"]),
        (Backbone::MambaVisionT, 64, 2, &["in_proj", "out_proj", "fc1", "fc2"]),
    ];
    let mut worst = (0.0, String::new());
    for (backbone, side, batch, targets) in cases {
        for method in methods(targets) {
            let case = Case::new(backbone, side, batch, &method);
            let profile = case.profile();
            let blocks = case.model.blocks().len();
            let uniform = BlockChoice::ALL.map(|choice| vec![choice; blocks]);
            let all = uniform.into_iter().chain((0..4).map(|seed| random_choices(blocks, seed)));
            for choices in all {
                let predicted = profile.predict(&choices).expect("every choice was measured").peak;
                let measured = case.peak(&choices);
                let off = predicted as f64 / measured as f64 - 1.0;
                let what = format!("{} {} {:?}", backbone.name(), method.method().name(), choices);
                if off.abs() > worst.0 {
                    worst = (off.abs(), what);
                }
            }
        }
    }
    println!("the worst prediction is off by {:.2} %: {}", 100.0 * worst.0, worst.1);
    assert!(worst.0 < 0.01, "off by {:.1} %: {}", 100.0 * worst.0, worst.1);
}

#[test]
fn a_single_block_and_a_single_image_are_planned_like_others() {
    let _alone = one_at_a_time();
    let _counting = Memory::of(Device::Cpu);
    let one_block =
        |b: &Builder| -> Box<dyn Model> { Box::new(Vit::new(b, &VitConfig { depth: 1, ..VitConfig::micro(10) })) };
    for batch in [1, 8] {
        let case = Case::of(one_block, 64, batch, &MethodSettings::Full);
        let profile = case.profile();
        for choice in BlockChoice::ALL {
            let predicted = profile.predict(&[choice]).expect("measured").peak;
            assert_eq!(predicted, case.peak(&[choice]), "{choice:?}, batch {batch}");
        }
        // Running the only block again helps nothing: its backward needs what it would have kept.
        let least = profile.least_peak();
        assert_eq!(profile.plan(least - 1).expect_err("too little"), least);
        assert!(profile.plan(least).expect("fits").peak <= least);
        assert_eq!(profile.plan(u64::MAX >> 1).expect("fits").choices, [BlockChoice::Keep]);
    }
}

/// From the smallest limit that can be met to one under which nothing runs again.
#[test]
fn plans_stay_within_their_limit_and_cost_no_more_than_simple_policies() {
    let _alone = one_at_a_time();
    let _counting = Memory::of(Device::Cpu);
    for method in methods(&["qkv", "fc1", "fc2"]) {
        let case = Case::new(Backbone::VitMicro, 64, 16, &method);
        let profile = case.profile();
        let blocks = case.model.blocks().len();
        let uniform = |choice| profile.predict(&vec![choice; blocks]).expect("measured");
        let (keep, least) = (uniform(BlockChoice::Keep), profile.least_peak());
        assert!(least <= uniform(BlockChoice::Whole).peak && least < keep.peak);
        assert_eq!(profile.plan(least - 1).expect_err("too little"), least);
        let mut cost = f64::INFINITY;
        for part in 0..=6 {
            let limit = least + (keep.peak - least) * part / 6;
            let plan = profile.plan(limit).expect("fits");
            let measured = case.peak(&plan.choices);
            assert!(plan.peak <= limit && measured <= limit + limit / 100, "{measured} of {limit}: {:?}", plan.choices);
            assert!(plan.recompute_seconds <= cost, "more memory, more to run again");
            cost = plan.recompute_seconds;
            // The adaptive strategy's shape: some are kept, the others run again.
            for kept in 0..=blocks {
                let choices: Vec<BlockChoice> =
                    (0..blocks).map(|i| if i < kept { BlockChoice::Keep } else { BlockChoice::Whole }).collect();
                let simple = profile.predict(&choices).expect("measured");
                let tick = profile.blocks_seconds() / 10_000.0;
                assert!(
                    simple.peak > limit || plan.recompute_seconds <= simple.recompute_seconds + tick * blocks as f64
                );
            }
        }
        assert_eq!(cost, 0.0, "with room for all, nothing runs again");
    }
}
