//! A model that answers in words: how it is prompted, and how its answers end.

use std::cell::OnceCell;

use fleet_checkpoint::CheckpointError;
use fleet_common::spec::{Foundation, Interpolation};
use fleet_tokenizer::{Tokenizer, TokenizerError};
use image::RgbImage;
use serde_json::Value;
use tch::{Device, Tensor};

use super::published::Published;
use crate::data::processor::Processor;
use crate::models::config;
use crate::models::decoder::Cache;
use crate::models::mobilevlm::{MobileVlm, Projector};
use crate::models::paligemma::PaliGemma;
use crate::models::smolvlm::SmolVlm;
use crate::models::vlm::{Read, Vlm, read_beginning, read_behind};
use crate::nn::{Builder, Ctx, Executor};

/// Why a model cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The tokenizer's reason.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The folder's.
    #[error(transparent)]
    Folder(#[from] CheckpointError),
    /// The tokenizer lacks a token that prompts need.
    #[error("the tokenizer has no token {0}, which the model's prompts need; is it this model's?")]
    Lacks(&'static str),
    /// It has one that the model does not know.
    #[error("the tokenizer gave token {id}, and the model knows {known}; is it this model's?")]
    Beyond {
        /// The token.
        id: i64,
        /// How many the model knows.
        known: i64,
    },
    /// The prompt is too long.
    #[error(
        "image, question and answer take {needed} tokens, and the model reads {context}: name fewer classes in the prompt, \
         or leave them out of it"
    )]
    TooLong {
        /// Tokens.
        needed: i64,
        /// Tokens that the model can read.
        context: i64,
    },
}

/// How a model's prompts are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// SmolVLM's chat, with marks around each tile.
    SmolVlm,
    /// Image, then the question on a line.
    PaliGemma,
    /// A conversation in which the image stands in front of the question.
    MobileVlm,
}

/// A model with its tokenizer and processor.
pub struct Speaker {
    model: Box<dyn Vlm>,
    tokenizer: Tokenizer,
    processor: Processor,
    style: Style,
    /// Tokens that it can read.
    context: i64,
    /// Tokens that it knows.
    vocabulary: i64,
    /// Any of them ends an answer; the first is how it ends one itself.
    ends: Vec<i64>,
    /// The text that every prompt has in front of its first picture, read, where that can be read by itself.
    beginning: OnceCell<Option<Cache>>,
}

/// A part of a prompt.
enum Piece {
    Text(Vec<i64>),
    /// A picture, by its number.
    Picture(i64),
}

impl Speaker {
    /// The model of a folder; its tensors come from `b`.
    ///
    /// # Errors
    /// The configuration or the tokenizer is missing, or another model's.
    pub fn new(published: &Published, b: &Builder) -> anyhow::Result<Self> {
        let tokenizer = Tokenizer::open(published.folder().root()).map_err(SpeakerError::from)?;
        let (model, style, text): (Box<dyn Vlm>, Style, &Value) = match published.foundation() {
            Foundation::PaliGemma3b => {
                let c = config::paligemma(published.config());
                (Box::new(PaliGemma::new(b, &c)), Style::PaliGemma, &published.config()["text_config"])
            }
            Foundation::MobileVlm | Foundation::MobileVlmV2 => {
                let c = published.config();
                let projector = match c["mm_projector_type"].as_str() {
                    Some("ldpnet") => Projector::Ldp,
                    Some("ldpnetv2") => Projector::LdpV2,
                    other => anyhow::bail!(published.wrong(format!(
                        "expected the mm_projector_type ldpnet or ldpnetv2, found {}",
                        other.map_or_else(|| "none".to_owned(), |kind| format!("\"{kind}\""))
                    ))),
                };
                let sizes = config::mobilevlm(c, &c["vision_config"], projector);
                let sizes = sizes.map_err(|problem| published.wrong(problem))?;
                (Box::new(MobileVlm::new(b, &sizes)), Style::MobileVlm, c)
            }
            _ => {
                let c = config::smolvlm(published.config());
                (Box::new(SmolVlm::new(b, &c)), Style::SmolVlm, &published.config()["text_config"])
            }
        };
        let names: &[&'static str] = match style {
            Style::SmolVlm => &["<end_of_utterance>", "<|im_end|>"],
            Style::PaliGemma => &["<eos>"],
            Style::MobileVlm => &["</s>"],
        };
        let ends: Vec<i64> = names.iter().filter_map(|name| tokenizer.id(name)).map(i64::from).collect();
        if ends.is_empty() {
            return Err(SpeakerError::Lacks(names[0]).into());
        }
        let vocabulary = model.decoder().table().size()[0];
        // Where a configuration says nothing, what transformers' classes have.
        let context =
            text["max_position_embeddings"].as_i64().unwrap_or(if style == Style::MobileVlm { 2048 } else { 8192 });
        let processor = processor(published, style)?;
        Ok(Self { model, tokenizer, processor, style, context, vocabulary, ends, beginning: OnceCell::new() })
    }

    /// What it does to images.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Prompts of images, which are cut into as many tiles as each other ([`Self::grid`]), and a question, read.
    ///
    /// # Errors
    /// It is longer, with `room` tokens behind it, than the model reads; the tokenizer is another model's.
    pub fn read(
        &self,
        images: &[RgbImage],
        question: &str,
        room: usize,
        device: Device,
        ctx: &Ctx,
        executor: &dyn Executor,
    ) -> anyhow::Result<Read> {
        let grid = images.first().map_or((1, 1), |image| self.grid(image));
        let mut pictures = Vec::new();
        for image in images {
            let padded = (self.style == Style::MobileVlm).then(|| square(image, self.processor.recipe().mean));
            pictures.push(self.processor.apply(padded.as_ref().unwrap_or(image), device)?);
        }
        let batch = images.len() as i64;
        let pictures = Tensor::cat(&pictures, 0).to_kind(self.model.decoder().table().kind());
        let seen = self.model.image_tokens(&pictures, ctx, executor);
        let seen = seen.view([batch, -1, seen.size()[1], seen.size()[2]]); // (batch, pictures, tokens, width)
        let mut pieces = self.pieces(question, grid)?;
        let beginning = self.beginning(&pieces[0], device);
        if beginning.is_some() {
            pieces.remove(0);
        }
        let mut parts = Vec::new();
        for piece in pieces {
            parts.push(match piece {
                Piece::Text(ids) => {
                    let ids = Tensor::from_slice(&ids).to_device(device).unsqueeze(0);
                    self.model.decoder().embed(&ids).expand([batch, -1, -1], false)
                }
                Piece::Picture(number) => seen.select(1, number),
            });
        }
        let x = Tensor::cat(&parts, 1);
        let cache = beginning.map(|cache| cache.for_each_of(batch)).unwrap_or_default();
        let needed = cache.tokens() + x.size()[1] + room as i64;
        if needed > self.context {
            return Err(SpeakerError::TooLong { needed, context: self.context }.into());
        }
        Ok(read_behind(self.model.as_ref(), cache, x, ctx))
    }

    /// What all prompts begin with, where `first` is a text: read once, and counted for no image.
    fn beginning(&self, first: &Piece, device: Device) -> Option<&Cache> {
        let Piece::Text(ids) = first else { return None };
        let read = || read_beginning(self.model.as_ref(), &Tensor::from_slice(ids).to_device(device), &Ctx::eval());
        self.beginning.get_or_init(read).as_ref()
    }

    /// Rows and columns of tiles that an image is cut into.
    pub fn grid(&self, image: &RgbImage) -> (u32, u32) {
        self.processor.grid(image)
    }

    /// Per prompt an answer of at most `most` tokens, in words.
    ///
    /// # Errors
    /// One says what is no text.
    pub fn answers(&self, read: Read, most: usize, ctx: &Ctx) -> Result<Vec<String>, SpeakerError> {
        // A model may know more tokens than its tokenizer.
        let known = self.tokenizer.size() as i64;
        let words = |mut ids: Vec<i64>| {
            if ids.last().is_some_and(|id| self.ends.contains(id)) {
                ids.pop();
            }
            let ids: Vec<u32> = ids.into_iter().filter(|id| *id < known).map(|id| id as u32).collect();
            Ok(self.tokenizer.decode(&ids)?)
        };
        read.answers(self.model.as_ref(), most, &self.ends, ctx).into_iter().map(words).collect()
    }

    /// Per prompt the log-probability of each of `answers` behind it, divided by its tokens.
    pub fn scores(&self, read: &Read, answers: &[Vec<i64>], ctx: &Ctx) -> Vec<Vec<f64>> {
        let per_token = |sums: Vec<f64>| sums.iter().zip(answers).map(|(s, a)| s / a.len().max(1) as f64).collect();
        read.scores(self.model.as_ref(), answers, ctx).into_iter().map(per_token).collect()
    }

    /// A text as an answer to be scored: with the end behind it, so that a name which begins another is not that one's
    /// beginning.
    ///
    /// # Errors
    /// The tokenizer is another model's.
    pub fn as_answer(&self, text: &str) -> Result<Vec<i64>, SpeakerError> {
        // Behind a prompt that ends in a word, an answer begins with a space; a sentence piece brings it by itself.
        let text = if self.style == Style::SmolVlm { format!(" {text}") } else { text.to_owned() };
        let mut ids = self.tokens(&text)?;
        ids.push(self.ends[0]);
        Ok(ids)
    }

    fn tokens(&self, text: &str) -> Result<Vec<i64>, SpeakerError> {
        let ids: Vec<i64> = self.tokenizer.encode(text)?.into_iter().map(i64::from).collect();
        match ids.iter().copied().find(|id| *id >= self.vocabulary) {
            Some(id) => Err(SpeakerError::Beyond { id, known: self.vocabulary }),
            None => Ok(ids),
        }
    }

    fn token(&self, name: &'static str) -> Result<i64, SpeakerError> {
        self.tokenizer.id(name).map(i64::from).ok_or(SpeakerError::Lacks(name))
    }

    fn pieces(&self, question: &str, (rows, columns): (u32, u32)) -> Result<Vec<Piece>, SpeakerError> {
        let text = |text: &str| self.tokens(text).map(Piece::Text);
        match self.style {
            Style::SmolVlm => {
                let mut pieces = vec![text("<|im_start|>User:")?];
                let mut picture = 0;
                if rows * columns > 1 {
                    for row in 1..=rows {
                        for column in 1..=columns {
                            pieces.push(text(&format!("<fake_token_around_image><row_{row}_col_{column}>"))?);
                            pieces.push(Piece::Picture(picture));
                            picture += 1;
                        }
                        // The last row's end and what follows are read as one text: two line ends may be one token.
                        if row < rows {
                            pieces.push(text("\n")?);
                        }
                    }
                    pieces.push(text("\n\n<fake_token_around_image><global-img>")?);
                } else {
                    pieces.push(text("<fake_token_around_image><global-img>")?);
                }
                pieces.push(Piece::Picture(picture));
                pieces.push(text(&format!("<fake_token_around_image>{question}<end_of_utterance>\nAssistant:"))?);
                Ok(pieces)
            }
            Style::PaliGemma => {
                let mut ids = vec![self.token("<bos>")?];
                ids.extend(self.tokens(&format!("{question}\n"))?);
                Ok(vec![Piece::Picture(0), Piece::Text(ids)])
            }
            Style::MobileVlm => {
                const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant \
                                      gives helpful, detailed, and polite answers to the user's questions. USER: ";
                let mut before = vec![self.token("<s>")?];
                before.extend(self.tokens(SYSTEM)?);
                Ok(vec![Piece::Text(before), Piece::Picture(0), text(&format!("\n{question} ASSISTANT:"))?])
            }
        }
    }
}

/// A picture on a square of the mean colour, as LLaVA and MobileVLM pad it.
fn square(image: &RgbImage, mean: [f64; 3]) -> RgbImage {
    let side = image.width().max(image.height());
    let mut out = RgbImage::from_pixel(side, side, image::Rgb(mean.map(|m| (m * 255.0) as u8)));
    let (left, top) = ((side - image.width()) / 2, (side - image.height()) / 2);
    image::imageops::replace(&mut out, image, left.into(), top.into());
    out
}

/// What its `preprocessor_config.json` says, or what the public model's does.
fn processor(published: &Published, style: Style) -> Result<Processor, CheckpointError> {
    let pictures = published.pictures();
    if style != Style::SmolVlm {
        let pictures = pictures?;
        let (size, recipe) = (pictures.size, pictures.recipe);
        return Ok(match recipe.crop_share {
            Some(_) => Processor::Centre { recipe, size },
            None => Processor::Squash { recipe, size },
        });
    }
    let config = published.folder().json("preprocessor_config.json")?.unwrap_or(Value::Null);
    let tile = config::smolvlm(published.config()).vision.image_size;
    let side =
        |of: &Value, usual: u32| of.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(usual);
    let tile = u32::try_from(tile).unwrap_or(512);
    let said = side(&config["max_image_size"]["longest_edge"], tile);
    if said != tile {
        return Err(published.wrong(format!("its processor makes tiles of {said} pixels, and the model is for {tile}")));
    }
    let mut recipe = published.foundation().recipe();
    if config["resample"].as_i64() == Some(3) {
        recipe.interpolation = Interpolation::Bicubic;
    }
    let split = config["do_image_splitting"].as_bool().unwrap_or(true);
    Ok(Processor::Tiles { recipe, first: side(&config["size"]["longest_edge"], 2048), tile, split })
}
