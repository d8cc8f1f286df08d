//! Vision Mamba (Zhu et al., arXiv 2401.09417), with the published code's key names and arithmetic
//! (`vim_*_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2`).
//!
//! Patches with a class token among them run through blocks that carry two tensors along: the latest mixer's output, and the
//! sum of all before it. A mixer scans the tokens in both directions. In spite of "final_pool_mean" in the published name, the
//! head reads the class token.

use fleet_common::spec::Backbone;
use tch::Tensor;

use super::Model;
use super::mamba::{self, Direction, DirectionSizes};
use crate::nn::{
    Block, Builder, ClassToken, Conv2d, ConvShape, Ctx, DropPath, Executor, Init, Linear, LinearShape, NormKind, Part,
    RmsNorm, Slot,
};
use crate::scan::Scan;

/// Width, depth and sizes of a Vim.
#[derive(Debug, Clone, PartialEq)]
pub struct VimConfig {
    /// Side of the square input, pixels.
    pub image_size: i64,
    /// Side of a square patch, pixels.
    pub patch_size: i64,
    /// Pixels from one patch to the next.
    pub stride: i64,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// States of a channel.
    pub states: i64,
    /// Taps of the convolution in time.
    pub taps: i64,
    /// Channels of a mixer over `width`.
    pub expand: i64,
    /// Rank of the step widths' projection.
    pub step_rank: i64,
    /// Classes of the head.
    pub classes: i64,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// Stochastic depth: it rises to that along the blocks.
    pub drop_path: f64,
}

impl VimConfig {
    /// The published model of that name, with the stochastic depth of its class.
    pub fn preset(backbone: Backbone, classes: i64) -> Self {
        let width = if backbone == Backbone::VimTiny { 192 } else { 384 };
        Self {
            image_size: 224,
            patch_size: 16,
            stride: 16,
            width,
            depth: 24,
            states: 16,
            taps: 4,
            expand: 2,
            step_rank: mamba::step_rank(width),
            classes,
            norm_eps: 1e-5,
            drop_path: 0.1,
        }
    }

    /// The same for another input.
    pub fn with_image_size(self, image_size: i64) -> Self {
        Self { image_size, ..self }
    }

    /// Patches along a side.
    fn side(&self) -> i64 {
        (self.image_size - self.patch_size) / self.stride + 1
    }
}

/// A Vim with its head.
pub struct Vim {
    patch_embed: Conv2d,
    cls_token: Tensor,
    pos_embed: Tensor,
    blocks: Vec<Slot>,
    drop: DropPath,
    norm: RmsNorm,
    head: Linear,
}

impl Vim {
    /// Builds the model under the published names.
    pub fn new(b: &Builder, c: &VimConfig) -> Self {
        if c.patch_size < 1 || c.stride < 1 || c.image_size < c.patch_size {
            b.problem(format!(
                "a Vim needs patches ({} pixels) and a stride ({}) of at least one pixel, and an image ({}) of at least one patch",
                c.patch_size, c.stride, c.image_size
            ));
        }
        let layers = b.sub("layers");
        // One more than there are blocks: the sum behind the last block drops at the full rate.
        let drops: Vec<DropPath> =
            std::iter::once(DropPath { rate: 0.0 }).chain(DropPath::rising(c.drop_path, c.depth as usize)).collect();
        let patches = LinearShape {
            weight: Init::LecunNormal { fan_in: 3 * c.patch_size.pow(2) },
            bias: Some(Init::Constant(0.0)),
        };
        let shape = ConvShape { stride: c.stride, ..ConvShape::patches(c.patch_size) };
        let block = |i: i64| layers.block(&i.to_string(), |b| VimBlock::new(b, c, drops[i as usize]));
        Self {
            patch_embed: b.sub("patch_embed").conv2d_shaped("proj", 3, c.width, shape, patches),
            cls_token: b.param("cls_token", &[1, 1, c.width], Init::TruncatedNormal { std: 0.02 }),
            pos_embed: b.position_table("pos_embed", ClassToken::Middle, c.side(), c.width),
            blocks: (0..c.depth).map(block).collect(),
            drop: DropPath { rate: c.drop_path },
            norm: b.rms_norm("norm_f", c.width, c.norm_eps),
            head: b.head("head").linear("", c.width, c.classes),
        }
    }

    /// (batch, patches, width).
    fn embed_patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        self.patch_embed.forward(images, ctx).flatten(2, 3).transpose(1, 2)
    }
}

impl Model for Vim {
    /// The class token behind the last norm, (batch, width).
    fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let patches = self.embed_patches(images, ctx);
        let (batch, count) = (patches.size()[0], patches.size()[1]);
        let class = ClassToken::Middle.index(count);
        let token = self.cls_token.expand([batch, -1, -1], false).to_kind(patches.kind());
        let x = Tensor::cat(&[patches.narrow(1, 0, class), token, patches.narrow(1, class, count - class)], 1);
        let xs = executor.run(&self.blocks, vec![x + &self.pos_embed], ctx);
        if ctx.train {
            ctx.seed.named("last").apply();
        }
        let mut class = xs.iter().map(|x| x.select(1, class));
        let hidden = class.next().map(|hidden| self.drop.forward(hidden, ctx));
        let sum = hidden.into_iter().chain(class).reduce(|hidden, residual| residual + hidden);
        self.norm.forward(&sum.expect("an executor returns what the blocks carry"))
    }

    fn forward(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.head.forward(&self.features(images, ctx, executor), ctx)
    }

    fn patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        self.embed_patches(images, ctx)
    }

    fn blocks(&self) -> &[Slot] {
        &self.blocks
    }
}

/// (hidden, residual) → (mixer(norm(sum)), sum), with sum = residual + hidden. The first block gets the tokens alone, which
/// are its sum.
struct VimBlock {
    norm_in_proj: Part,
    scans: Part,
    out_proj: Linear,
    drop: DropPath,
}

impl VimBlock {
    fn new(b: &Builder, c: &VimConfig, drop: DropPath) -> Self {
        let inner = c.expand * c.width;
        let sizes = DirectionSizes { inner, states: c.states, taps: c.taps, step_rank: c.step_rank, conv_bias: true };
        let torch = |fan_in: i64| LinearShape { weight: Init::Uniform { fan_in }, bias: None };
        let mixer = b.sub("mixer");
        Self {
            norm_in_proj: b.norm_linear_shaped(
                (NormKind::Rms, "norm", c.norm_eps),
                "mixer.in_proj",
                [c.width, 2 * inner],
                torch(c.width),
            ),
            scans: mixer.part("scans", |b| BothDirections {
                forward: Direction::new(b, "", sizes, Init::StepWidths),
                // The published code gives only the forward direction its special step widths.
                backward: Direction::new(b, "_b", sizes, Init::Constant(0.0)),
            }),
            // U(±1/√inner), smaller by √depth.
            out_proj: mixer.linear_shaped("out_proj", inner, c.width, torch(inner * c.depth.max(1))),
            drop,
        }
    }
}

impl Block for VimBlock {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let sum = match &xs[..] {
            [hidden, residual] => residual + self.drop.forward(hidden.shallow_clone(), ctx),
            _ => xs[0].shallow_clone(),
        };
        let y = self.scans.forward(self.norm_in_proj.forward(sum.shallow_clone(), ctx), ctx);
        vec![self.out_proj.forward_last(&y, ctx), sum]
    }
}

/// Both directions ("bimamba v2"): they share the projections in front and behind, and each has its own scan.
struct BothDirections {
    forward: Direction,
    backward: Direction,
}

impl Block for BothDirections {
    /// (batch, tokens, 2·inner), input and gate side by side, to (batch, tokens, inner).
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let mut halves = xs[0].chunk(2, -1);
        let (z, x) = (halves.remove(1), halves.remove(0));
        let inputs = mamba::convolutions(&x, [(&self.forward, false), (&self.backward, true)], ctx);
        let forward = self.forward.prepare(&inputs[0], ctx);
        let backward = self.backward.prepare(&inputs[1], ctx);
        // The mean of both, where the published name says "div2".
        let scan = Scan { passes: &[forward.pass(false), backward.pass(true)], gate: Some(&z), scale: 0.5 };
        vec![if ctx.values { scan.run() } else { scan.without_value() }]
    }

    fn draws(&self) -> bool {
        self.forward.draws() || self.backward.draws()
    }
}
