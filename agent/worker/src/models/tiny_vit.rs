//! TinyViT (Wu et al., arXiv 2207.10666), with timm's key names and arithmetic.
//!
//! A stem of two convolutions quarters the image; a stage of MBConv blocks follows, then three stages that each begin by
//! halving the map (PatchMerging) and go on with attention in windows. Between the blocks of the attention stages the
//! map is (batch, height, width, channels).

use std::collections::HashMap;

use fleet_common::spec::Backbone;
use tch::{Kind, Tensor};

use super::Model;
use crate::nn::{
    Activation, BatchNorm2d, Block, Builder, Conv2d, ConvShape, Ctx, DropPath, Executor, Init, LayerNorm, Linear, Part,
    Slot,
};

const LAYER_NORM_EPS: f64 = 1e-5;
const BATCH_NORM_EPS: f64 = 1e-5;

/// Widths, depths and windows of a TinyViT; one entry per stage.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyVitConfig {
    /// Channels.
    pub widths: Vec<i64>,
    /// Blocks.
    pub depths: Vec<usize>,
    /// Attention heads; the first stage has none.
    pub heads: Vec<i64>,
    /// Side of an attention window, pixels of the map; the first stage has none.
    pub windows: Vec<i64>,
    /// Classes of the head.
    pub classes: i64,
    /// Stochastic depth of the last block; it rises to that from 0.
    pub drop_path: f64,
    /// Width of an MLP's middle over the block's.
    pub mlp_ratio: f64,
    /// Width of an inverted bottleneck's middle over the block's.
    pub expand_ratio: f64,
    /// Side of the depthwise convolution between attention and MLP; odd.
    pub local_kernel: i64,
}

impl TinyVitConfig {
    /// timm's model of that name, with its stochastic depth.
    pub fn preset(backbone: Backbone, classes: i64) -> Self {
        let (widths, heads, drop_path) = match backbone {
            Backbone::TinyVit21m => ([96, 192, 384, 576], [3, 6, 12, 18], 0.2),
            Backbone::TinyVit11m => ([64, 128, 256, 448], [2, 4, 8, 14], 0.1),
            _ => ([64, 128, 160, 320], [2, 4, 5, 10], 0.0),
        };
        Self {
            widths: widths.to_vec(),
            depths: vec![2, 2, 6, 2],
            heads: heads.to_vec(),
            windows: vec![7, 7, 14, 7],
            classes,
            drop_path,
            mlp_ratio: 4.0,
            expand_ratio: 4.0,
            local_kernel: 3,
        }
    }

    /// Whether a model can be built from it; if not, `b` knows why.
    fn is_sound(&self, b: &Builder) -> bool {
        let n = self.widths.len();
        if n == 0 || [self.depths.len(), self.heads.len(), self.windows.len()] != [n; 3] {
            b.problem(format!(
                "a TinyViT needs as many widths, depths, heads and windows as it has stages; found {self:?}"
            ));
            return false;
        }
        let divides = |(width, heads): (&i64, &i64)| *heads > 0 && width % heads == 0;
        if !self.widths.iter().zip(&self.heads).skip(1).all(divides) || self.windows.iter().any(|w| *w < 1) {
            b.problem(format!(
                "a TinyViT needs widths ({:?}) divisible by their heads ({:?}) and windows of at least one pixel ({:?})",
                self.widths, self.heads, self.windows
            ));
            return false;
        }
        true
    }
}

/// A TinyViT with its head.
pub struct TinyVit {
    conv1: ConvNorm,
    conv2: ConvNorm,
    blocks: Vec<Slot>,
    norm: LayerNorm,
    head: Linear,
}

impl TinyVit {
    /// Builds the model under timm's names.
    pub fn new(b: &Builder, c: &TinyVitConfig) -> Self {
        let depths: &[usize] = if c.is_sound(b) { &c.depths } else { &[] };
        let stem = b.sub("patch_embed");
        let first = c.widths.first().copied().unwrap_or(2);
        let last = c.widths.last().copied().unwrap_or(1);
        let drops = DropPath::rising(c.drop_path, c.depths.iter().sum());
        let mut blocks = Vec::new();
        let mut at = 0;
        let conv1 = ConvNorm::new(&stem, "conv1", 3, first / 2, ConvShape::same(3, 2, 1), 1.0);
        let conv2 = ConvNorm::new(&stem, "conv2", first / 2, first, ConvShape::same(3, 2, 1), 1.0);
        for (stage, depth) in depths.iter().enumerate() {
            let b = b.sub("stages").sub(stage);
            let width = c.widths[stage];
            if stage > 0 {
                let before = c.widths[stage - 1];
                blocks.push(b.block("downsample", |b| PatchMerging::new(b, before, width, stage > 1)));
            }
            for i in 0..*depth {
                let (b, drop) = (b.sub("blocks"), drops[at + i]);
                blocks.push(if stage == 0 {
                    b.block(&i.to_string(), |b| MbConv::new(b, width, c, drop))
                } else {
                    b.block(&i.to_string(), |b| TinyVitBlock::new(b, stage, c, drop))
                });
            }
            at += depth;
        }
        let head = b.sub("head");
        Self {
            conv1,
            conv2,
            blocks,
            norm: head.layer_norm("norm", last, LAYER_NORM_EPS),
            head: b.head("head.fc").linear("", last, c.classes),
        }
    }
}

impl Model for TinyVit {
    /// The map (batch, channels, height / 4, width / 4) before the first block.
    fn patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        self.conv2.forward(&self.conv1.forward(images, ctx).gelu("none"), ctx)
    }

    /// The map (batch, channels, height, width) behind the last block.
    fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let x = self.patches(images, ctx);
        let x = executor.run(&self.blocks, vec![x], ctx).swap_remove(0);
        if self.blocks.iter().any(|b| b.name().contains("downsample")) { channels_first(&x) } else { x }
    }

    fn forward(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let pooled = self.features(images, ctx, executor).mean_dim([2, 3].as_slice(), false, None::<Kind>);
        self.head.forward(&self.norm.forward(&pooled), ctx)
    }

    fn blocks(&self) -> &[Slot] {
        &self.blocks
    }
}

/// (batch, height, width, channels) → (batch, channels, height, width), a view.
fn channels_first(x: &Tensor) -> Tensor {
    x.permute([0, 3, 1, 2])
}

/// (batch, channels, height, width) → (batch, height, width, channels), a view.
fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1])
}

/// A convolution and the batch norm behind it.
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl ConvNorm {
    fn new(b: &Builder, name: &str, inputs: i64, outputs: i64, shape: ConvShape, gain: f64) -> Self {
        let b = b.sub(name);
        Self {
            conv: b.conv2d("conv", inputs, outputs, shape),
            norm: b.batch_norm2d("bn", outputs, BATCH_NORM_EPS, gain),
        }
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.norm.forward(&self.conv.forward(x, ctx), ctx)
    }
}

/// An inverted bottleneck: 1×1 to a larger width, depthwise 3×3, 1×1 back, added to its input; a batch norm after each
/// convolution, and GELU behind that, after the addition too. Maps (batch, channels, height, width) to the same.
struct MbConv {
    convs: Bottleneck,
    drop: DropPath,
}

impl MbConv {
    fn new(b: &Builder, width: i64, c: &TinyVitConfig, drop: DropPath) -> Self {
        let hidden = (width as f64 * c.expand_ratio) as i64;
        // A gain of zero: a fresh block begins as the identity (but for the GELU).
        Self { convs: Bottleneck::new(b, [width, hidden, width], 1, 0.0), drop }
    }
}

impl Block for MbConv {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = self.drop.forward(self.convs.forward(&xs[0], ctx), ctx);
        vec![(x + &xs[0]).gelu("none")]
    }
}

/// 1×1, depthwise 3×3, 1×1, each with its batch norm, and GELU between them.
struct Bottleneck {
    conv1: Conv2d,
    norm1_conv2: Part,
    norm2_conv3: Part,
    norm3: BatchNorm2d,
}

impl Bottleneck {
    fn new(b: &Builder, widths: [i64; 3], stride: i64, last_gain: f64) -> Self {
        let [from, hidden, to] = widths;
        let one = ConvShape::same(1, 1, 1);
        let gelu = Activation::Gelu;
        Self {
            conv1: b.conv2d("conv1.conv", from, hidden, one),
            norm1_conv2: b.norm_act_conv(
                ("conv1.bn", BATCH_NORM_EPS),
                gelu,
                "conv2.conv",
                [hidden, hidden],
                ConvShape::same(3, stride, hidden),
            ),
            norm2_conv3: b.norm_act_conv(("conv2.bn", BATCH_NORM_EPS), gelu, "conv3.conv", [hidden, to], one),
            norm3: b.batch_norm2d("conv3.bn", to, BATCH_NORM_EPS, last_gain),
        }
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let x = self.norm1_conv2.forward(self.conv1.forward(x, ctx), ctx);
        self.norm3.forward(&self.norm2_conv3.forward(x, ctx), ctx)
    }
}

/// Halves the map and changes its width, with a stride in the middle of a bottleneck. Ends with (batch, height, width,
/// channels).
struct PatchMerging {
    convs: Bottleneck,
    /// Whether the input has its channels last, as behind another attention stage.
    channels_last: bool,
}

impl PatchMerging {
    fn new(b: &Builder, before: i64, width: i64, channels_last: bool) -> Self {
        Self { convs: Bottleneck::new(b, [before, width, width], 2, 1.0), channels_last }
    }
}

impl Block for PatchMerging {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = if self.channels_last { channels_first(&xs[0]).contiguous() } else { xs[0].shallow_clone() };
        vec![channels_last(&self.convs.forward(&x, ctx))]
    }
}

/// x + attention(x) in windows, a depthwise convolution (not residual), then x + MLP(x). Norms are inside the branches.
/// Maps (batch, height, width, channels) to the same.
struct TinyVitBlock {
    window: i64,
    attention: Attention,
    local_conv: ConvNorm,
    norm_fc1: Part,
    gelu_fc2: Part,
    drop: DropPath,
}

impl TinyVitBlock {
    fn new(b: &Builder, stage: usize, c: &TinyVitConfig, drop: DropPath) -> Self {
        let (width, heads, window) = (c.widths[stage], c.heads[stage], c.windows[stage]);
        let hidden = (width as f64 * c.mlp_ratio) as i64;
        let mlp = b.sub("mlp");
        Self {
            window,
            attention: Attention::new(&b.sub("attn"), width, heads, window),
            norm_fc1: mlp.norm_linear("norm", LAYER_NORM_EPS, "fc1", width, hidden),
            gelu_fc2: mlp.act_linear(Activation::Gelu, "fc2", hidden, width),
            local_conv: ConvNorm::new(b, "local_conv", width, width, ConvShape::same(c.local_kernel, 1, width), 1.0),
            drop,
        }
    }

    /// Attention within windows. Where the map does not divide into them it grows at the bottom and on the right by
    /// zeros, which take part like other pixels: the reference has no mask.
    fn attend(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let [batch, height, width, channels] = sizes(x);
        let w = self.window;
        if height == w && width == w {
            let tokens = x.reshape([batch, w * w, channels]);
            return self.attention.forward(&tokens, ctx).view([batch, height, width, channels]);
        }
        let (more_rows, more_columns) = ((w - height % w) % w, (w - width % w) % w);
        let padded = if more_rows + more_columns > 0 {
            x.constant_pad_nd([0, 0, 0, more_columns, 0, more_rows])
        } else {
            x.shallow_clone()
        };
        let (rows, columns) = ((height + more_rows) / w, (width + more_columns) / w);
        let windows = padded.reshape([batch, rows, w, columns, w, channels]).transpose(2, 3);
        let tokens = windows.reshape([batch * rows * columns, w * w, channels]);
        let y = self.attention.forward(&tokens, ctx).view([batch, rows, columns, w, w, channels]);
        let y = y.transpose(2, 3).reshape([batch, rows * w, columns * w, channels]);
        y.narrow(1, 0, height).narrow(2, 0, width)
    }
}

impl Block for TinyVitBlock {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = &xs[0] + self.drop.forward(self.attend(&xs[0], ctx), ctx);
        let x = channels_last(&self.local_conv.forward(&channels_first(&x), ctx));
        let hidden = self.norm_fc1.forward(x.flatten(1, 2), ctx); // (batch, pixels, mlp_ratio · width)
        let y = self.gelu_fc2.forward_last(hidden, ctx).view_as(&x);
        vec![&x + self.drop.forward(y, ctx)]
    }
}

/// Attention over the tokens of a window.
struct Attention {
    norm_qkv: Part,
    biased: Part,
    proj: Linear,
}

impl Attention {
    fn new(b: &Builder, width: i64, heads: i64, window: i64) -> Self {
        let (places, distances) = distance_places(window);
        Self {
            biased: b.part("attention", |b| BiasedAttention {
                heads,
                biases: b.param("attention_biases", &[heads, distances], Init::Constant(0.0)),
                places: Tensor::from_slice(&places).to_device(b.device()),
            }),
            norm_qkv: b.norm_linear("norm", LAYER_NORM_EPS, "qkv", width, 3 * width),
            proj: b.linear("proj", width, width),
        }
    }

    /// (windows, tokens, width) to the same.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let qkv = self.norm_qkv.forward(x.shallow_clone(), ctx);
        // Only the plain form, for biases that train, keeps probabilities that are worth computing again.
        let y = self.biased.forward(qkv, &Ctx { cheap: ctx.cheap && self.biased.trains(), ..*ctx });
        self.proj.forward(&y, ctx)
    }
}

/// Attention with a learned bias per head and distance.
struct BiasedAttention {
    heads: i64,
    /// (heads, distances).
    biases: Tensor,
    /// Place in `biases` of each pair of tokens, (tokens², ).
    places: Tensor,
}

impl BiasedAttention {
    /// (windows, tokens, 3·width) to (windows, tokens, width).
    fn attend(&self, qkv: &Tensor, ctx: &Ctx) -> Tensor {
        let (windows, tokens, width) = (qkv.size()[0], qkv.size()[1], qkv.size()[2] / 3);
        let head = width / self.heads;
        // Rows of qkv are laid out per head: q, k, v of the first head, then of the second, …
        let mut qkv = qkv.view([windows, tokens, self.heads, 3 * head]).transpose(1, 2).split(head, -1); // 3 × (windows, heads, tokens, head)
        let (v, k, q) = (qkv.remove(2), qkv.remove(1), qkv.remove(0));
        let bias = self.biases.index_select(1, &self.places).view([1, self.heads, tokens, tokens]);
        ctx.count(2 * windows * self.heads * tokens * tokens * head);
        let bias = bias.to_kind(q.kind());
        // Which form is used must not depend on whether gradients are recorded just now, or a block that runs again would
        // round differently.
        let y = if self.biases.requires_grad() {
            let scores = (q * (head as f64).powf(-0.5)).matmul(&k.transpose(-2, -1)) + bias;
            scores.softmax(-1, None::<Kind>).matmul(&v)
        } else {
            Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&bias), 0.0, false, None, false)
        };
        y.transpose(1, 2).reshape([windows, tokens, width])
    }
}

impl Block for BiasedAttention {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        vec![self.attend(&xs[0], ctx)]
    }
}

/// For each pair of pixels of a window, the number of their distance (|Δy|, |Δx|), counted in order of first appearance;
/// and how many distances there are.
fn distance_places(window: i64) -> (Vec<i64>, i64) {
    let points = || (0..window).flat_map(|y| (0..window).map(move |x| (y, x)));
    let mut numbers = HashMap::new();
    let mut places = Vec::new();
    for a in points() {
        for b in points() {
            let next = numbers.len() as i64;
            places.push(*numbers.entry(((a.0 - b.0).abs(), (a.1 - b.1).abs())).or_insert(next));
        }
    }
    (places, numbers.len() as i64)
}

fn sizes(x: &Tensor) -> [i64; 4] {
    let size = x.size();
    [size[0], size[1], size[2], size[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planning warns of windows that do not divide their map; it must speak of the same ones.
    #[test]
    fn windows_are_those_that_planning_knows() {
        for backbone in Backbone::TRAINED.into_iter().filter(|b| b.name().starts_with("tiny_vit")) {
            let config = TinyVitConfig::preset(backbone, 8);
            let attention = (1..config.windows.len()).map(|i| {
                let stage: u32 = i.try_into().expect("few stages");
                (format!("stages.{stage}"), 4 << stage, config.windows[i])
            });
            let known = backbone.windows().iter();
            let known: Vec<_> = known.map(|(s, reduction, w)| ((*s).to_owned(), *reduction, i64::from(*w))).collect();
            assert_eq!(attention.collect::<Vec<_>>(), known, "{}", backbone.name());
        }
    }

    #[test]
    fn distances_of_a_square_window_are_numbered_row_by_row() {
        let (places, distances) = distance_places(3);
        assert_eq!(distances, 9);
        assert_eq!(places[..9], [0, 1, 2, 3, 4, 5, 6, 7, 8], "from the first pixel");
        assert_eq!(places[4 * 9..5 * 9], [4, 3, 4, 1, 0, 1, 4, 3, 4], "from the centre");
    }
}
