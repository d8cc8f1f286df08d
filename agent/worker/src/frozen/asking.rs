//! Models that answer in words, in a trial: asked about each test image, or made to score the names of the classes.

use std::collections::BTreeMap;

use fleet_common::answer::Answers;
use fleet_common::plan::{VlmPromptSettings, VlmScoreSettings};
use fleet_common::record::{self, Answer, MOST_ANSWERS, Training};
use fleet_common::worker::Phase;
use fleet_dataset::Split;
use image::RgbImage;

use super::fit::fitting;
use super::published::Published;
use super::speaker::Speaker;
use super::trial::{Work, bad, note, overflow};
use crate::data::evaluation_batches;
use crate::models::vlm::Read;
use crate::nn::{Ctx, MacCounter};
use crate::torch::guard;
use crate::torch::memory::Place;
use crate::train::{PhaseMeter, Stop};

/// Longest answer that a record keeps, characters.
const LONGEST: usize = 200;

/// A model with its question.
struct Asked {
    speaker: Speaker,
    question: String,
    /// Tokens that an answer may take.
    room: usize,
}

impl Work<'_> {
    pub(super) fn ask(
        &self,
        published: &Published,
        settings: &VlmPromptSettings,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let classes = self.classes()?;
        let asked = self.asked(published, &settings.prompt, settings.new_tokens as usize, &classes, training)?;
        let most = asked.room;
        let answer = |read: Read| Ok(asked.speaker.answers(read, most, &Ctx::eval())?);
        self.speak(&asked, &classes, meter, training, answer)
    }

    pub(super) fn score(
        &self,
        published: &Published,
        settings: &VlmScoreSettings,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let classes = self.classes()?;
        let asked = self.asked(published, &settings.prompt, 0, &classes, training)?;
        let names: Vec<&str> = (0..self.dataset.classes().len()).map(|class| classes.name(class)).collect();
        let answers: Result<Vec<Vec<i64>>, _> = names.iter().map(|name| asked.speaker.as_answer(name)).collect();
        let answers = answers.map_err(bad)?;
        let likeliest = |scores: Vec<f64>| {
            // Of equal ones the first.
            let best = (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            best.map(|class| names[class].to_owned()).unwrap_or_default()
        };
        let answer =
            |read: Read| Ok(asked.speaker.scores(&read, &answers, &Ctx::eval()).into_iter().map(likeliest).collect());
        self.speak(&asked, &classes, meter, training, answer)
    }

    fn classes(&self) -> Result<Answers, Stop> {
        Answers::new(self.dataset.classes()).map_err(|why| bad(anyhow::anyhow!(why)))
    }

    fn asked(
        &self,
        published: &Published,
        prompt: &str,
        room: usize,
        classes: &Answers,
        training: &mut Training,
    ) -> Result<Asked, Stop> {
        let speaker = self.build(published, training, |b, _| Speaker::new(published, b))?;
        training.recipe = Some(speaker.processor().recipe());
        let names: Vec<&str> = (0..self.dataset.classes().len()).map(|class| classes.name(class)).collect();
        Ok(Asked { speaker, question: prompt.replace("{}", &names.join(", ")), room })
    }

    fn read(&self, asked: &Asked, images: &[RgbImage], ctx: &Ctx) -> Result<Read, Stop> {
        let Asked { speaker, question, room } = asked;
        let read = guard(|| speaker.read(images, question, *room, self.device, ctx, &self.executor))?;
        let read = read.map_err(bad)?;
        if read.is_finite() { Ok(read) } else { Err(overflow(self.job.settings.evaluate.weights)) }
    }

    /// Classifies the test images by what `answer` gives for each of the prompts that were read.
    fn speak(
        &self,
        asked: &Asked,
        classes: &Answers,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
        answer: impl Fn(Read) -> anyhow::Result<Vec<String>>,
    ) -> Result<(), Stop> {
        let about = |images: &[RgbImage]| -> Result<Vec<String>, Stop> {
            let read = self.read(asked, images, &Ctx::eval())?;
            Ok(guard(|| answer(read))??)
        };
        meter.next(Phase::Prepare, training)?;
        Place::phase("answers").enter();
        // The first image tells what the prompt takes, and whether it can be read at all.
        let macs = MacCounter::default();
        let first = self.dataset.decode(Split::Test, 0).map_err(bad)?;
        let counted = Ctx { macs: Some(&macs), ..Ctx::eval() };
        meter.work(0, || self.read(asked, std::slice::from_ref(&first), &counted).map(drop))?;
        training.macs = macs.total();
        let fit = meter
            .work(0, || fitting(self.memory, self.wanted(), |n| about(&vec![first.clone(); n as usize]).map(drop)))?;
        training.frozen = Some(record::Frozen {
            batch: fit.0,
            image_size: Some(asked.speaker.processor().size()),
            ..record::Frozen::default()
        });

        meter.next(Phase::Evaluate, training)?;
        let limit = self.job.settings.evaluate.limit.map(|n| n as usize);
        let batches = evaluation_batches(self.dataset.len(Split::Test), limit, fit.0 as usize);
        let images = batches.iter().map(Vec::len).sum::<usize>() as u64;
        let mut said = Said::default();
        for batch in batches {
            let decode = |index: &usize| self.dataset.decode(Split::Test, *index).map(|image| (*index, image));
            let decoded: Result<Vec<_>, _> = meter.wait(|| batch.iter().map(decode).collect());
            // Only prompts of one length are read together.
            let mut alike: BTreeMap<(u32, u32), (Vec<usize>, Vec<RgbImage>)> = BTreeMap::new();
            for (index, image) in decoded.map_err(bad)? {
                let (indices, images) = alike.entry(asked.speaker.grid(&image)).or_default();
                indices.push(index);
                images.push(image);
            }
            for (indices, images) in alike.into_values() {
                let texts = meter.work(images.len(), || about(&images))?;
                for (index, text) in indices.into_iter().zip(texts) {
                    said.note(classes, text, self.dataset.label(Split::Test, index));
                }
            }
            training.evaluated = said.times;
            meter.progress(said.times, images, None);
            if said.times < images {
                self.is_asked()?;
            }
        }
        training.top1_percent = Some(100.0 * said.right as f64 / said.times as f64);
        note(training, |frozen| (frozen.answers, frozen.other_answers) = said.told());
        Ok(())
    }
}

/// What was answered.
#[derive(Default)]
struct Said {
    answers: BTreeMap<String, Answer>,
    times: u64,
    right: u64,
}

impl Said {
    /// An answer about an image of class `truth`.
    fn note(&mut self, classes: &Answers, text: String, truth: u32) {
        let meant = classes.meaning(&text).class();
        let class = meant.map(|class| class as u32);
        let right = u64::from(class == Some(truth));
        self.times += 1;
        self.right += right;
        let text: String = text.chars().take(LONGEST).collect();
        let answer = self.answers.entry(text.clone()).or_insert_with(|| {
            let class_name = meant.map(|class| classes.name(class).to_owned());
            Answer { text, class, class_name, times: 0, right: 0 }
        });
        answer.times += 1;
        answer.right += right;
    }

    /// As many as a record keeps, the most frequent first, and how often others were given.
    fn told(self) -> (Vec<Answer>, u64) {
        let mut answers: Vec<Answer> = self.answers.into_values().collect();
        answers.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.text.cmp(&b.text)));
        let others = answers.iter().skip(MOST_ANSWERS).map(|a| a.times).sum();
        answers.truncate(MOST_ANSWERS);
        (answers, others)
    }
}
