//! Decoders of text, as Llama (Touvron et al., arXiv 2302.13971) and Gemma (arXiv 2403.08295) are: pre-norm blocks with
//! rotary positions (Su et al., arXiv 2104.09864), grouped keys and values, and a gated MLP.

use tch::{Device, Kind, Tensor};

use crate::nn::{Activation, Builder, Ctx, Init, Linear, LinearShape, RmsNorm};

use super::attention::split_heads;

/// Sizes of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Kinds of tokens.
    pub vocabulary: i64,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub heads: i64,
    /// Heads of keys and values, each for as many of queries.
    pub kv_heads: i64,
    /// Width of a head.
    pub head: i64,
    /// Width of the MLP's middle.
    pub hidden: i64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Base of the rotary positions' wavelengths.
    pub rope_theta: f64,
    /// What sets it apart from a Llama.
    pub family: Family,
}

/// Families of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// SiLU gates.
    Llama,
    /// Gates by GELU's approximation, norms that multiply by one more than their weight, embeddings of text that are
    /// scaled by the root of their width.
    Gemma,
}

/// Keys and values of what a decoder has read, per block (batch, key heads, tokens, head).
#[derive(Debug, Default)]
pub struct Cache(Vec<(Tensor, Tensor)>);

impl Cache {
    /// Tokens that have been read.
    pub fn tokens(&self) -> i64 {
        self.0.first().map_or(0, |(keys, _)| keys.size()[2])
    }

    /// What block `i` has read, with these keys and values behind it.
    fn extended(&mut self, i: usize, keys: Tensor, values: Tensor) -> (&Tensor, &Tensor) {
        match self.0.get_mut(i) {
            Some((before, and)) => {
                *before = Tensor::cat(&[&*before, &keys], 2);
                *and = Tensor::cat(&[&*and, &values], 2);
            }
            None => self.0.push((keys, values)),
        }
        let (keys, values) = &self.0[i];
        (keys, values)
    }

    /// The same for another continuation; nothing is copied.
    pub fn shared(&self) -> Self {
        Self(self.0.iter().map(|(k, v)| (k.shallow_clone(), v.shallow_clone())).collect())
    }

    /// What one row has read, for each of `batch` rows; nothing is copied.
    pub fn for_each_of(&self, batch: i64) -> Self {
        let expand = |t: &Tensor| t.expand([batch, -1, -1, -1], false);
        Self(self.0.iter().map(|(k, v)| (expand(k), expand(v))).collect())
    }
}

/// Which tokens see which.
pub enum Sight<'a> {
    /// Each sees itself, and all before it.
    Causal,
    /// Each sees all of what is read now, and all before.
    Full,
    /// Causal, and of (batch, tokens) those that are not false.
    CausalWithout(&'a Tensor),
    /// As this says, (batch or 1, 1, tokens, before + tokens).
    Of(&'a Tensor),
}

/// A decoder, without what makes logits of its output.
pub struct Decoder {
    embedding: Tensor,
    scale: f64,
    blocks: Vec<DecoderBlock>,
    norm: RmsNorm,
    head: i64,
    theta: f64,
}

struct DecoderBlock {
    heads: i64,
    kv_heads: i64,
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Decoder {
    /// Builds the decoder below `b`.
    pub fn new(b: &Builder, c: &DecoderConfig) -> Self {
        if c.kv_heads < 1 || c.heads % c.kv_heads != 0 || c.head % 2 != 0 {
            b.problem(format!(
                "a decoder needs heads ({}) that are a multiple of those of its keys ({}), of an even width ({})",
                c.heads, c.kv_heads, c.head
            ));
        }
        let norm = |b: &Builder, name: &str| match c.family {
            Family::Llama => b.rms_norm(name, c.width, c.norm_eps),
            Family::Gemma => b.rms_norm_of_one_and(name, c.width, c.norm_eps),
        };
        let block = |b: &Builder| {
            let linear =
                |name, inputs, outputs| b.linear_shaped(name, inputs, outputs, LinearShape::USUAL.without_bias());
            let (queries, keys) = (c.heads * c.head, c.kv_heads * c.head);
            DecoderBlock {
                heads: c.heads,
                kv_heads: c.kv_heads,
                norm1: norm(b, "input_layernorm"),
                q: linear("self_attn.q_proj", c.width, queries),
                k: linear("self_attn.k_proj", c.width, keys),
                v: linear("self_attn.v_proj", c.width, keys),
                o: linear("self_attn.o_proj", queries, c.width),
                norm2: norm(b, "post_attention_layernorm"),
                gate: linear("mlp.gate_proj", c.width, c.hidden),
                up: linear("mlp.up_proj", c.width, c.hidden),
                down: linear("mlp.down_proj", c.hidden, c.width),
                activation: match c.family {
                    Family::Llama => Activation::Silu,
                    Family::Gemma => Activation::GeluTanh,
                },
            }
        };
        Self {
            embedding: b.param("embed_tokens.weight", &[c.vocabulary, c.width], Init::Normal { std: 0.02 }),
            scale: if c.family == Family::Gemma { (c.width as f64).sqrt() } else { 1.0 },
            blocks: (0..c.depth).map(|i| block(&b.sub("layers").sub(i))).collect(),
            norm: norm(b, "norm"),
            head: c.head,
            theta: c.rope_theta,
        }
    }

    /// Embeddings (batch, tokens, width) of `ids` (batch, tokens).
    pub fn embed(&self, ids: &Tensor) -> Tensor {
        let x = Tensor::embedding(&self.embedding, ids, -1, false, false);
        if self.scale == 1.0 { x } else { x * self.scale }
    }

    /// The table of embeddings (vocabulary, width), for a head that is tied to it.
    pub fn table(&self) -> &Tensor {
        &self.embedding
    }

    /// Reads `x` (batch, tokens, width) behind what `cache` has, at these positions (batch or 1, tokens), and adds it
    /// to the cache; normalised (batch, tokens, width).
    pub fn read(&self, x: Tensor, positions: &Tensor, sight: &Sight, cache: &mut Cache, ctx: &Ctx) -> Tensor {
        let (tokens, before) = (x.size()[1], cache.tokens());
        let rotation = Rotation::new(positions, self.head, self.theta, x.device());
        let mask = mask(sight, tokens, before, x.device());
        let mut x = x;
        for (i, block) in self.blocks.iter().enumerate() {
            let normal = block.norm1.forward(&x);
            let [queries, keys, values] = block.attended(&normal, &rotation, ctx);
            let (keys, values) = cache.extended(i, keys, values);
            x = block.forward(x, &queries, keys, values, mask.as_ref(), ctx);
        }
        self.norm.forward(&x)
    }
}

/// What a token sees of those before it and of those that are read now: (batch or 1, 1, tokens, before + tokens), true
/// where it does. `None` where it sees all.
fn mask(sight: &Sight, tokens: i64, before: i64, device: Device) -> Option<Tensor> {
    let causal = || {
        let all = Tensor::ones([tokens, before + tokens], (Kind::Bool, device));
        all.tril(before).view([1, 1, tokens, before + tokens])
    };
    match sight {
        Sight::Full => None,
        Sight::Of(sees) => Some(sees.shallow_clone()),
        Sight::Causal if tokens == 1 => None,
        Sight::Causal => Some(causal()),
        Sight::CausalWithout(present) => {
            let present = present.to_kind(Kind::Bool);
            Some(causal().logical_and(&present.view([present.size()[0], 1, 1, before + tokens])))
        }
    }
}

/// Rotations of pairs of values by angles that grow with the position: value i with value i + head/2.
struct Rotation {
    /// (batch or 1, 1, tokens, head).
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    fn new(positions: &Tensor, head: i64, theta: f64, device: Device) -> Self {
        let halves = Tensor::arange_start_step(0, head, 2, (Kind::Float, device)) / head as f64;
        let frequencies = (halves * -theta.ln()).exp(); // (head / 2)
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * frequencies; // (batch, tokens, head / 2)
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1);
        Self { cos: angles.cos(), sin: angles.sin() }
    }

    /// Rotates `x` (batch, heads, tokens, head).
    fn apply(&self, x: &Tensor) -> Tensor {
        let half = x.size()[3] / 2;
        let turned = Tensor::cat(&[-x.narrow(3, half, half), x.narrow(3, 0, half)], 3);
        let [cos, sin] = [&self.cos, &self.sin].map(|t| t.to_kind(x.kind()));
        x * cos + turned * sin
    }
}

impl DecoderBlock {
    /// Queries, keys and values of normalised tokens.
    fn attended(&self, normal: &Tensor, rotation: &Rotation, ctx: &Ctx) -> [Tensor; 3] {
        [
            rotation.apply(&split_heads(&self.q.forward(normal, ctx), self.heads)),
            rotation.apply(&split_heads(&self.k.forward(normal, ctx), self.kv_heads)),
            split_heads(&self.v.forward(normal, ctx), self.kv_heads),
        ]
    }

    fn forward(
        &self,
        x: Tensor,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Tensor {
        ctx.count(2 * queries.numel() as i64 * keys.size()[2]);
        let groups = self.heads != self.kv_heads;
        let y = Tensor::scaled_dot_product_attention(queries, keys, values, mask, 0.0, false, None, groups);
        let y = y.transpose(1, 2).flatten(2, 3); // (batch, tokens, heads·head)
        let x = x + self.o.forward(&y, ctx);
        let normal = self.norm2.forward(&x);
        let gated = self.activation.forward(&self.gate.forward(&normal, ctx)) * self.up.forward(&normal, ctx);
        x + self.down.forward(&gated, ctx)
    }
}
