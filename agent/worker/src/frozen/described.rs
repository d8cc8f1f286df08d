//! Classifying by descriptions of the classes, in a trial: an image is of the class whose texts are nearest.

use fleet_common::answer::Answers;
use fleet_common::plan::ZeroShotSettings;
use fleet_common::record::Training;
use fleet_common::worker::Phase;
use fleet_tokenizer::Tokenizer;
use tch::{Kind, Tensor};

use super::encoder::Contrastive;
use super::published::Published;
use super::trial::{Work, bad, note};
use crate::models::{normalised, zero_shot_classifier};
use crate::nn::Ctx;
use crate::torch::guard;
use crate::torch::memory::Place;
use crate::train::{PhaseMeter, Stop};

/// Descriptions of classes that are encoded at once.
const TEXTS: i64 = 64;

impl Work<'_> {
    pub(super) fn zero_shot(
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
