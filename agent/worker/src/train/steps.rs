//! The training steps.

use std::sync::Arc;

use fleet_common::plan::{CellSettings, TrainSettings};
use fleet_common::record::Training;
use fleet_common::spec::Checkpointing;
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, Split};
use tch::{Device, Kind, Reduction, Tensor};

use super::Stop;
use super::build::Built;
use super::meter::PhaseMeter;
use super::rehearsal::Rehearsal;
use super::state::{Moving, Saver, State};
use crate::checkpointing::Planned;
use crate::data::{Batch, Loader, Sampler, Transform};
use crate::nn::{Ctx, Seed};
use crate::torch::adamw::{AdamW, AdamWConfig};
use crate::torch::memory::Place;
use crate::torch::timeline::Timeline;
use crate::torch::{GradMode, TorchError, grad, guard};

/// Where batches come from.
pub(super) struct Data<'a> {
    pub dataset: &'a Arc<Dataset>,
    pub decode_threads: usize,
    pub seed: Seed,
}

/// Trains the steps from `resumed`'s, or all: the first few in the phase "warm-up", the others in "train".
#[allow(clippy::too_many_arguments, reason = "the loop that brings everything together")]
pub(super) fn train(
    job: &Job,
    train: &TrainSettings,
    built: &Built,
    data: &Data<'_>,
    device: Device,
    resumed: Option<&State>,
    saver: &mut Saver<'_>,
    meter: &mut PhaseMeter<'_>,
    training: &mut Training,
) -> Result<(), Stop> {
    let settings = &job.settings;
    let samples = data.dataset.len(Split::Train);
    let sampler = Sampler::new(train.sampling, samples, train.batch as usize, data.seed);
    let transform = Transform {
        protocol: data.dataset.protocol(),
        size: settings.image_size,
        augment: train.augment,
        recipe: built.recipe,
    };
    let first = resumed.map_or(0, |state| state.step);
    let loader = Loader::new(
        data.dataset.clone(),
        Split::Train,
        transform,
        data.seed,
        first as usize..train.steps as usize,
        data.decode_threads,
        device,
        move |step| sampler.step(step as u64),
    );
    let params: Vec<Tensor> = built.params.trainable().map(|p| p.tensor.shallow_clone()).collect();
    let config = AdamWConfig { weight_decay: train.weight_decay, ..AdamWConfig::default() };
    let mut optimizer = guard(|| AdamW::new(params.iter().map(Tensor::shallow_clone).collect(), config))?;

    let mut schedule = guard(|| built.method.schedule(&built.params, train.steps))?;
    if let Some(state) = resumed {
        let moving = Moving { optimizer: &optimizer, schedule: schedule.as_deref() };
        state.restore(&built.params, Some(moving)).map_err(Stop::State)?;
    }

    let rehearsal = Rehearsal::new(built, settings, train, &params, device);
    checkpoint(&rehearsal, settings, meter, training)?;
    meter.next(if first < train.warm_up_steps { Phase::WarmUp } else { Phase::Train }, training)?;
    let mut batches = loader;
    for step in first..train.steps {
        if step == train.warm_up_steps && step > first {
            meter.next(Phase::Train, training)?;
        }
        let Some(batch) = meter.wait(|| batches.next()) else { break };
        let batch = batch?;
        let seed = data.seed.named("step").branch(u64::from(step));
        let rate = train.learning_rate * train.schedule.factor(step, train.steps, train.ramp_steps);
        let images = batch.len();
        let traced = traces(step, train, device);
        if traced {
            Timeline::start(device)?;
        }
        let loss = meter.work(images, || -> Result<f64, Stop> {
            let (loss, mut grads) = gradients(built, batch, train, seed, &params, device)?;
            if !loss.is_finite() {
                // Before the optimiser spreads it over the weights.
                return Err(Stop::Diverged { step });
            }
            if let Some(most) = train.clip_norm
                && !clip(&mut grads, most)?.is_finite()
            {
                return Err(Stop::Diverged { step });
            }
            Place::phase("optimizer").enter();
            optimizer.step(&grads, rate)?;
            if let Some(schedule) = &mut schedule {
                guard(|| schedule.after_step(step + 1, &built.params, &grads))?;
            }
            Ok(loss)
        });
        if traced {
            training.memory_trace = Timeline::finish().map(|timeline| timeline.trace(step));
        }
        let loss = loss?;
        training.losses.push(loss as f32);
        meter.progress(u64::from(step) + 1, u64::from(train.steps), Some(loss));
        if step + 1 < train.steps {
            let moving = Moving { optimizer: &optimizer, schedule: schedule.as_deref() };
            saver.save(step + 1, &built.params, Some(moving), meter, training)?;
        }
    }
    training.ranks = schedule.map(|s| s.ranks());
    Ok(())
}

/// Whether the memory of this step is recorded: of the last one that is not timed. Without one, of the first, but not on
/// a GPU, where clocks would wait for the device at each mark.
fn traces(step: u32, train: &TrainSettings, device: Device) -> bool {
    let untimed = train.warm_up_steps.min(train.steps);
    step == untimed.saturating_sub(1) && (untimed > 0 || device == Device::Cpu)
}

/// Prepares the executor for a strategy that measures first. An earlier attempt's plan stays.
fn checkpoint(
    rehearsal: &Rehearsal<'_>,
    settings: &CellSettings,
    meter: &mut PhaseMeter<'_>,
    training: &mut Training,
) -> Result<(), Stop> {
    let Some(cap) = training.cap.filter(|_| settings.checkpointing == Checkpointing::Planned) else { return Ok(()) };
    let limit = settings.planned_limit(cap.bytes).unwrap_or(cap.bytes);
    if let Some(plan) = &training.memory_plan {
        rehearsal.built.executor.set(Box::new(Planned(plan.blocks.clone())));
        return Ok(());
    }
    meter.next(Phase::Profile, training)?;
    // The profile is the longer part by far.
    meter.progress(0, 2, None);
    let planned = rehearsal.profile().and_then(|profile| {
        meter.progress(1, 2, None);
        rehearsal.plan(&profile, limit, cap.bytes)
    });
    meter.progress(2, 2, None);
    training.memory_plan = Some(planned?);
    Ok(())
}

/// The cross-entropy of a batch, and the gradients of that and the method's penalty: of the whole at once, or of parts
/// one after another, whose means are averaged.
pub(super) fn gradients(
    built: &Built,
    batch: Batch,
    settings: &TrainSettings,
    seed: Seed,
    params: &[Tensor],
    device: Device,
) -> Result<(f64, Vec<Option<Tensor>>), Stop> {
    let wanted: Vec<&Tensor> = params.iter().collect();
    let parts = settings.micro_batches;
    let mut sum: Option<(f64, Vec<Option<Tensor>>)> = None;
    for (i, part) in (0..).zip(batch.split(parts)) {
        Place::phase("forward").enter();
        let ctx = Ctx::train(seed.branch(i)).with_precision(settings.precision);
        let (loss, entropy) = guard(|| {
            let share = |loss: Tensor| if parts > 1 { loss / f64::from(parts) } else { loss };
            let (images, labels) = part.to_tensors(&built.recipe, device);
            drop(part);
            let entropy = share(cross_entropy(&built.model.forward(&images, &ctx, &built.executor), &labels));
            let loss = match built.method.penalty(&built.params) {
                Some(penalty) => &entropy + share(penalty),
                None => entropy.shallow_clone(),
            };
            (loss, entropy.detach())
        })?;
        Place::phase("backward").enter();
        let grads = grad(&[&loss], &[None], &wanted)?;
        drop(loss);
        let value = guard(|| entropy.double_value(&[]))?;
        match &mut sum {
            None => sum = Some((value, grads)),
            Some((loss, sums)) => {
                *loss += value;
                guard(|| add(sums, grads))?;
            }
        }
    }
    sum.ok_or_else(|| Stop::Broken(anyhow::anyhow!("a batch without images")))
}

/// Adds gradients in place.
fn add(sums: &mut [Option<Tensor>], grads: Vec<Option<Tensor>>) {
    let _off = GradMode::off();
    for (sum, grad) in sums.iter_mut().zip(grads) {
        match (&mut *sum, grad) {
            (Some(sum), Some(grad)) => drop(sum.g_add_(&grad)),
            (None, grad) => *sum = grad,
            (Some(_), None) => {}
        }
    }
}

/// Scales gradients down to the norm `most` where they are larger together, as PyTorch's `clip_grad_norm_`; returns the
/// norm that they had.
fn clip(grads: &mut [Option<Tensor>], most: f64) -> Result<f64, TorchError> {
    guard(|| {
        let _off = GradMode::off();
        let norms: Vec<Tensor> = grads.iter().flatten().map(|g| g.norm().to_kind(Kind::Double)).collect();
        let norm = Tensor::stack(&norms, 0).norm().double_value(&[]);
        let scale = most / (norm + 1e-6);
        if scale < 1.0 {
            grads.iter_mut().flatten().for_each(|g| drop(g.g_mul_scalar_(scale)));
        }
        norm
    })
}

/// Mean cross-entropy of logits (batch, classes) against labels (batch), in single precision.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    logits.to_kind(Kind::Float).cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_clipped_to_their_common_norm() {
        let of = |values: &[f32]| Some(Tensor::from_slice(values));
        let mut grads = vec![of(&[3.0, 0.0]), None, of(&[0.0, 4.0, 12.0])];
        // Norms of single-precision gradients have single precision.
        let near = |norm: f64| assert!((norm - 13.0).abs() < 1e-6, "{norm}");
        near(clip(&mut grads, 20.0).expect("a norm"));
        assert_eq!(Vec::<f32>::try_from(grads[2].as_ref().expect("there")).expect("floats"), [0.0, 4.0, 12.0]);
        near(clip(&mut grads, 6.5).expect("a norm"));
        let after = Vec::<f32>::try_from(grads[2].as_ref().expect("there")).expect("floats");
        assert!((after[2] - 6.0).abs() < 1e-5, "{after:?}");
        let mut broken = vec![of(&[f32::NAN])];
        assert!(clip(&mut broken, 1.0).expect("a norm").is_nan());
    }
}
