//! SigLIP (Zhai et al., arXiv 2303.15343): encoders of images and texts as CLIP's, trained with a sigmoid per pair. Under
//! transformers' names.

use tch::{Kind, Tensor};

use crate::nn::{Activation, Builder, Conv2d, ConvShape, Ctx, Executor, Init, LayerNorm, Linear, Part, Slot};

use super::attention::{scaled_dot_product, split_heads};
use super::tower::{Stack, tokens};
use super::transformer::{BlockNames, BlockShape};

/// Sizes of an encoder of images.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipVisionConfig {
    /// Side of the square images, pixels.
    pub image_size: i64,
    /// Side of a square patch, pixels.
    pub patch_size: i64,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the MLP's middle.
    pub hidden: i64,
    /// Epsilon of every layer norm.
    pub norm_eps: f64,
}

/// Sizes of an encoder of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipTextConfig {
    /// Tokens of a text, padding included: there is no mask.
    pub context: i64,
    /// Kinds of tokens.
    pub vocabulary: i64,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the MLP's middle.
    pub hidden: i64,
    /// Epsilon of every layer norm.
    pub norm_eps: f64,
    /// Width of an embedding.
    pub embedding: i64,
}

/// The encoder of images up to its last norm: what language models see of an image.
pub struct SiglipVision {
    patch_embed: Conv2d,
    positions: Tensor,
    blocks: Stack,
    norm: LayerNorm,
}

impl SiglipVision {
    /// Builds the encoder below `b`.
    pub fn new(b: &Builder, c: &SiglipVisionConfig) -> Self {
        let side = c.image_size / c.patch_size;
        let shape = BlockShape {
            width: c.width,
            heads: c.heads,
            hidden: c.hidden,
            eps: c.norm_eps,
            activation: Activation::GeluTanh,
            causal: false,
        };
        Self {
            patch_embed: b.conv2d("embeddings.patch_embedding", 3, c.width, ConvShape::patches(c.patch_size)),
            positions: b.param(
                "embeddings.position_embedding.weight",
                &[side * side, c.width],
                Init::Normal { std: 0.02 },
            ),
            blocks: Stack::new(&b.sub("encoder.layers"), c.depth, &BlockNames::HF, &shape),
            norm: b.layer_norm("post_layernorm", c.width, c.norm_eps),
        }
    }

    /// Normalised tokens (batch, patches, width) of `images` (batch, 3, size, size), row by row.
    pub fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let x = tokens(&self.patch_embed.forward(images, ctx)) + &self.positions;
        self.norm.forward(&self.blocks.forward(x, ctx, executor))
    }
}

/// One learned query that gathers an image's tokens, and an MLP.
struct PoolingHead {
    heads: i64,
    probe: Tensor,
    /// Queries, keys and values; the query's third has another input than the others.
    in_weight: Tensor,
    in_bias: Tensor,
    out_proj: Linear,
    norm_fc1: Part,
    act_fc2: Part,
}

impl PoolingHead {
    fn new(b: &Builder, c: &SiglipVisionConfig) -> Self {
        let width = c.width;
        Self {
            heads: c.heads,
            probe: b.param("probe", &[1, 1, width], Init::Normal { std: 0.02 }),
            in_weight: b.param("attention.in_proj_weight", &[3 * width, width], Init::TruncatedNormal { std: 0.02 }),
            in_bias: b.param("attention.in_proj_bias", &[3 * width], Init::Constant(0.0)),
            out_proj: b.linear("attention.out_proj", width, width),
            norm_fc1: b.norm_linear("layernorm", c.norm_eps, "mlp.fc1", width, c.hidden),
            act_fc2: b.act_linear(Activation::GeluTanh, "mlp.fc2", c.hidden, width),
        }
    }

    /// (batch, tokens, width) → (batch, width).
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let (batch, width) = (x.size()[0], x.size()[2]);
        let project = |x: &Tensor, third: i64| {
            let weight = self.in_weight.narrow(0, third * width, width);
            ctx.count(x.numel() as i64 * width);
            split_heads(&x.linear(&weight, Some(&self.in_bias.narrow(0, third * width, width))), self.heads)
        };
        let probe = self.probe.expand([batch, 1, width], false);
        let y = scaled_dot_product(&project(&probe, 0), &project(x, 1), &project(x, 2), false, ctx);
        let y = self.out_proj.forward(&y, ctx);
        let hidden = self.norm_fc1.forward(y.shallow_clone(), ctx);
        (y + self.act_fc2.forward(hidden, ctx)).select(1, 0)
    }
}

/// Both encoders.
pub struct Siglip {
    vision: SiglipVision,
    pooling: PoolingHead,
    embedding: Tensor,
    positions: Tensor,
    blocks: Stack,
    norm: LayerNorm,
    head: Linear,
    logit_scale: Tensor,
    logit_bias: Tensor,
}

impl Siglip {
    /// Builds the model.
    pub fn new(b: &Builder, vision: &SiglipVisionConfig, text: &SiglipTextConfig) -> Self {
        let texts = b.sub("text_model");
        let shape = BlockShape {
            width: text.width,
            heads: text.heads,
            hidden: text.hidden,
            eps: text.norm_eps,
            activation: Activation::GeluTanh,
            causal: false,
        };
        let normal = Init::Normal { std: 0.02 };
        Self {
            vision: SiglipVision::new(&b.sub("vision_model"), vision),
            pooling: PoolingHead::new(&b.sub("vision_model.head"), vision),
            embedding: texts.param("embeddings.token_embedding.weight", &[text.vocabulary, text.width], normal),
            positions: texts.param("embeddings.position_embedding.weight", &[text.context, text.width], normal),
            blocks: Stack::new(&texts.sub("encoder.layers"), text.depth, &BlockNames::HF, &shape),
            norm: texts.layer_norm("final_layer_norm", text.width, text.norm_eps),
            head: texts.linear("head", text.width, text.embedding),
            logit_scale: b.param("logit_scale", &[1], Init::Constant(1.0)),
            logit_bias: b.param("logit_bias", &[1], Init::Constant(0.0)),
        }
    }

    /// Normalised tokens (batch, patches, width) of images.
    pub fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.vision.features(images, ctx, executor)
    }

    /// Embeddings (batch, width) of `images` (batch, 3, size, size), not normalised.
    pub fn encode_images(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.pooling.forward(&self.features(images, ctx, executor), ctx)
    }

    /// Embeddings (batch, width) of texts as `ids` (batch, context), padded to the whole context, because what pads is
    /// seen, and the last place is what is read; not normalised.
    pub fn encode_texts(&self, ids: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let x = Tensor::embedding(&self.embedding, &ids.to_kind(Kind::Int64), -1, false, false)
            + self.positions.narrow(0, 0, ids.size()[1]);
        let x = self.norm.forward(&self.blocks.forward(x, ctx, executor));
        self.head.forward(&x.select(1, -1), ctx)
    }

    /// Kinds of tokens.
    pub fn vocabulary(&self) -> i64 {
        self.embedding.size()[0]
    }

    /// What cosines between embeddings are multiplied by, and what is added then.
    pub fn scale_and_bias(&self) -> (Tensor, Tensor) {
        (self.logit_scale.exp(), self.logit_bias.shallow_clone())
    }

    /// The blocks of the images' encoder.
    pub fn blocks(&self) -> &[Slot] {
        &self.vision.blocks.0
    }
}
