//! Profiles of steps outside any trial, for `fleet-agent profile` and the benches.

use std::time::Instant;

use fleet_common::plan::{CellSettings, TrainSettings};
use fleet_common::profile::{self, Request, StepOutcome};
use fleet_common::record::{BlockChoice, Cap, MemoryPlan};
use fleet_common::spec::Checkpointing;
use fleet_common::units::Bytes;
use tch::{Cuda, Device, Tensor};

use super::build::{self, Built, first_policy};
use super::rehearsal::Rehearsal;
use super::{Stop, peak_place};
use crate::checkpointing::profile::Profile;
use crate::checkpointing::{Planned, Policy};
use crate::nn::Seed;
use crate::torch::adamw::{AdamW, AdamWConfig};
use crate::torch::guard;
use crate::torch::memory::{Memory, Place};
use crate::torch::timeline::Timeline;

/// A model with fresh weights and its optimiser, ready for steps on random images. Its weights stay as they are.
pub struct Stage {
    settings: CellSettings,
    train: TrainSettings,
    device: Device,
    built: Built,
    params: Vec<Tensor>,
    optimizer: AdamW,
}

/// Why a step or a plan did not come about.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// For want of memory.
    #[error("does not fit: needs at least {} of {}", Bytes(*needed), Bytes(*budget))]
    DoesNotFit {
        /// Bytes that it would take.
        needed: u64,
        /// Bytes that there are.
        budget: u64,
    },
    /// For another reason.
    #[error("{0}")]
    Failed(String),
}

impl From<Stop> for StageError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::DoesNotFit { needed, budget } => Self::DoesNotFit { needed, budget },
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Stage {
    /// Builds the model of `settings`; data and weights are not looked at.
    ///
    /// # Errors
    /// The model cannot be built, or does not fit.
    pub fn new(settings: &CellSettings, device: Device) -> Result<Self, StageError> {
        let made = || -> Result<Self, Stop> {
            let classes: Vec<String> = (0..settings.dataset.classes).map(|i| i.to_string()).collect();
            let seed = Seed::root(settings.seed);
            let cap = cap_of(settings);
            let train = settings.train.clone().ok_or_else(|| {
                Stop::BadInput(anyhow::anyhow!(
                    "{} is not trained: there is no step to profile",
                    settings.backbone.name()
                ))
            })?;
            let built = guard(|| build::build(settings, &train, None, &classes, device, cap, seed))??;
            let params: Vec<Tensor> = built.params.trainable().map(|p| p.tensor.shallow_clone()).collect();
            let own = params.iter().map(Tensor::shallow_clone).collect();
            let optimizer = guard(|| AdamW::new(own, AdamWConfig::default()))?;
            Ok(Self { settings: settings.clone(), train, device, built, params, optimizer })
        };
        Place::phase("load").enter();
        watched(device, settings, || Ok(made()?))
    }

    fn rehearsal(&self) -> Rehearsal<'_> {
        Rehearsal::new(&self.built, &self.settings, &self.train, &self.params, self.device)
    }

    /// What each block keeps, needs and costs.
    ///
    /// # Errors
    /// Not even a step in which everything runs again fits, or the device fails.
    pub fn profile(&self) -> Result<Profile, StageError> {
        self.watched(|| Ok(self.rehearsal().profile()?))
    }

    /// Plans within `limit` bytes, or where nothing fits within `budget`, and tries the plan.
    ///
    /// # Errors
    /// Nothing fits, or the device fails.
    pub fn plan(&self, profile: &Profile, limit: u64, budget: u64) -> Result<MemoryPlan, StageError> {
        self.watched(|| Ok(self.rehearsal().plan(profile, limit, budget)?))
    }

    /// One pass under a policy, and its memory.
    ///
    /// # Errors
    /// It does not fit, or the device fails.
    pub fn trace(&self, policy: Box<dyn Policy>) -> Result<Timeline, StageError> {
        self.watched(|| Ok(self.rehearsal().pass(policy)?))
    }

    /// What the latest pass chose.
    pub fn choices(&self) -> Vec<BlockChoice> {
        self.built.executor.choices()
    }

    /// Seconds of one step, forward, backward and optimiser, under a policy.
    ///
    /// # Errors
    /// It does not fit, or the device fails.
    pub fn time(&mut self, policy: Box<dyn Policy>) -> Result<f64, StageError> {
        self.built.executor.set(policy);
        let from = Instant::now();
        let grads = self.watched(|| Ok(self.rehearsal().gradients()?))?;
        // A rate of zero: moments move, weights do not.
        self.optimizer.step(&grads, 0.0).map_err(|e| StageError::Failed(e.to_string()))?;
        if let Device::Cuda(index) = self.device {
            guard(|| Cuda::synchronize(index as i64)).map_err(|e| StageError::Failed(e.to_string()))?;
        }
        Ok(from.elapsed().as_secs_f64())
    }

    fn watched<T>(&self, f: impl FnOnce() -> Result<T, StageError>) -> Result<T, StageError> {
        watched(self.device, &self.settings, f)
    }
}

/// Runs `f`, whose failure was for want of memory if the allocator refused something.
fn watched<T>(
    device: Device,
    settings: &CellSettings,
    f: impl FnOnce() -> Result<T, StageError>,
) -> Result<T, StageError> {
    let memory = Memory::of(device);
    match (memory.watch(f), settings.budget_bytes) {
        ((Err(StageError::Failed(_)), true), Some(budget)) => {
            Err(StageError::DoesNotFit { needed: needed(memory, budget), budget })
        }
        ((result, _), _) => result,
    }
}

/// What the latest refusal would have taken; more than `budget`.
fn needed(memory: Memory, budget: u64) -> u64 {
    memory.last_cpu_refusal().map_or(budget + 1, |(bytes, _)| bytes).max(budget + 1)
}

/// Profiles blocks, and runs steps under each strategy, on a device that is capped as the cells say.
///
/// # Errors
/// In words: there is nothing to run, or the model cannot be built within the budget.
pub fn profile(request: &Request, device: Device) -> profile::Answer {
    let first = request.cells.first().ok_or("expected at least one cell to profile, found none")?;
    let memory = Memory::of(device);
    let in_words = |error: StageError| error.to_string();
    let mut stage = Stage::new(first, device).map_err(in_words)?;
    let persistent_bytes = memory.stats().map_err(|e| e.to_string())?.live;
    let profile = stage.profile().map_err(in_words)?;
    let mut runs: Vec<Run> = request.cells.iter().map(|cell| Run::prepare(&stage, &profile, cell)).collect();
    // In rounds, so that a machine that slows down does so for all of them.
    for _ in 0..request.steps.max(1) {
        for (run, cell) in runs.iter_mut().zip(&request.cells) {
            run.time(&mut stage, cell);
        }
    }
    let steps = runs.into_iter().zip(&request.cells);
    Ok(profile::Profile {
        persistent_bytes,
        least_bytes: profile.least_peak(),
        blocks: profile.blocks(),
        steps: steps.map(|(run, cell)| run.finish(cell.checkpointing, &profile)).collect(),
    })
}

/// Steps under one strategy.
enum Run {
    Ready { plan: Option<MemoryPlan>, timeline: Timeline, choices: Vec<BlockChoice>, seconds: Vec<f64> },
    Failed(String),
}

/// The budget, which is the cap here: that the process itself counts is for trials.
fn cap_of(settings: &CellSettings) -> Option<Cap> {
    settings.budget_bytes.map(|bytes| Cap { bytes, overhead_bytes: None })
}

fn policy_of(cell: &CellSettings, device: Device, plan: Option<&MemoryPlan>) -> Result<Box<dyn Policy>, StageError> {
    match plan {
        Some(plan) => Ok(Box::new(Planned(plan.blocks.clone()))),
        None => first_policy(cell, device, cap_of(cell)).map_err(|e| StageError::Failed(e.to_string())),
    }
}

impl Run {
    fn prepare(stage: &Stage, profile: &Profile, cell: &CellSettings) -> Self {
        let prepared = || -> Result<Self, StageError> {
            let planned = cell.budget_bytes.filter(|_| cell.checkpointing == Checkpointing::Planned);
            let plan = |budget| stage.plan(profile, cell.planned_limit(budget).unwrap_or(budget), budget);
            let plan = planned.map(plan).transpose()?;
            let timeline = stage.trace(policy_of(cell, stage.device, plan.as_ref())?)?;
            Ok(Self::Ready { plan, timeline, choices: stage.choices(), seconds: Vec::new() })
        };
        prepared().unwrap_or_else(|error| Self::Failed(error.to_string()))
    }

    fn time(&mut self, stage: &mut Stage, cell: &CellSettings) {
        let Self::Ready { plan, seconds, .. } = self else { return };
        match policy_of(cell, stage.device, plan.as_ref()).and_then(|policy| stage.time(policy)) {
            Ok(time) => seconds.push(time),
            Err(error) => *self = Self::Failed(error.to_string()),
        }
    }

    fn finish(self, checkpointing: Checkpointing, profile: &Profile) -> profile::Step {
        let outcome = match self {
            Self::Failed(reason) => StepOutcome::Failed { reason },
            Self::Ready { plan, timeline, choices, mut seconds } => {
                seconds.sort_by(f64::total_cmp);
                let highest = timeline.highest();
                StepOutcome::Ran {
                    seconds: seconds.get(seconds.len() / 2).copied().unwrap_or(0.0),
                    peak_bytes: highest.map_or(0, |s| s.peak),
                    peak_place: highest.map(|s| peak_place(s.place)),
                    recompute_seconds: profile.predict(&choices).map_or(0.0, |p| p.recompute_seconds),
                    choices,
                    plan,
                    trace: timeline.trace(0),
                }
            }
        };
        profile::Step { checkpointing, outcome }
    }
}
