//! A trial of a model that is not trained: load, prepare, evaluate.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use fleet_common::answer::Answers;
use fleet_common::plan::{KnnSettings, LinearProbeSettings, MethodSettings, ZeroShotSettings};
use fleet_common::record::{self, Answer, BlockChoice, MOST_ANSWERS, ProbeChoice, Training};
use fleet_common::spec::{Gives, Storage};
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, Protocol, Split};
use fleet_tokenizer::Tokenizer;
use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::bank::Bank;
use super::encoder::{Contrastive, Encoder};
use super::fit::{Fit, fitting};
use super::knn::{Nearest, Votes};
use super::probe::{Probe, ProbeConfig};
use super::published::{Names, Pictures, Published};
use super::speaker::Speaker;
use crate::checkpointing::CheckpointingExecutor;
use crate::data::{Loader, Transform, evaluation_batches};
use crate::models::vlm::Read;
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
        MethodSettings::VlmPrompt(settings) => {
            let most = settings.new_tokens as usize;
            work.speak(&published, &settings.prompt, most, &mut meter, training, |speaker, read| {
                Ok(speaker.answer(read, most, &Ctx::eval())?)
            })
        }
        MethodSettings::VlmScore(settings) => work.score(&published, &settings.prompt, &mut meter, training),
        other => Err(Stop::BadInput(anyhow::anyhow!("{} trains its backbone", other.method().name()))),
    };
    let finished = meter.finish(training);
    done?;
    Ok(finished?)
}

/// What a user gave us is wrong.
fn bad(error: impl Into<anyhow::Error>) -> Stop {
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
struct Work<'a> {
    job: &'a Job,
    device: Device,
    memory: Memory,
    stop: &'a AtomicBool,
    pictures: Pictures,
    dataset: Arc<Dataset>,
    decode_threads: usize,
    seed: Seed,
    executor: CheckpointingExecutor,
}

impl Work<'_> {
    /// Builds a model from the folder: all that it needs has to be there.
    fn build<M>(
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
        let wanted = self.job.settings.evaluate.batch;
        let fit = fitting(self.memory, wanted, |n| {
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

    fn is_asked(&self) -> Result<(), Stop> {
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

    fn knn(
        &self,
        published: &Published,
        settings: &KnnSettings,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let encoder = self.build(published, training, |b, names| published.encoder(b, names))?;
        let fit = self.measure(encoder.as_ref(), training)?;
        meter.next(Phase::Prepare, training)?;
        Place::phase("features").enter();
        let bank = self.bank(encoder.as_ref(), fit, meter)?;
        note(training, |frozen| frozen.support_images = bank.len() as u64);
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
        let encoder = self.build(published, training, |b, names| published.encoder(b, names))?;
        let fit = self.measure(encoder.as_ref(), training)?;
        meter.next(Phase::Prepare, training)?;
        Place::phase("features").enter();
        let bank = self.bank(encoder.as_ref(), fit, meter)?;
        note(training, |frozen| frozen.support_images = bank.len() as u64);
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

    /// Asks about each test image; `ask` gives the answer in words.
    fn speak(
        &self,
        published: &Published,
        prompt: &str,
        room: usize,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
        ask: impl Fn(&Speaker, Read) -> anyhow::Result<String>,
    ) -> Result<(), Stop> {
        let classes = Answers::new(self.dataset.classes()).map_err(|why| bad(anyhow::anyhow!(why)))?;
        let speaker = self.build(published, training, |b, _| Speaker::new(published, b))?;
        training.recipe = Some(speaker.processor().recipe());
        let names: Vec<&str> = (0..self.dataset.classes().len()).map(|class| classes.name(class)).collect();
        let question = prompt.replace("{}", &names.join(", "));
        let read = |image: &RgbImage, ctx: &Ctx| -> Result<Read, Stop> {
            let read = guard(|| speaker.read(image, &question, room, self.device, ctx, &self.executor))?;
            let read = read.map_err(bad)?;
            if read.is_finite() { Ok(read) } else { Err(overflow(self.job.settings.evaluate.weights)) }
        };
        meter.next(Phase::Prepare, training)?;
        Place::phase("answers").enter();
        // The first image tells what the prompt takes, and whether it can be read at all.
        let macs = MacCounter::default();
        let first = self.dataset.decode(Split::Test, 0).map_err(bad)?;
        meter.work(0, || read(&first, &Ctx { macs: Some(&macs), ..Ctx::eval() }).map(drop))?;
        training.macs = macs.total();
        training.frozen = Some(record::Frozen {
            batch: 1,
            image_size: Some(speaker.processor().size()),
            ..record::Frozen::default()
        });

        meter.next(Phase::Evaluate, training)?;
        let limit = self.job.settings.evaluate.limit.map(|n| n as usize);
        let chosen = evaluation_batches(self.dataset.len(Split::Test), limit, 1);
        let mut said: BTreeMap<String, Answer> = BTreeMap::new();
        let mut right = 0u64;
        for (done, index) in (1u64..).zip(chosen.iter().flatten()) {
            let image = meter.wait(|| self.dataset.decode(Split::Test, *index)).map_err(bad)?;
            let truth = self.dataset.label(Split::Test, *index);
            let text = meter.work(1, || -> Result<String, Stop> {
                let read = read(&image, &Ctx::eval())?;
                Ok(guard(|| ask(&speaker, read))??)
            })?;
            let class = classes.meaning(&text).class().map(|class| class as u32);
            let is_right = u64::from(class == Some(truth));
            right += is_right;
            let text: String = text.chars().take(200).collect();
            let answer = said.entry(text.clone()).or_insert(Answer { text, class, times: 0, right: 0 });
            answer.times += 1;
            answer.right += is_right;
            training.evaluated = done;
            meter.progress(done, chosen.len() as u64, None);
            if done < chosen.len() as u64 {
                self.is_asked()?;
            }
        }
        training.top1_percent = Some(100.0 * right as f64 / training.evaluated as f64);
        let mut answers: Vec<Answer> = said.into_values().collect();
        answers.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.text.cmp(&b.text)));
        let others = answers.iter().skip(MOST_ANSWERS).map(|a| a.times).sum();
        answers.truncate(MOST_ANSWERS);
        note(training, |frozen| (frozen.answers, frozen.other_answers) = (answers, others));
        Ok(())
    }

    /// The class whose name is the likeliest answer.
    fn score(
        &self,
        published: &Published,
        prompt: &str,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let classes = Answers::new(self.dataset.classes()).map_err(|why| bad(anyhow::anyhow!(why)))?;
        let names: Vec<String> = (0..self.dataset.classes().len()).map(|c| classes.name(c).to_owned()).collect();
        // Names take a few tokens; how many, only the model's tokenizer knows.
        self.speak(published, prompt, 0, meter, training, |speaker, read| {
            let answers: Result<Vec<Vec<i64>>, _> = names.iter().map(|name| speaker.as_answer(name)).collect();
            let scores = speaker.scores(&read, &answers?, &Ctx::eval());
            let best = (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            Ok(best.map(|class| names[class].clone()).unwrap_or_default())
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
fn overflow(storage: Storage) -> Stop {
    let advice = match storage {
        Storage::Fp16 => "half precision has no number above 65,504; say weights = \"bf16\" or \"fp32\" in [evaluate]",
        _ => "are these its weights?",
    };
    Stop::BadInput(anyhow::anyhow!("in {} the model's results are not finite numbers: {advice}", storage.name()))
}

/// Adds to what the record tells beside the phases.
fn note(training: &mut Training, change: impl FnOnce(&mut record::Frozen)) {
    change(training.frozen.get_or_insert_default());
}
