//! The training steps.

use std::sync::Arc;

use fleet_common::record::Training;
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, Split};
use tch::{Device, Reduction, Tensor};

use super::Stop;
use super::build::Built;
use super::meter::PhaseMeter;
use super::state::{Saver, State};
use crate::data::{Loader, Normalization, Sampler, Transform};
use crate::nn::{Ctx, Seed};
use crate::torch::adamw::{AdamW, AdamWConfig};
use crate::torch::memory::Place;
use crate::torch::{grad, guard};

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
    built: &Built,
    data: &Data<'_>,
    device: Device,
    resumed: Option<&State>,
    saver: &mut Saver<'_>,
    meter: &mut PhaseMeter<'_>,
    training: &mut Training,
) -> Result<(), Stop> {
    let settings = &job.settings;
    let train = &settings.train;
    let samples = data.dataset.len(Split::Train);
    let sampler = Sampler::new(train.sampling, samples, train.batch as usize, data.seed);
    let transform = Transform { protocol: data.dataset.protocol(), size: settings.image_size, augment: train.augment };
    let first = resumed.map_or(0, |state| state.step);
    let loader = Loader::new(
        data.dataset.clone(),
        Split::Train,
        transform,
        data.seed,
        first as usize..train.steps as usize,
        data.decode_threads,
        move |step| sampler.step(step as u64),
    );
    let params: Vec<Tensor> = built.params.trainable().map(|p| p.tensor.shallow_clone()).collect();
    let config = AdamWConfig { weight_decay: train.weight_decay, ..AdamWConfig::default() };
    let mut optimizer = guard(|| AdamW::new(params.iter().map(Tensor::shallow_clone).collect(), config))?;

    if let Some(state) = resumed {
        state.restore(&built.params, Some(&optimizer)).map_err(Stop::State)?;
    }

    meter.next(if first < train.warm_up_steps { Phase::WarmUp } else { Phase::Train }, training)?;
    let mut batches = loader;
    for step in first..train.steps {
        if step == train.warm_up_steps && step > first {
            meter.next(Phase::Train, training)?;
        }
        let Some(batch) = meter.wait(|| batches.next()) else { break };
        let batch = batch?;
        let ctx = Ctx::train(data.seed.named("step").branch(u64::from(step)).branch(0));
        let loss = meter.work(batch.len(), || -> Result<f64, Stop> {
            Place::phase("forward").enter();
            let loss = guard(|| {
                let (images, labels) = batch.to_tensors(&Normalization::IMAGENET, device);
                let logits = built.model.forward(&images, &ctx, &built.executor);
                cross_entropy(&logits, &labels)
            })?;
            Place::phase("backward").enter();
            let grads = grad(&[&loss], &[None], &params.iter().collect::<Vec<_>>())?;
            let value = guard(|| loss.double_value(&[]))?;
            drop(loss);
            if !value.is_finite() {
                // Before the optimiser spreads it over the weights.
                return Err(Stop::Diverged { step });
            }
            Place::phase("optimizer").enter();
            optimizer.step(&grads, train.learning_rate)?;
            Ok(value)
        })?;
        training.losses.push(loss as f32);
        meter.progress(u64::from(step) + 1, u64::from(train.steps), Some(loss));
        if step + 1 < train.steps {
            saver.save(step + 1, &built.params, Some(&optimizer), meter, training)?;
        }
    }
    Ok(())
}

/// Mean cross-entropy of logits (batch, classes) against labels (batch).
pub(super) fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
}
