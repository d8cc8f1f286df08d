//! Models that read an image and a text, and go on with the text: what is common to them, answering, and scoring answers.

use tch::{Kind, Tensor};

use crate::nn::{Ctx, Executor};

use super::decoder::{Cache, Decoder, Sight};

/// A model of images and text.
pub trait Vlm {
    /// What the decoder sees of `images` (tiles, 3, size, size): (tiles, tokens, width).
    fn image_tokens(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor;

    /// The decoder.
    fn decoder(&self) -> &Decoder;

    /// Logits (batch, tokens, vocabulary) of what the decoder has made, (batch, tokens, width).
    fn logits(&self, x: &Tensor, ctx: &Ctx) -> Tensor;

    /// Whether a prompt's tokens see each other in both directions.
    fn prompt_sight(&self) -> Sight<'static>;
}

/// Embeddings (1, tokens, width) of `ids` (tokens), in which each token `place` is replaced by the next of `image` (tokens
/// of the image, width). `None` if there are not as many places as tokens.
pub fn with_image(decoder: &Decoder, ids: &Tensor, place: i64, image: &Tensor) -> Option<Tensor> {
    let places = ids.eq(place);
    if places.sum(Kind::Int64).int64_value(&[]) != image.size()[0] {
        return None;
    }
    // Any token's embedding will do where an image's goes.
    let x = decoder.embed(&ids.masked_fill(&places, 0));
    let at = places.nonzero().squeeze_dim(1);
    Some(x.index_copy(0, &at, &image.to_kind(x.kind())).unsqueeze(0))
}

/// Positions (1, tokens) of so many tokens behind so many others.
fn positions(before: i64, tokens: i64, like: &Tensor) -> Tensor {
    Tensor::arange_start(before, before + tokens, (Kind::Int64, like.device())).unsqueeze(0)
}

/// What a model has read of a prompt, and its guess at what follows.
pub struct Read {
    cache: Cache,
    /// Logits (tokens, vocabulary) behind each token of the prompt.
    pub logits: Tensor,
}

/// Reads a prompt of `x` (1, tokens, width).
pub fn read(model: &dyn Vlm, x: Tensor, ctx: &Ctx) -> Read {
    let mut cache = Cache::default();
    let at = positions(0, x.size()[1], &x);
    let x = model.decoder().read(x, &at, &model.prompt_sight(), &mut cache, ctx);
    Read { logits: model.logits(&x, ctx).squeeze_dim(0), cache }
}

impl Read {
    fn last(&self) -> Tensor {
        self.logits.select(0, -1)
    }

    /// The most likely next token, again and again: up to `most` of them, and none behind one of `ends`, which is the last.
    pub fn answer(mut self, model: &dyn Vlm, most: usize, ends: &[i64], ctx: &Ctx) -> Vec<i64> {
        let mut next = self.last();
        let mut answer = Vec::new();
        while answer.len() < most {
            let token = next.argmax(-1, false);
            answer.push(token.int64_value(&[]));
            if answer.last().is_some_and(|t| ends.contains(t)) || answer.len() == most {
                break;
            }
            let x = model.decoder().embed(&token.view([1, 1]));
            let at = positions(self.cache.tokens(), 1, &x);
            let x = model.decoder().read(x, &at, &Sight::Causal, &mut self.cache, ctx);
            next = model.logits(&x, ctx).view([-1]);
        }
        answer
    }

    /// Logits (tokens, vocabulary) behind each of these tokens, as what follows the prompt.
    pub fn following(&self, model: &dyn Vlm, ids: &[i64], ctx: &Ctx) -> Tensor {
        let ids = Tensor::from_slice(ids).unsqueeze(0).to_device(self.logits.device());
        let x = model.decoder().embed(&ids);
        let at = positions(self.cache.tokens(), ids.size()[1], &x);
        let x = model.decoder().read(x, &at, &Sight::Causal, &mut self.cache.repeated(1), ctx);
        model.logits(&x, ctx).squeeze_dim(0)
    }

    /// The log-probability of each answer, summed over its tokens, as what follows the prompt; all at once, with the prompt
    /// read once.
    pub fn scores(&self, model: &dyn Vlm, answers: &[Vec<i64>], ctx: &Ctx) -> Vec<f64> {
        let longest = answers.iter().map(Vec::len).max().unwrap_or(0) as i64;
        let count = answers.len() as i64;
        if longest == 0 {
            return vec![0.0; answers.len()];
        }
        // What is behind an answer's end is computed and not looked at: it is seen by nothing in front of it.
        let mut ids = vec![0; (longest * count) as usize];
        for (row, answer) in ids.chunks_mut(longest as usize).zip(answers) {
            row[..answer.len()].copy_from_slice(answer);
        }
        let ids = Tensor::from_slice(&ids).view([count, longest]).to_device(self.logits.device());
        let first = self.last().view([1, 1, -1]).expand([count, 1, -1], false);
        let logits = if longest == 1 {
            first
        } else {
            let x = model.decoder().embed(&ids.narrow(1, 0, longest - 1));
            let at = positions(self.cache.tokens(), longest - 1, &x);
            let mut cache = self.cache.repeated(count);
            let x = model.decoder().read(x, &at, &Sight::Causal, &mut cache, ctx);
            Tensor::cat(&[first, model.logits(&x, ctx)], 1)
        };
        let likely = logits.to_kind(Kind::Float).log_softmax(-1, None::<Kind>);
        let likely = likely.gather(2, &ids.unsqueeze(2), false).squeeze_dim(2); // (answers, longest)
        let sum = |(row, answer): (i64, &Vec<i64>)| {
            likely.select(0, row).narrow(0, 0, answer.len() as i64).sum(Kind::Double).double_value(&[])
        };
        (0..).zip(answers).map(sum).collect()
    }
}
