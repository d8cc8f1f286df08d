//! Steps for trying things out, and the planned strategy: profile a step, choose per block what runs again, try the
//! plan, and plan once more if it missed.

use std::cell::RefCell;
use std::rc::Rc;

use fleet_common::plan::{CellSettings, TrainSettings};
use fleet_common::record::{BlockChoice, MemoryPlan};
use tch::{Device, Tensor};

use super::Stop;
use super::build::Built;
use super::steps::gradients;
use crate::checkpointing::profile::{Outline, Prediction, Profile};
use crate::checkpointing::{Planned, Policy, Uniform};
use crate::data::{Batch, Pixels};
use crate::nn::{Ctx, Executor, Params, Role, Seed};
use crate::torch::memory::Memory;
use crate::torch::timeline::Timeline;
use crate::torch::{GradMode, guard};

/// A prediction this far from what was measured is not one to build on.
const MOST_OFF: f64 = 0.02;

/// Steps of a trial, for trying things out: random images, and gradients that nobody uses.
pub(super) struct Rehearsal<'a> {
    pub(super) built: &'a Built,
    settings: &'a CellSettings,
    train: &'a TrainSettings,
    params: &'a [Tensor],
    device: Device,
}

impl<'a> Rehearsal<'a> {
    pub(super) fn new(
        built: &'a Built,
        settings: &'a CellSettings,
        train: &'a TrainSettings,
        params: &'a [Tensor],
        device: Device,
    ) -> Self {
        Self { built, settings, train, params, device }
    }

    /// As many images as go through the model at once, of any content: memory and time do not depend on it.
    fn batch(&self) -> Batch {
        let (count, size) = (self.train.batch / self.train.micro_batches.max(1), self.settings.image_size);
        let bytes = count as usize * 3 * (size as usize).pow(2);
        let pixels = (0..bytes as u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
        let classes = self.settings.dataset.classes.max(1);
        Batch { pixels: Pixels::Pageable(pixels), labels: (0..count).map(|i| i64::from(i % classes)).collect(), size }
    }

    /// One pass forward and backward under `policy`, and its memory. Nothing of the model moves.
    pub(super) fn pass(&self, policy: Box<dyn Policy>) -> Result<Timeline, Stop> {
        self.built.executor.set(policy);
        Timeline::start(self.device)?;
        let done = self.gradients();
        let timeline = Timeline::finish();
        drop(done?);
        timeline.ok_or_else(|| Stop::Broken(anyhow::anyhow!("the device stopped telling its memory")))
    }

    /// The gradients of a pass under the policy that the executor has.
    pub(super) fn gradients(&self) -> Result<Vec<Option<Tensor>>, Stop> {
        let _unmoved = Unmoved::of(&self.built.params)?;
        let train = TrainSettings { micro_batches: 1, ..self.train.clone() };
        // With parts of a batch, the gradients of the first are there while the second is at work.
        let _sums = match self.train.micro_batches {
            0 | 1 => Vec::new(),
            _ => guard(|| self.params.iter().map(Tensor::zeros_like).collect::<Vec<_>>())?,
        };
        let seed = Seed::root(self.settings.seed).named("rehearsal");
        Ok(gradients(self.built, self.batch(), &train, seed, self.params, self.device)?.1)
    }

    /// What each block keeps, needs and costs.
    pub(super) fn profile(&self) -> Result<Profile, Stop> {
        // The first pass on a device does more than the others: libraries take their working memory.
        drop(self.pass(Box::new(Uniform(BlockChoice::WholeCheap)))?);
        let wanted = Rc::new(RefCell::new(Vec::new()));
        let timeline = self.pass(Box::new(Noting(wanted.clone())))?;
        let outline = Outline { timeline, wanted: wanted.take() };
        let _unmoved = Unmoved::of(&self.built.params)?;
        let (images, _) = guard(|| self.batch().to_tensors(&self.built.recipe, self.device))?;
        let ctx = Ctx::train(Seed::root(self.settings.seed).named("rehearsal")).with_precision(self.train.precision);
        let forward = |executor: &dyn Executor| drop(self.built.model.forward(&images, &ctx, executor));
        Ok(Profile::measure(self.device, &outline, &forward)?)
    }

    /// Plans from `profile` within `limit` bytes (or, where nothing fits, within `budget`), and leaves the executor
    /// with the plan.
    pub(super) fn plan(&self, profile: &Profile, limit: u64, budget: u64) -> Result<MemoryPlan, Stop> {
        let too_little = |needed| Stop::DoesNotFit { needed, budget };
        let within = |limit: u64| profile.plan(limit).or_else(|_| profile.plan(budget)).map_err(too_little);
        let mut plan = within(limit)?;
        let mut measured = self.try_out(&plan)?;
        let mut replanned = false;
        let off = |plan: &Prediction, measured: Option<u64>| {
            measured.is_none_or(|m| m > limit.max(plan.peak) || (m as f64 / plan.peak as f64 - 1.0).abs() > MOST_OFF)
        };
        if off(&plan, measured) {
            // What the model does not know shifts every prediction alike; a refused step tells no size, so as much
            // again.
            let found = measured.unwrap_or(limit + limit / 20);
            let shifted = (limit + plan.peak).saturating_sub(found);
            tracing::info!("planned for {} bytes, a step needs {found}: planning once more", plan.peak);
            let second = profile.plan(shifted).or_else(|least| profile.predict_least().ok_or(least));
            let second = second.map_err(too_little)?;
            plan = Prediction { peak: (second.peak + found).saturating_sub(plan.peak), ..second };
            measured = self.try_out(&plan)?;
            replanned = true;
        }
        let Some(measured_peak_bytes) = measured else { return Err(too_little(profile.least_peak().max(budget + 1))) };
        Ok(MemoryPlan {
            blocks: plan.choices,
            limit_bytes: limit,
            predicted_peak_bytes: plan.peak,
            measured_peak_bytes,
            recompute_seconds: plan.recompute_seconds,
            blocks_seconds: profile.blocks_seconds(),
            replanned,
        })
    }

    /// The peak of a pass as planned; `None` if the cap refused it.
    fn try_out(&self, plan: &Prediction) -> Result<Option<u64>, Stop> {
        let pass = || self.pass(Box::new(Planned(plan.choices.clone())));
        match Memory::of(self.device).watch(pass) {
            (Ok(timeline), _) => Ok(timeline.highest().map(|s| s.peak)),
            (Err(_), true) => Ok(None),
            (Err(stop), false) => Err(stop),
        }
    }
}

/// Everything runs again, and it is noted which inputs want a gradient.
struct Noting(Rc<RefCell<Vec<Vec<bool>>>>);

impl Policy for Noting {
    fn choose(&mut self, index: usize, xs: &[Tensor]) -> BlockChoice {
        let mut noted = self.0.borrow_mut();
        noted.truncate(index);
        noted.push(xs.iter().map(Tensor::requires_grad).collect());
        BlockChoice::WholeCheap
    }
}

/// Puts statistics back as they were, when dropped.
struct Unmoved(Vec<(Tensor, Tensor)>);

impl Unmoved {
    fn of(params: &Params) -> Result<Self, Stop> {
        let buffers = params.iter().filter(|p| p.role == Role::Buffer);
        Ok(Self(guard(|| buffers.map(|p| (p.tensor.shallow_clone(), p.tensor.detach().copy())).collect())?))
    }
}

impl Drop for Unmoved {
    fn drop(&mut self) {
        let _off = GradMode::off();
        for (now, before) in &mut self.0 {
            // Copying between two tensors that exist cannot want for anything.
            let _ = guard(|| now.copy_(before));
        }
    }
}
