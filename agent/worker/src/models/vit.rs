//! Vision Transformer (Dosovitskiy et al., arXiv 2010.11929), with timm's key names and arithmetic.
//!
//! A class token goes first, positions are learned and cover it, blocks are pre-norm, and the class token of the last
//! norm feeds the head.

use tch::Tensor;

use crate::nn::{Activation, Builder, ClassToken, Conv2d, ConvShape, Ctx, Executor, Init, LayerNorm, Linear, Slot};

use super::Model;
use super::transformer::{BlockNames, BlockShape, TransformerBlock};

/// Width, depth and sizes of a ViT.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Side of the square input, pixels.
    pub image_size: i64,
    /// Side of a square patch, pixels.
    pub patch_size: i64,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the MLP's middle over `width`.
    pub mlp_ratio: f64,
    /// Classes of the head.
    pub classes: i64,
    /// Epsilon of every layer norm.
    pub norm_eps: f64,
}

impl VitConfig {
    fn preset(image_size: i64, patch_size: i64, width: i64, depth: i64, heads: i64, classes: i64) -> Self {
        Self { image_size, patch_size, width, depth, heads, mlp_ratio: 4.0, classes, norm_eps: 1e-6 }
    }

    /// The same for another input.
    pub fn with_image_size(self, image_size: i64) -> Self {
        Self { image_size, ..self }
    }

    /// `vit_micro`: 64-pixel images in 8-pixel patches, width 128, 6 blocks.
    pub fn micro(classes: i64) -> Self {
        Self::preset(64, 8, 128, 6, 4, classes)
    }

    /// timm's `vit_tiny_patch16_224`.
    pub fn tiny_patch16_224(classes: i64) -> Self {
        Self::preset(224, 16, 192, 12, 3, classes)
    }

    /// timm's `vit_small_patch16_224`.
    pub fn small_patch16_224(classes: i64) -> Self {
        Self::preset(224, 16, 384, 12, 6, classes)
    }
}

/// A ViT with its head.
pub struct Vit {
    patch_embed: Conv2d,
    cls_token: Tensor,
    pos_embed: Tensor,
    blocks: Vec<Slot>,
    norm: LayerNorm,
    head: Linear,
}

impl Vit {
    /// Builds the model under timm's names.
    pub fn new(b: &Builder, c: &VitConfig) -> Self {
        if c.image_size % c.patch_size != 0 || c.width % c.heads != 0 {
            b.problem(format!(
                "a ViT needs an image size ({}) divisible by its patch size ({}), and a width ({}) divisible by its heads ({})",
                c.image_size, c.patch_size, c.width, c.heads
            ));
        }
        let blocks = b.sub("blocks");
        let shape = BlockShape {
            width: c.width,
            heads: c.heads,
            hidden: (c.width as f64 * c.mlp_ratio) as i64,
            eps: c.norm_eps,
            activation: Activation::Gelu,
            causal: false,
        };
        Self {
            patch_embed: b.sub("patch_embed").conv2d("proj", 3, c.width, ConvShape::patches(c.patch_size)),
            cls_token: b.param("cls_token", &[1, 1, c.width], Init::Normal { std: 1e-6 }),
            pos_embed: b.position_table("pos_embed", ClassToken::First, c.image_size / c.patch_size, c.width),
            blocks: (0..c.depth)
                .map(|i| blocks.block(&i.to_string(), |b| TransformerBlock::new(b, &BlockNames::TIMM, &shape)))
                .collect(),
            norm: b.layer_norm("norm", c.width, c.norm_eps),
            head: b.head("head").linear("", c.width, c.classes),
        }
    }

    /// Tokens (batch, 1 + patches, width) before the first block.
    fn embed(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        let patches = self.embed_patches(images, ctx);
        let class = self.cls_token.expand([patches.size()[0], -1, -1], false);
        Tensor::cat(&[class.to_kind(patches.kind()), patches], 1) + &self.pos_embed
    }

    /// (batch, patches, width).
    fn embed_patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        self.patch_embed.forward(images, ctx).flatten(2, 3).transpose(1, 2)
    }
}

impl Model for Vit {
    /// Normalised tokens (batch, 1 + patches, width) behind the last block.
    fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let x = self.embed(images, ctx);
        let mut x = executor.run(&self.blocks, vec![x], ctx);
        self.norm.forward(&x.swap_remove(0))
    }

    fn forward(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.head.forward(&self.features(images, ctx, executor).select(1, 0), ctx)
    }

    fn patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        self.embed_patches(images, ctx)
    }

    fn blocks(&self) -> &[Slot] {
        &self.blocks
    }
}
