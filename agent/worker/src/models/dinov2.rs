//! DINOv2 (Oquab et al., arXiv 2304.07193): a ViT with scaled branches, whose class token is a feature to classify by.
//!
//! There are three ways to name its weights, and each comes with its own way to have positions for another grid.

use tch::Tensor;

use crate::nn::{
    Activation, Builder, Conv2d, ConvShape, Ctx, Executor, GridResampling, Init, LayerNorm, Slot, Weights,
    grid_positions,
};

use super::tower::{Stack, tokens, with_class_token};
use super::transformer::{BlockNames, BlockShape};

/// Who named the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dinov2Names {
    /// transformers.
    Hf,
    /// timm.
    Timm,
    /// Its authors: timm's names and a mask token.
    Original,
}

/// Sizes of a DINOv2.
#[derive(Debug, Clone, PartialEq)]
pub struct Dinov2Config {
    /// Side of the square images that the table of positions is for, pixels.
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

impl Dinov2Config {
    const fn preset(width: i64, depth: i64, heads: i64) -> Self {
        Self { image_size: 518, patch_size: 14, width, depth, heads, hidden: 4 * width, norm_eps: 1e-6 }
    }

    /// ViT-S/14.
    pub const SMALL: Self = Self::preset(384, 12, 6);
    /// ViT-B/14.
    pub const BASE: Self = Self::preset(768, 12, 12);
    /// ViT-L/14.
    pub const LARGE: Self = Self::preset(1024, 24, 16);

    /// The preset that has these weights' width and depth.
    pub fn of(weights: &Weights) -> Option<Self> {
        let names = Dinov2Names::of(weights)?;
        let width = weights.get(names.class_token())?.size().last().copied()?;
        [Self::SMALL, Self::BASE, Self::LARGE].into_iter().find(|preset| preset.width == width)
    }
}

impl Dinov2Names {
    /// Who named these weights; `None` if they are no DINOv2.
    pub fn of(weights: &Weights) -> Option<Self> {
        if weights.get("embeddings.position_embeddings").is_some() {
            return Some(Self::Hf);
        }
        weights.get("blocks.0.ls1.gamma")?;
        Some(if weights.get("mask_token").is_some() { Self::Original } else { Self::Timm })
    }

    const fn class_token(self) -> &'static str {
        match self {
            Self::Hf => "embeddings.cls_token",
            Self::Timm | Self::Original => "cls_token",
        }
    }

    const fn resampling(self) -> GridResampling {
        match self {
            Self::Hf => GridResampling::ToSize,
            Self::Timm => GridResampling::Antialiased,
            Self::Original => GridResampling::ByOffsetFactor,
        }
    }
}

/// A DINOv2 without a head.
pub struct Dinov2 {
    patch_embed: Conv2d,
    patch_size: i64,
    class: Tensor,
    positions: Tensor,
    resampling: GridResampling,
    blocks: Stack,
    norm: LayerNorm,
}

impl Dinov2 {
    /// Builds the model under these names.
    pub fn new(b: &Builder, names: Dinov2Names, c: &Dinov2Config) -> Self {
        let side = c.image_size / c.patch_size;
        let [patches, positions, mask, blocks, norm] = match names {
            Dinov2Names::Hf => [
                "embeddings.patch_embeddings.projection",
                "embeddings.position_embeddings",
                "embeddings.mask_token",
                "encoder.layer",
                "layernorm",
            ],
            Dinov2Names::Timm | Dinov2Names::Original => {
                ["patch_embed.proj", "pos_embed", "mask_token", "blocks", "norm"]
            }
        };
        if names != Dinov2Names::Timm {
            // What stands for patches that are hidden in pretraining; nothing here reads it.
            let _ = b.param(mask, &[1, c.width], Init::Constant(0.0));
        }
        let shape = BlockShape {
            width: c.width,
            heads: c.heads,
            hidden: c.hidden,
            eps: c.norm_eps,
            activation: Activation::Gelu,
            causal: false,
        };
        let block_names = if names == Dinov2Names::Hf { BlockNames::DINOV2_HF } else { BlockNames::DINOV2 };
        Self {
            patch_embed: b.conv2d(patches, 3, c.width, ConvShape::patches(c.patch_size)),
            patch_size: c.patch_size,
            class: b.param(names.class_token(), &[1, 1, c.width], Init::Normal { std: 1e-6 }),
            positions: b.param(positions, &[1, 1 + side * side, c.width], Init::TruncatedNormal { std: 0.02 }),
            resampling: names.resampling(),
            blocks: Stack::new(&b.sub(blocks), c.depth, &block_names, &shape),
            norm: b.layer_norm(norm, c.width, c.norm_eps),
        }
    }

    /// Normalised tokens (batch, 1 + patches, width) of `images` (batch, 3, height, width), whose sides are multiples of
    /// the patch's: the class token, then patches row by row.
    pub fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let grid = [images.size()[2] / self.patch_size, images.size()[3] / self.patch_size];
        let patches = tokens(&self.patch_embed.forward(images, ctx));
        let x = with_class_token(&self.class, &patches);
        let positions = grid_positions(&self.positions, 1, grid, self.resampling);
        let x = x + positions.unwrap_or_else(|| self.positions.shallow_clone());
        self.norm.forward(&self.blocks.forward(x, ctx, executor))
    }

    /// The normalised class token (batch, width): the feature to classify by.
    pub fn forward(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.features(images, ctx, executor).select(1, 0)
    }

    /// The blocks that the executor runs.
    pub fn blocks(&self) -> &[Slot] {
        &self.blocks.0
    }
}
