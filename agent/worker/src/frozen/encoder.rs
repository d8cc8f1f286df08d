//! What models that are not trained make of images and of texts.

use fleet_tokenizer::{Tokenizer, TokenizerError};
use tch::{Device, Tensor};

use crate::models::clip::Clip;
use crate::models::dinov2::Dinov2;
use crate::models::siglip::Siglip;
use crate::nn::{Ctx, Executor};

/// An encoder of images.
pub trait Encoder {
    /// Features (batch, width) of `images` (batch, 3, size, size), prepared as the model expects; not normalised.
    fn encode(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor;
}

impl Encoder for Dinov2 {
    fn encode(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.forward(images, ctx, executor)
    }
}

/// Encoders of images and texts with a common space, and tokens of a text.
pub enum Contrastive {
    /// OpenAI's and OpenCLIP's.
    Clip(Box<Clip>, i64),
    /// Google's.
    Siglip(Box<Siglip>, i64),
}

impl Encoder for Contrastive {
    fn encode(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        match self {
            Self::Clip(clip, _) => clip.encode_images(images, ctx, executor),
            Self::Siglip(siglip, _) => siglip.encode_images(images, ctx, executor),
        }
    }
}

/// Why a text cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer's reason.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// It lacks a token that the model needs.
    #[error("the tokenizer has no token {0}, which the model's texts need; is it this model's?")]
    Lacks(&'static str),
    /// It has tokens that the model does not know.
    #[error("the tokenizer gave token {id}, and the model knows {known}; is it this model's?")]
    Beyond {
        /// The token.
        id: i64,
        /// How many the model knows.
        known: i64,
    },
}

impl Contrastive {
    /// Tokens (texts, context) of `texts`, as the model was trained on them: CLIP's between marks of beginning and end, zeros
    /// behind; SigLIP's with an end that is repeated to the last place. Longer ones are cut.
    ///
    /// # Errors
    /// The tokenizer is another model's.
    pub fn tokens(&self, tokenizer: &Tokenizer, texts: &[String], device: Device) -> Result<Tensor, TextError> {
        let token = |name: &'static str| tokenizer.id(name).map(i64::from).ok_or(TextError::Lacks(name));
        let (first, end, context) = match self {
            Self::Clip(_, context) => {
                // open_clip's vocabulary, and transformers'.
                let start = token("<start_of_text>").or_else(|_| token("<|startoftext|>"))?;
                let end = token("<end_of_text>").or_else(|_| token("<|endoftext|>"))?;
                (Some(start), end, *context)
            }
            Self::Siglip(_, context) => (None, token("</s>")?, *context),
        };
        let padding = if first.is_some() { 0 } else { end };
        let mut all = Vec::new();
        for text in texts {
            let text = if first.is_some() { text.clone() } else { plain(text) };
            let mut ids: Vec<i64> = first.into_iter().collect();
            ids.extend(tokenizer.encode(&text)?.into_iter().map(i64::from));
            ids.truncate(context as usize - 1);
            ids.push(end);
            ids.resize(context as usize, padding);
            all.extend(ids);
        }
        if let Some(id) = all.iter().copied().find(|id| *id >= self.vocabulary()) {
            return Err(TextError::Beyond { id, known: self.vocabulary() });
        }
        Ok(Tensor::from_slice(&all).view([-1, context]).to_device(device))
    }

    /// Embeddings (texts, width) of `tokens`, not normalised.
    pub fn encode_texts(&self, tokens: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        match self {
            Self::Clip(clip, _) => clip.encode_texts(tokens, ctx, executor),
            Self::Siglip(siglip, _) => siglip.encode_texts(tokens, ctx, executor),
        }
    }

    /// What cosines between embeddings are multiplied by.
    pub fn scale(&self) -> Tensor {
        match self {
            Self::Clip(clip, _) => clip.scale(),
            Self::Siglip(siglip, _) => siglip.scale_and_bias().0,
        }
    }

    /// Tokens that it knows.
    fn vocabulary(&self) -> i64 {
        match self {
            Self::Clip(clip, _) => clip.vocabulary(),
            Self::Siglip(siglip, _) => siglip.vocabulary(),
        }
    }
}

/// A text as SigLIP was trained on it: lower case, without ASCII's punctuation, single spaces (big_vision's
/// `canonicalize_text`).
fn plain(text: &str) -> String {
    let kept: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}
