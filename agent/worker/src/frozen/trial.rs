//! A trial of a model that is not trained: load, prepare, evaluate.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use fleet_common::plan::MethodSettings;
use fleet_common::record::{self, BlockChoice, Training};
use fleet_common::spec::{Gives, Storage};
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, Protocol, Split};
use tch::{Device, Kind, Tensor};

use super::encoder::Encoder;
use super::fit::{Fit, fitting};
use super::published::{Names, Pictures, Published};
use crate::checkpointing::CheckpointingExecutor;
use crate::data::{Loader, Transform, evaluation_batches};
use crate::nn::{BuildError, Builder, Ctx, MacCounter, Seed};
use crate::peft::Frozen;
use crate::quant::Packing;
use crate::torch::memory::{Memory, Place};
use crate::torch::{GradMode, guard};
use crate::train::{Events, PhaseMeter, Stop, cross_entropy, open_dataset};

/// Runs a job of a method that trains nothing.
pub(crate) fn trial(
    job: &Job,
    device: Device,
    memory: Memory,
    events: &Events,
    decode_threads: u32,
    stop: &AtomicBool,
    training: &mut Training,
) -> Result<(), Stop> {
    let _off = GradMode::off();
    let mut meter = PhaseMeter::start(Phase::Load, memory, device, events)?;
    Place::phase("load").enter();
    let foundation = job.settings.backbone.foundation();
    let foundation = foundation.with_context(|| format!("{} is there to be trained", job.settings.backbone.name()))?;
    let dir = job.weights.as_deref().context("a published model needs its folder, and none was found")?;
    let dataset = open_dataset(job)?;
    let published = Published::open(dir, foundation).map_err(bad)?;
    let pictures = match foundation.gives() {
        // What reads prompts has a processor of its own.
        Gives::Answers => Pictures { size: foundation.image_size(), recipe: foundation.recipe() },
        _ => published.pictures().map_err(bad)?,
    };
    training.recipe = Some(pictures.recipe);
    training.weights_recipe = training.recipe;
    let work = Work {
        job,
        device,
        memory,
        stop,
        pictures,
        dataset,
        decode_threads: decode_threads as usize,
        seed: Seed::root(job.settings.seed),
        executor: CheckpointingExecutor::uniform(BlockChoice::Keep),
    };
    let done = match &job.settings.method {
        MethodSettings::ZeroShot(settings) => work.zero_shot(&published, settings, &mut meter, training),
        MethodSettings::Knn(settings) => work.knn(&published, settings, &mut meter, training),
        MethodSettings::LinearProbe(settings) => work.linear_probe(&published, settings, &mut meter, training),
        MethodSettings::VlmPrompt(settings) => work.ask(&published, settings, &mut meter, training),
        MethodSettings::VlmScore(settings) => work.score(&published, settings, &mut meter, training),
        other => Err(Stop::BadInput(anyhow::anyhow!("{} trains its backbone", other.method().name()))),
    };
    let finished = meter.finish(training);
    done?;
    Ok(finished?)
}

/// What a user gave us is wrong.
pub(super) fn bad(error: impl Into<anyhow::Error>) -> Stop {
    Stop::BadInput(error.into())
}

/// The kind of numbers that a model's tensors are, but for those that are packed.
const fn kind(storage: Storage) -> Kind {
    match storage {
        Storage::Fp32 => Kind::Float,
        Storage::Bf16 | Storage::Nf4 => Kind::BFloat16,
        Storage::Fp16 => Kind::Half,
    }
}

/// What every method needs.
pub(super) struct Work<'a> {
    pub(super) job: &'a Job,
    pub(super) device: Device,
    pub(super) memory: Memory,
    pub(super) stop: &'a AtomicBool,
    pub(super) pictures: Pictures,
    pub(super) dataset: Arc<Dataset>,
    pub(super) decode_threads: usize,
    pub(super) seed: Seed,
    pub(super) executor: CheckpointingExecutor,
}

impl Work<'_> {
    /// Builds a model from the folder: all that it needs has to be there.
    pub(super) fn build<M>(
        &self,
        published: &Published,
        training: &mut Training,
        make: impl FnOnce(&Builder, &Names) -> anyhow::Result<M>,
    ) -> Result<M, Stop> {
        let built = guard(|| -> anyhow::Result<(M, u64, _)> {
            let weights = published.weights()?;
            let names = Names::of(&weights);
            let storage = self.job.settings.evaluate.weights;
            let packing = (storage == Storage::Nf4).then_some(Packing { block: 64, double: false });
            let method = Rc::new(Frozen { packing });
            let b = Builder::new(method, Some(weights), self.seed.named("weights"), self.device, kind(storage));
            let model = make(&b, &names)?;
            let (params, loaded) = b.finish()?;
            Ok((model, params.count(), loaded.unwrap_or_default()))
        })?;
        let (model, parameters, loaded) = built.map_err(bad)?;
        if let Some(first) = loaded.missing.first() {
            let problem = format!(
                "{} of the model's tensors are not in {}, {first} first; are these its weights?",
                loaded.missing.len(),
                published.folder().root().display()
            );
            return Err(bad(BuildError { problems: vec![problem] }));
        }
        training.parameters = parameters;
        training.loaded = Some(loaded);
        Ok(model)
    }

    /// Features (batch, width) of images in single precision, whatever the model computes in.
    pub(super) fn encode(&self, encoder: &dyn Encoder, images: &Tensor, ctx: &Ctx) -> Tensor {
        let images = images.to_kind(kind(self.job.settings.evaluate.weights));
        encoder.encode(&images, ctx, &self.executor).to_kind(Kind::Float)
    }

    /// Counts what an image takes, and finds how many go through the encoder at once within the budget.
    pub(super) fn measure(&self, encoder: &dyn Encoder, training: &mut Training) -> Result<Fit, Stop> {
        let side = i64::from(self.pictures.size);
        let images = |n: i64| Tensor::zeros([n, 3, side, side], (Kind::Float, self.device));
        let macs = MacCounter::default();
        guard(|| {
            let _ = self.encode(encoder, &images(1), &Ctx { macs: Some(&macs), ..Ctx::eval() });
        })?;
        training.macs = macs.total();
        let fit = fitting(self.memory, self.wanted(), |n| {
            guard(|| {
                let _ = self.encode(encoder, &images(n), &Ctx::eval());
            })
        })?;
        training.frozen =
            Some(record::Frozen { batch: fit.0, image_size: Some(self.pictures.size), ..record::Frozen::default() });
        Ok(fit)
    }

    /// Batches of images of a split.
    pub(super) fn loader(&self, split: Split, batches: Vec<Vec<usize>>) -> Loader {
        // The processor's own sizes, whatever the data set's protocol for training is.
        let transform = Transform {
            protocol: Protocol::Resize,
            size: self.pictures.size,
            augment: false,
            recipe: self.pictures.recipe,
        };
        let (dataset, count) = (self.dataset.clone(), batches.len());
        Loader::new(dataset, split, transform, self.seed, 0..count, self.decode_threads, self.device, move |i| {
            batches[i].clone()
        })
    }

    /// Images at once that are worth trying: no more than there are to classify.
    pub(super) fn wanted(&self) -> u32 {
        let evaluate = &self.job.settings.evaluate;
        let there = u32::try_from(self.dataset.len(Split::Test)).unwrap_or(u32::MAX);
        evaluate.batch.min(evaluate.limit.unwrap_or(u32::MAX)).min(there)
    }

    pub(super) fn is_asked(&self) -> Result<(), Stop> {
        if self.stop.load(Ordering::Relaxed) { Err(Stop::Asked) } else { Ok(()) }
    }

    /// Classifies the test images by `scores` (batch, classes) of their features; where `is_probability`, by what softmax
    /// makes of them, and their loss is told.
    pub(super) fn evaluate(
        &self,
        encoder: &dyn Encoder,
        fit: Fit,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
        has_loss: bool,
        scores: impl Fn(&Tensor) -> Tensor,
    ) -> Result<(), Stop> {
        meter.next(Phase::Evaluate, training)?;
        Place::phase("evaluate").enter();
        let limit = self.job.settings.evaluate.limit.map(|n| n as usize);
        let batches = evaluation_batches(self.dataset.len(Split::Test), limit, fit.0 as usize);
        let images = batches.iter().map(Vec::len).sum::<usize>() as u64;
        let mut loader = self.loader(Split::Test, batches);
        let (mut right, mut loss, mut done) = (0.0, 0.0, 0u64);
        while let Some(batch) = meter.wait(|| loader.next()) {
            let batch = batch?;
            let n = batch.len();
            let (batch_right, batch_loss, finite) = meter.work(n, || {
                guard(|| {
                    let (images, labels) = batch.to_tensors(&self.pictures.recipe, self.device);
                    let scores = scores(&self.encode(encoder, &images, &Ctx::eval()));
                    let finite = scores.isfinite().all().int64_value(&[]) != 0;
                    let right = scores.argmax(-1, false).eq_tensor(&labels).sum(Kind::Int64).double_value(&[]);
                    let loss = if has_loss { cross_entropy(&scores, &labels).double_value(&[]) } else { 0.0 };
                    (right, loss, finite)
                })
            })?;
            if !finite {
                return Err(overflow(self.job.settings.evaluate.weights));
            }
            right += batch_right;
            loss += batch_loss * n as f64;
            done += n as u64;
            meter.progress(done, images, None);
            if done < images {
                self.is_asked()?;
            }
        }
        training.evaluated = done;
        training.top1_percent = Some(100.0 * right / done as f64);
        training.evaluation_loss = has_loss.then_some(loss / done as f64);
        Ok(())
    }
}

/// A model's results are no numbers.
pub(super) fn overflow(storage: Storage) -> Stop {
    let advice = match storage {
        Storage::Fp16 => "half precision has no number above 65,504; say weights = \"bf16\" or \"fp32\" in [evaluate]",
        _ => "are these its weights?",
    };
    Stop::BadInput(anyhow::anyhow!("in {} the model's results are not finite numbers: {advice}", storage.name()))
}

/// Adds to what the record tells beside the phases.
pub(super) fn note(training: &mut Training, change: impl FnOnce(&mut record::Frozen)) {
    change(training.frozen.get_or_insert_default());
}
