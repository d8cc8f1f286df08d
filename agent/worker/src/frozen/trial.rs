//! A trial of a model that is not trained: load, prepare, evaluate.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use fleet_common::answer::Answers;
use fleet_common::plan::{KnnSettings, LinearProbeSettings, MethodSettings, ZeroShotSettings};
use fleet_common::record::{self, BlockChoice, ProbeChoice, Training};
use fleet_common::spec::{Gives, Storage};
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, Protocol, Split};
use fleet_tokenizer::Tokenizer;
use tch::{Device, Kind, Tensor};

use super::bank::Bank;
use super::encoder::{Contrastive, Encoder};
use super::fit::{Fit, fitting};
use super::knn::{Nearest, Votes};
use super::probe::{Probe, ProbeConfig};
use super::published::{Names, Pictures, Published};
use crate::checkpointing::CheckpointingExecutor;
use crate::data::{Loader, Transform, evaluation_batches};
use crate::models::{normalised, zero_shot_classifier};
use crate::nn::{BuildError, Builder, Ctx, MacCounter, Seed};
use crate::peft::Frozen;
use crate::quant::Packing;
use crate::torch::memory::{Memory, Place};
use crate::torch::{GradMode, guard};
use crate::train::{Events, PhaseMeter, Stop, cross_entropy, open_dataset};

/// Descriptions of classes that are encoded at once.
const TEXTS: i64 = 64;

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
    fn encode(&self, encoder: &dyn Encoder, images: &Tensor, ctx: &Ctx) -> Tensor {
        let images = images.to_kind(kind(self.job.settings.evaluate.weights));
        encoder.encode(&images, ctx, &self.executor).to_kind(Kind::Float)
    }

    /// Counts what an image takes, and finds how many go through the encoder at once within the budget.
    fn measure(&self, encoder: &dyn Encoder, training: &mut Training) -> Result<Fit, Stop> {
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
    fn loader(&self, split: Split, batches: Vec<Vec<usize>>) -> Loader {
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

    /// Features of all training images, with their labels.
    fn bank(&self, encoder: &dyn Encoder, fit: Fit, meter: &mut PhaseMeter<'_>) -> Result<Bank, Stop> {
        let images = self.dataset.len(Split::Train);
        let mut loader = self.loader(Split::Train, evaluation_batches(images, None, fit.0 as usize));
        let mut bank = Bank::default();
        while let Some(batch) = meter.wait(|| loader.next()) {
            let batch = batch?;
            meter.work(batch.len(), || {
                guard(|| {
                    let (images, _) = batch.to_tensors(&self.pictures.recipe, self.device);
                    bank.push(&self.encode(encoder, &images, &Ctx::eval()), &batch.labels);
                })
            })?;
            meter.progress(bank.len() as u64, images as u64, None);
            self.is_asked()?;
        }
        Ok(bank)
    }

    /// Classifies the test images by `scores` (batch, classes) of their features; where `is_probability`, by what softmax
    /// makes of them, and their loss is told.
    fn evaluate(
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

    /// The encoder of images, how many go through it at once, and features of all training images.
    fn supported(
        &self,
        published: &Published,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(Box<dyn Encoder>, Fit, Bank), Stop> {
        let encoder = self.build(published, training, |b, names| published.encoder(b, names))?;
        let fit = self.measure(encoder.as_ref(), training)?;
        meter.next(Phase::Prepare, training)?;
        Place::phase("features").enter();
        let bank = self.bank(encoder.as_ref(), fit, meter)?;
        note(training, |frozen| frozen.support_images = bank.len() as u64);
        Ok((encoder, fit, bank))
    }

    fn knn(
        &self,
        published: &Published,
        settings: &KnnSettings,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let (encoder, fit, bank) = self.supported(published, meter, training)?;
        let bank = bank.on(self.device, self.memory)?;
        let classes = i64::from(self.job.settings.dataset.classes);
        let votes = settings.temperature.map_or(Votes::Equal, |temperature| Votes::Softmax { temperature });
        self.evaluate(encoder.as_ref(), fit, meter, training, false, |features| {
            let mut nearest = Nearest::new(features, settings.k);
            bank.pieces(features.device(), |features, labels| nearest.offer(features, labels));
            let none = || Tensor::zeros([features.size()[0], classes], (Kind::Float, features.device()));
            nearest.votes(classes, votes).unwrap_or_else(none)
        })
    }

    fn linear_probe(
        &self,
        published: &Published,
        settings: &LinearProbeSettings,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let (encoder, fit, bank) = self.supported(published, meter, training)?;
        Place::phase("probe").enter();
        let classes = i64::from(self.job.settings.dataset.classes);
        let config = ProbeConfig {
            rates: settings.rates.clone(),
            batch: i64::from(settings.batch),
            steps: settings.steps,
            held_back: settings.held_back,
        };
        let mut tell = |step: u32| {
            meter.progress(u64::from(step), u64::from(settings.steps), None);
            !self.stop.load(Ordering::Relaxed)
        };
        let probe = {
            let _on = GradMode::on();
            let (features, labels) = guard(|| bank.whole(self.device))?;
            Probe::train(&features, &labels, classes, &config, self.seed.named("linear-probe"), &mut tell)?
        };
        let probe = probe.ok_or(Stop::Asked)?;
        let choice = ProbeChoice { learning_rate: probe.rate, held_back_percent: 100.0 * probe.held_back_accuracy };
        note(training, |frozen| frozen.probe = Some(choice));
        training.trainable = probe.parameters();
        training.parameters += probe.parameters();
        training.macs += probe.macs();
        self.evaluate(encoder.as_ref(), fit, meter, training, true, |features| probe.forward(features))
    }

    fn zero_shot(
        &self,
        published: &Published,
        settings: &ZeroShotSettings,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let tokenizer = Tokenizer::open(published.folder().root()).map_err(bad)?;
        let names = Answers::new(self.dataset.classes()).map_err(|why| bad(anyhow::anyhow!(why)))?;
        let model = self.build(published, training, |b, _| published.contrastive(b))?;
        let fit = self.measure(&model, training)?;
        meter.next(Phase::Prepare, training)?;
        Place::phase("texts").enter();
        let classes = self.dataset.classes().len();
        let texts: Vec<String> = (0..classes)
            .flat_map(|class| settings.templates.iter().map(move |template| (class, template)))
            .map(|(class, template)| template.replace("{}", names.name(class)))
            .collect();
        note(training, |frozen| frozen.texts = texts.len() as u64);
        let classifier = self.classifier(&model, &tokenizer, &texts, settings.templates.len(), meter)?;
        let scale = model.scale().to_kind(Kind::Float);
        self.evaluate(&model, fit, meter, training, true, |features| {
            &scale * normalised(features).matmul(&classifier.transpose(0, 1))
        })
    }

    /// The classifier (classes, width) that descriptions make.
    fn classifier(
        &self,
        model: &Contrastive,
        tokenizer: &Tokenizer,
        texts: &[String],
        templates: usize,
        meter: &mut PhaseMeter<'_>,
    ) -> Result<Tensor, Stop> {
        let tokens = guard(|| model.tokens(tokenizer, texts, self.device))?.map_err(bad)?;
        let (all, mut encoded) = (tokens.size()[0], Vec::new());
        let mut done = 0;
        while done < all {
            let n = TEXTS.min(all - done);
            let piece = tokens.narrow(0, done, n);
            // No image goes through here.
            let encode = || model.encode_texts(&piece, &Ctx::eval(), &self.executor).to_kind(Kind::Float);
            encoded.push(meter.work(0, || guard(encode))?);
            done += n;
            meter.progress(done as u64, all as u64, None);
            self.is_asked()?;
        }
        Ok(guard(|| {
            let texts = Tensor::cat(&encoded, 0);
            zero_shot_classifier(&texts.view([-1, templates as i64, texts.size()[1]]))
        })?)
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
