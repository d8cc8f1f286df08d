//! Classifying by the features of training images, in a trial: nearest neighbours, and a linear probe.

use fleet_common::plan::{KnnSettings, LinearProbeSettings};
use fleet_common::record::{ProbeChoice, Training};
use fleet_common::worker::Phase;
use fleet_dataset::Split;
use tch::{Kind, Tensor};

use super::bank::Bank;
use super::encoder::Encoder;
use super::fit::Fit;
use super::knn::{Nearest, Votes};
use super::probe::{Probe, ProbeConfig};
use super::published::Published;
use super::trial::{Work, note};
use crate::data::evaluation_batches;
use crate::nn::Ctx;
use crate::torch::memory::Place;
use crate::torch::{GradMode, guard};
use crate::train::{PhaseMeter, Stop};

impl Work<'_> {
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

    pub(super) fn knn(
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

    pub(super) fn linear_probe(
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
            self.is_asked().is_ok()
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
}
