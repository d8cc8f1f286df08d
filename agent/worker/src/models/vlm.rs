//! Models that read an image and a text, and go on with the text: what is common to them, answering, and scoring answers.

use tch::{Device, Kind, Tensor};

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

/// What a model has read of prompts of one length.
pub struct Read {
    cache: Cache,
    /// What the decoder has made of them, without a common beginning, (batch, tokens, width).
    x: Tensor,
}

/// Reads prompts of `x` (batch, tokens, width).
pub fn read(model: &dyn Vlm, x: Tensor, ctx: &Ctx) -> Read {
    read_behind(model, Cache::default(), x, ctx)
}

/// Reads `ids` (tokens) as what prompts begin with in common: each of them is gone on with by [`read_behind`]. `None` where
/// what stands in front sees what follows, so that it cannot be read by itself.
pub fn read_beginning(model: &dyn Vlm, ids: &Tensor, ctx: &Ctx) -> Option<Cache> {
    matches!(model.prompt_sight(), Sight::Causal)
        .then(|| read(model, model.decoder().embed(&ids.unsqueeze(0)), ctx).cache)
}

/// Reads what prompts have behind their beginning, `x` (batch, tokens, width); `cache` has read the beginning of each.
pub fn read_behind(model: &dyn Vlm, mut cache: Cache, x: Tensor, ctx: &Ctx) -> Read {
    let at = positions(cache.tokens(), x.size()[1], &x);
    let x = model.decoder().read(x, &at, &model.prompt_sight(), &mut cache, ctx);
    Read { x, cache }
}

impl Read {
    /// Logits (batch, tokens, vocabulary) behind each token of the prompts, but those of a common beginning.
    pub fn logits(&self, model: &dyn Vlm, ctx: &Ctx) -> Tensor {
        model.logits(&self.x, ctx)
    }

    /// Whether what the decoder has made of them are finite numbers.
    pub fn is_finite(&self) -> bool {
        self.x.isfinite().all().int64_value(&[]) != 0
    }

    /// Logits (batch, vocabulary) of what follows the prompts.
    fn last(&self, model: &dyn Vlm, ctx: &Ctx) -> Tensor {
        model.logits(&self.x.narrow(1, self.x.size()[1] - 1, 1), ctx).squeeze_dim(1)
    }

    /// Per prompt the most likely next token, again and again: up to `most` of them, and none behind one of `ends`, which is
    /// the last. All prompts are gone on with until the last of them has ended.
    pub fn answers(mut self, model: &dyn Vlm, most: usize, ends: &[i64], ctx: &Ctx) -> Vec<Vec<i64>> {
        let mut next = self.last(model, ctx);
        let mut answers: Vec<Vec<i64>> = vec![Vec::new(); self.x.size()[0] as usize];
        let has_ended = |answer: &Vec<i64>| answer.len() >= most || answer.last().is_some_and(|t| ends.contains(t));
        while !answers.iter().all(has_ended) {
            let tokens = next.argmax(-1, false); // (batch)
            let said: Vec<i64> = Vec::try_from(&tokens.to_device(Device::Cpu)).unwrap_or_default();
            for (answer, token) in answers.iter_mut().zip(said) {
                if !has_ended(answer) {
                    answer.push(token);
                }
            }
            if answers.iter().all(has_ended) {
                break;
            }
            let x = model.decoder().embed(&tokens.unsqueeze(1));
            let at = positions(self.cache.tokens(), 1, &x);
            let x = model.decoder().read(x, &at, &Sight::Causal, &mut self.cache, ctx);
            next = model.logits(&x, ctx).squeeze_dim(1);
        }
        answers
    }

    /// Logits (batch, tokens, vocabulary) behind each of these tokens, as what follows each prompt.
    pub fn following(&self, model: &dyn Vlm, ids: &[i64], ctx: &Ctx) -> Tensor {
        let ids = Tensor::from_slice(ids).unsqueeze(0).to_device(self.x.device());
        let x = self.for_all(&model.decoder().embed(&ids));
        let at = positions(self.cache.tokens(), ids.size()[1], &x);
        let x = model.decoder().read(x, &at, &Sight::Causal, &mut self.cache.shared(), ctx);
        model.logits(&x, ctx)
    }

    /// The same (1, tokens, width) for each prompt.
    fn for_all(&self, x: &Tensor) -> Tensor {
        x.expand([self.x.size()[0], -1, -1], false)
    }

    /// Per prompt the log-probability of each answer, summed over its tokens, as what follows it. A prompt is read once, and
    /// all answers are read at once behind it, as one row in which each sees the prompt and itself.
    pub fn scores(&self, model: &dyn Vlm, answers: &[Vec<i64>], ctx: &Ctx) -> Vec<Vec<f64>> {
        let device = self.x.device();
        let first = self.last(model, ctx).to_kind(Kind::Float).log_softmax(-1, None::<Kind>);
        let before = self.cache.tokens();
        // An answer's last token is told by the one before it, and need not be read.
        let (mut ids, mut next, mut at, mut whose) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (answer, number) in answers.iter().zip(0i64..) {
            for (place, pair) in (before..).zip(answer.windows(2)) {
                ids.push(pair[0]);
                next.push(pair[1]);
                at.push(place);
                whose.push(number);
            }
        }
        let row = |values: &[i64]| Tensor::from_slice(values).to_device(device).unsqueeze(0);
        let begins: Vec<i64> = answers.iter().map(|answer| answer.first().copied().unwrap_or(0)).collect();
        // An empty answer says nothing, for certain.
        let says: Vec<f64> = answers.iter().map(|answer| if answer.is_empty() { 0.0 } else { 1.0 }).collect();
        let says = Tensor::from_slice(&says).to_device(device);
        let mut sums = first.index_select(1, &row(&begins).view([-1])).to_kind(Kind::Double) * says; // (batch, answers)
        if !ids.is_empty() {
            let (tokens, at, whose) = (row(&ids), row(&at), row(&whose));
            let same = whose.unsqueeze(2).eq_tensor(&whose.unsqueeze(1)).tril(0); // (1, tokens, tokens)
            let prompt = Tensor::ones([1, ids.len() as i64, before], (Kind::Bool, device));
            let sees = Tensor::cat(&[prompt, same], 2).unsqueeze(1);
            let x = self.for_all(&model.decoder().embed(&tokens));
            let x = model.decoder().read(x, &at, &Sight::Of(&sees), &mut self.cache.shared(), ctx);
            let likely = next_likely(model, &x, &row(&next), ctx);
            sums = sums.index_add(1, &whose.view([-1]), &likely);
        }
        let sums = sums.to_device(Device::Cpu);
        (0..sums.size()[0]).map(|i| Vec::try_from(&sums.select(0, i)).unwrap_or_default()).collect()
    }
}

/// Tokens whose logits are looked at at once: a vocabulary of a quarter of a million takes a megabyte for each.
const ROWS: i64 = 64;

/// The log-probability (batch, tokens) of each token of `next` (1, tokens) behind `x` (batch, tokens, width), in f64.
fn next_likely(model: &dyn Vlm, x: &Tensor, next: &Tensor, ctx: &Ctx) -> Tensor {
    let (batch, tokens) = (x.size()[0], x.size()[1]);
    let piece = (ROWS / batch).max(1);
    let of = |from: i64| {
        let n = piece.min(tokens - from);
        let likely = model.logits(&x.narrow(1, from, n), ctx).to_kind(Kind::Float).log_softmax(-1, None::<Kind>);
        let next = next.narrow(1, from, n).unsqueeze(2).expand([batch, -1, -1], false);
        likely.gather(2, &next, false).squeeze_dim(2).to_kind(Kind::Double)
    };
    let parts: Vec<Tensor> = (0..tokens).step_by(piece as usize).map(of).collect();
    Tensor::cat(&parts, 1)
}
