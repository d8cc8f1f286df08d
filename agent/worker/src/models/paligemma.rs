//! PaliGemma (Beyer et al., arXiv 2407.07726): SigLIP's encoder, a linear layer, and a Gemma that sees the whole of image
//! and prompt in both directions.

use tch::Tensor;

use crate::nn::{Builder, Ctx, Executor, Linear};

use super::decoder::{Decoder, DecoderConfig, Family, Sight};
use super::siglip::{SiglipVision, SiglipVisionConfig};
use super::vlm::Vlm;

/// Sizes of a PaliGemma.
#[derive(Debug, Clone, PartialEq)]
pub struct PaliGemmaConfig {
    /// The encoder of images.
    pub vision: SiglipVisionConfig,
    /// The decoder.
    pub text: DecoderConfig,
}

impl PaliGemmaConfig {
    /// PaliGemma-3B for images of 224 pixels.
    pub fn b3_224() -> Self {
        Self {
            vision: SiglipVisionConfig {
                image_size: 224,
                patch_size: 14,
                width: 1152,
                depth: 27,
                heads: 16,
                hidden: 4304,
                norm_eps: 1e-6,
            },
            text: DecoderConfig {
                vocabulary: 257_216,
                width: 2048,
                depth: 18,
                heads: 8,
                kv_heads: 1,
                head: 256,
                hidden: 16_384,
                norm_eps: 1e-6,
                rope_theta: 1e4,
                family: Family::Gemma,
            },
        }
    }
}

/// A PaliGemma.
pub struct PaliGemma {
    vision: SiglipVision,
    projector: Linear,
    decoder: Decoder,
}

impl PaliGemma {
    /// Builds the model under its published names.
    pub fn new(b: &Builder, c: &PaliGemmaConfig) -> Self {
        Self {
            vision: SiglipVision::new(&b.sub("vision_tower.vision_model"), &c.vision),
            projector: b.linear("multi_modal_projector.linear", c.vision.width, c.text.width),
            decoder: Decoder::new(&b.sub("language_model.model"), &c.text),
        }
    }

    /// Normalised tokens (batch, patches, width) of images.
    pub fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.vision.features(images, ctx, executor)
    }
}

impl Vlm for PaliGemma {
    fn image_tokens(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.projector.forward(&self.features(images, ctx, executor), ctx)
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The head is the table of embeddings.
    fn logits(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let table = self.decoder.table();
        ctx.count(x.numel() as i64 * table.size()[0]);
        ctx.low(x).linear(&ctx.low(table), None::<&Tensor>)
    }

    fn prompt_sight(&self) -> Sight<'static> {
        Sight::Full
    }
}
