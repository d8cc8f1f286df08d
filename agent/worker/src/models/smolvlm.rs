//! SmolVLM (arXiv 2504.05299), in the form of transformers' Idefics3: SigLIP's encoder, a shuffle of pixels that makes
//! fewer and wider tokens, and a Llama.

use tch::Tensor;

use crate::nn::{Builder, Ctx, Executor, Linear, LinearShape};

use super::decoder::{Decoder, DecoderConfig, Family, Sight};
use super::siglip::{SiglipVision, SiglipVisionConfig};
use super::vlm::Vlm;

/// Sizes of a SmolVLM.
#[derive(Debug, Clone, PartialEq)]
pub struct SmolVlmConfig {
    /// The encoder of tiles.
    pub vision: SiglipVisionConfig,
    /// The decoder.
    pub text: DecoderConfig,
    /// Neighbouring tokens per side that become one.
    pub shuffle: i64,
}

impl SmolVlmConfig {
    fn preset(width: i64, depth: i64, heads: i64, kv_heads: i64, hidden: i64) -> Self {
        Self {
            vision: SiglipVisionConfig {
                image_size: 512,
                patch_size: 16,
                width: 768,
                depth: 12,
                heads: 12,
                hidden: 3072,
                norm_eps: 1e-6,
            },
            text: DecoderConfig {
                vocabulary: 49280,
                width,
                depth,
                heads,
                kv_heads,
                head: 64,
                hidden,
                norm_eps: 1e-5,
                rope_theta: 1e5,
                family: Family::Llama,
            },
            shuffle: 4,
        }
    }

    /// SmolVLM-256M.
    pub fn m256() -> Self {
        Self::preset(576, 30, 9, 3, 1536)
    }

    /// SmolVLM-500M.
    pub fn m500() -> Self {
        Self::preset(960, 32, 15, 5, 2560)
    }
}

/// A SmolVLM.
pub struct SmolVlm {
    vision: SiglipVision,
    projection: Linear,
    decoder: Decoder,
    head: Linear,
    shuffle: i64,
}

impl SmolVlm {
    /// Builds the model.
    pub fn new(b: &Builder, c: &SmolVlmConfig) -> Self {
        let without_bias = LinearShape::USUAL.without_bias();
        let wide = c.vision.width * c.shuffle * c.shuffle;
        Self {
            vision: SiglipVision::new(&b.sub("model.vision_model"), &c.vision),
            projection: b.linear_shaped("model.connector.modality_projection.proj", wide, c.text.width, without_bias),
            decoder: Decoder::new(&b.sub("model.text_model"), &c.text),
            head: b.linear_shaped("lm_head", c.text.width, c.text.vocabulary, without_bias),
            shuffle: c.shuffle,
        }
    }

    /// Normalised tokens (tiles, patches, width) of tiles.
    pub fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.vision.features(images, ctx, executor)
    }
}

impl Vlm for SmolVlm {
    fn image_tokens(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.projection.forward(&shuffled(&self.features(images, ctx, executor), self.shuffle), ctx)
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn logits(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.head.forward(x, ctx)
    }

    fn prompt_sight(&self) -> Sight<'static> {
        Sight::Causal
    }
}

/// (batch, side², width) → (batch, (side / by)², width·by²): squares of tokens become one, row by row.
fn shuffled(x: &Tensor, by: i64) -> Tensor {
    let (batch, places, width) = (x.size()[0], x.size()[1], x.size()[2]);
    let side = (places as f64).sqrt().round() as i64;
    let small = side / by;
    let x = x.view([batch, small, by, small, by, width]).permute([0, 1, 3, 2, 4, 5]);
    x.reshape([batch, small * small, by * by * width])
}
