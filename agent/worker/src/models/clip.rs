//! CLIP (Radford et al., arXiv 2103.00020): an encoder of images and one of texts, whose embeddings are near to each other
//! where image and text belong together. Under open_clip's names and under transformers'.

use tch::{Kind, Tensor};

use crate::nn::{Activation, Builder, Conv2d, ConvShape, Ctx, Executor, Init, LayerNorm, Slot};

use super::tower::{Stack, tokens, with_class_token};
use super::transformer::{BlockNames, BlockShape};

/// Who named the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipNames {
    /// open_clip, and OpenAI.
    OpenClip,
    /// transformers.
    Hf,
}

/// Sizes of an encoder of images.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionConfig {
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
    /// OpenAI's weights and some others want [`Activation::QuickGelu`]: no file says so.
    pub activation: Activation,
}

/// Sizes of an encoder of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// Tokens of a text, padding included.
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
    /// As the images' encoder's.
    pub activation: Activation,
}

/// What the parts of the images' encoder are called.
struct VisionNames {
    patches: &'static str,
    class: &'static str,
    positions: &'static str,
    norm_before: &'static str,
    blocks: &'static str,
    norm_behind: &'static str,
}

impl ClipNames {
    const fn blocks(self) -> BlockNames {
        match self {
            Self::OpenClip => BlockNames::OPEN_CLIP,
            Self::Hf => BlockNames::HF,
        }
    }

    const fn vision(self) -> VisionNames {
        match self {
            Self::OpenClip => VisionNames {
                patches: "visual.conv1",
                class: "visual.class_embedding",
                positions: "visual.positional_embedding",
                norm_before: "visual.ln_pre",
                blocks: "visual.transformer.resblocks",
                norm_behind: "visual.ln_post",
            },
            Self::Hf => VisionNames {
                patches: "vision_model.embeddings.patch_embedding",
                class: "vision_model.embeddings.class_embedding",
                positions: "vision_model.embeddings.position_embedding.weight",
                // As the published weights spell it.
                norm_before: "vision_model.pre_layrnorm",
                blocks: "vision_model.encoder.layers",
                norm_behind: "vision_model.post_layernorm",
            },
        }
    }
}

/// The encoder of images, without its projection.
pub struct ClipVision {
    patch_embed: Conv2d,
    class: Tensor,
    positions: Tensor,
    norm_before: LayerNorm,
    blocks: Stack,
    norm_behind: LayerNorm,
}

impl ClipVision {
    /// Builds the encoder under these names.
    pub fn new(b: &Builder, names: ClipNames, c: &ClipVisionConfig) -> Self {
        let side = c.image_size / c.patch_size;
        let VisionNames { patches, class, positions, norm_before, blocks, norm_behind } = names.vision();
        let normal = Init::Normal { std: 0.02 };
        let shape = BlockShape {
            width: c.width,
            heads: c.heads,
            hidden: c.hidden,
            eps: c.norm_eps,
            activation: c.activation,
            causal: false,
        };
        Self {
            patch_embed: b.conv2d(patches, 3, c.width, ConvShape { bias: false, ..ConvShape::patches(c.patch_size) }),
            class: b.param(class, &[c.width], normal),
            positions: b.param(positions, &[1 + side * side, c.width], normal),
            norm_before: b.layer_norm(norm_before, c.width, c.norm_eps),
            blocks: Stack::new(&b.sub(blocks), c.depth, &names.blocks(), &shape),
            norm_behind: b.layer_norm(norm_behind, c.width, c.norm_eps),
        }
    }

    /// Tokens (batch, 1 + patches, width) of `images` (batch, 3, size, size) behind all blocks but the last `leaving_out`,
    /// the class token first; not normalised.
    pub fn hidden(&self, images: &Tensor, leaving_out: usize, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let patches = tokens(&self.patch_embed.forward(images, ctx));
        let x = with_class_token(&self.class, &patches) + &self.positions;
        self.blocks.forward_without(self.norm_before.forward(&x), leaving_out, ctx, executor)
    }

    /// The normalised class token (batch, width) of tokens behind all blocks.
    pub fn pooled(&self, hidden: &Tensor) -> Tensor {
        self.norm_behind.forward(&hidden.select(1, 0))
    }
}

/// The encoder of texts, without its projection.
pub struct ClipText {
    embedding: Tensor,
    positions: Tensor,
    blocks: Stack,
    norm: LayerNorm,
}

impl ClipText {
    /// Builds the encoder under these names.
    pub fn new(b: &Builder, names: ClipNames, c: &ClipTextConfig) -> Self {
        let [embedding, positions, blocks, norm] = match names {
            ClipNames::OpenClip => {
                ["token_embedding.weight", "positional_embedding", "transformer.resblocks", "ln_final"]
            }
            ClipNames::Hf => [
                "text_model.embeddings.token_embedding.weight",
                "text_model.embeddings.position_embedding.weight",
                "text_model.encoder.layers",
                "text_model.final_layer_norm",
            ],
        };
        let shape = BlockShape {
            width: c.width,
            heads: c.heads,
            hidden: c.hidden,
            eps: c.norm_eps,
            activation: c.activation,
            causal: true,
        };
        Self {
            embedding: b.param(embedding, &[c.vocabulary, c.width], Init::Normal { std: 0.02 }),
            positions: b.param(positions, &[c.context, c.width], Init::Normal { std: 0.01 }),
            blocks: Stack::new(&b.sub(blocks), c.depth, &names.blocks(), &shape),
            norm: b.layer_norm(norm, c.width, c.norm_eps),
        }
    }

    /// The normalised last token (batch, width) of `ids` (batch, context): the one that ends the text, which has the
    /// highest id of all.
    pub fn pooled(&self, ids: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let x = Tensor::embedding(&self.embedding, ids, -1, false, false) + self.positions.narrow(0, 0, ids.size()[1]);
        let x = self.norm.forward(&self.blocks.forward(x, ctx, executor));
        let end = ids.argmax(-1, true).unsqueeze(-1).expand([-1, -1, x.size()[2]], false); // (batch, 1, width)
        x.gather(1, &end, false).squeeze_dim(1)
    }
}

/// Both encoders, with projections into the space that they share.
pub struct Clip {
    vision: ClipVision,
    text: ClipText,
    /// (width, embedding), from the right.
    image_projection: Tensor,
    text_projection: Tensor,
    logit_scale: Tensor,
}

impl Clip {
    /// Builds the model under these names; embeddings have `embedding` values.
    pub fn new(
        b: &Builder,
        names: ClipNames,
        vision: &ClipVisionConfig,
        text: &ClipTextConfig,
        embedding: i64,
    ) -> Self {
        let projection = |name: &str, width: i64| match names {
            ClipNames::OpenClip => b.param(name, &[width, embedding], Init::Normal { std: 0.02 }),
            ClipNames::Hf => {
                b.param(&format!("{name}.weight"), &[embedding, width], Init::Normal { std: 0.02 }).transpose(0, 1)
            }
        };
        let image_projection = if names == ClipNames::Hf { "visual_projection" } else { "visual.proj" };
        Self {
            vision: ClipVision::new(b, names, vision),
            text: ClipText::new(b, names, text),
            image_projection: projection(image_projection, vision.width),
            text_projection: projection("text_projection", text.width),
            // ln(1 / 0.07), as it begins.
            logit_scale: b.param("logit_scale", &[], Init::Constant(2.6593)),
        }
    }

    /// Embeddings (batch, embedding) of `images` (batch, 3, size, size), not normalised.
    pub fn encode_images(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let pooled = self.vision.pooled(&self.vision.hidden(images, 0, ctx, executor));
        ctx.count(pooled.size()[0] * self.image_projection.numel() as i64);
        pooled.matmul(&self.image_projection)
    }

    /// Embeddings (batch, embedding) of texts as `ids` (batch, context), not normalised.
    pub fn encode_texts(&self, ids: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let pooled = self.text.pooled(&ids.to_kind(Kind::Int64), ctx, executor);
        ctx.count(pooled.size()[0] * self.text_projection.numel() as i64);
        pooled.matmul(&self.text_projection)
    }

    /// Kinds of tokens.
    pub fn vocabulary(&self) -> i64 {
        self.text.embedding.size()[0]
    }

    /// What cosines between embeddings are multiplied by.
    pub fn scale(&self) -> Tensor {
        self.logit_scale.exp()
    }

    /// The blocks of the images' encoder.
    pub fn blocks(&self) -> &[Slot] {
        &self.vision.blocks.0
    }
}
