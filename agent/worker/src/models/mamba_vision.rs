//! MambaVision (Hatamizadeh & Kautz, arXiv 2407.08083), with the published code's key names and arithmetic.
//!
//! A stem of two convolutions quarters the image; two levels of convolution blocks follow, then two whose blocks first scan and
//! then attend within windows of the map. Each level but the last ends by halving the map. Within a level of windows the tokens
//! are (batch · windows, pixels, width).

use tch::{Kind, Tensor};

use super::Model;
use super::attention::attend;
use super::mamba::{decay_rates, step_rank};
use crate::nn::{
    Activation, BatchNorm2d, Block, Builder, Conv2d, ConvShape, Ctx, DropPath, Executor, Init, Linear, LinearShape,
    NormKind, Part, Slot,
};
use crate::scan::{Conv, Pass, Scan, conv_silu};

const STEM_EPS: f64 = 1e-4;
const NORM_EPS: f64 = 1e-5;

/// Widths, depths and windows of a MambaVision; one entry per level.
#[derive(Debug, Clone, PartialEq)]
pub struct MambaVisionConfig {
    /// Side of the square input, pixels.
    pub image_size: i64,
    /// Channels of the first level; each level has twice the one before.
    pub width: i64,
    /// Channels between the stem's convolutions.
    pub stem_width: i64,
    /// Blocks.
    pub depths: Vec<usize>,
    /// Attention heads; levels of convolutions have none.
    pub heads: Vec<i64>,
    /// Side of a window, pixels of the map; levels of convolutions have none.
    pub windows: Vec<i64>,
    /// Width of an MLP's middle over the block's.
    pub mlp_ratio: f64,
    /// Initial factor on the branches of blocks with windows; `None` for none.
    pub layer_scale: Option<f64>,
    /// The same on those of convolution blocks.
    pub layer_scale_conv: Option<f64>,
    /// States of a channel.
    pub states: i64,
    /// Taps of the convolutions in time.
    pub taps: i64,
    /// Channels of a mixer over the block's width; half of them scan.
    pub expand: i64,
    /// Classes of the head.
    pub classes: i64,
    /// Stochastic depth of the last block; it rises to that from 0.
    pub drop_path: f64,
}

impl MambaVisionConfig {
    /// `mamba_vision_T`, with its stochastic depth.
    pub fn tiny(classes: i64) -> Self {
        Self {
            image_size: 224,
            width: 80,
            stem_width: 32,
            depths: vec![1, 3, 8, 4],
            heads: vec![2, 4, 8, 16],
            windows: vec![8, 8, 14, 7],
            mlp_ratio: 4.0,
            layer_scale: None,
            layer_scale_conv: None,
            states: 8,
            taps: 3,
            expand: 1,
            classes,
            drop_path: 0.2,
        }
    }

    /// The same for another input.
    pub fn with_image_size(self, image_size: i64) -> Self {
        Self { image_size, ..self }
    }

    fn level_width(&self, level: usize) -> i64 {
        self.width << level
    }

    /// Whether a model can be built from it; if not, `b` knows why.
    fn is_sound(&self, b: &Builder) -> bool {
        let n = self.depths.len();
        if n < 2 || [self.heads.len(), self.windows.len()] != [n; 2] {
            b.problem(format!(
                "a MambaVision needs as many depths, heads and windows as it has levels, at least two; found {self:?}"
            ));
            return false;
        }
        let divides = |level: usize| self.heads[level] > 0 && self.level_width(level) % self.heads[level] == 0;
        if !(2..n).all(divides) || self.windows.iter().any(|w| *w < 1) || self.expand * self.width % 2 != 0 {
            b.problem(format!(
                "a MambaVision needs an even width ({}), one of each level that its heads ({:?}) divide, and windows of at least \
                 one pixel ({:?})",
                self.width, self.heads, self.windows
            ));
            return false;
        }
        true
    }
}

/// What a convolution of 3×3 with stride 2 makes of a side.
fn halved(side: i64) -> i64 {
    (side + 1) / 2
}

/// A MambaVision with its head.
pub struct MambaVision {
    stem: [(Conv2d, BatchNorm2d); 2],
    blocks: Vec<Slot>,
    norm: BatchNorm2d,
    head: Linear,
}

impl MambaVision {
    /// Builds the model under the published names.
    pub fn new(b: &Builder, c: &MambaVisionConfig) -> Self {
        let levels = if c.is_sound(b) { c.depths.len() } else { 0 };
        let stem = b.sub("patch_embed.conv_down");
        let conv = |name: &str, from: i64, to: i64| stem.conv2d(name, from, to, ConvShape::same(3, 2, 1));
        let norm = |name: &str, channels: i64| stem.batch_norm2d(name, channels, STEM_EPS, 1.0);
        let stem = [
            (conv("0", 3, c.stem_width), norm("1", c.stem_width)),
            (conv("3", c.stem_width, c.width), norm("4", c.width)),
        ];
        let drops = DropPath::rising(c.drop_path, c.depths.iter().sum());
        let mut drops = drops.into_iter();
        let mut side = halved(halved(c.image_size));
        let mut blocks = Vec::new();
        for level in 0..levels {
            let (b, width, depth) = (b.sub("levels").sub(level), c.level_width(level), c.depths[level]);
            for i in 0..depth {
                let b = b.sub("blocks");
                let drop = drops.next().unwrap_or(DropPath { rate: 0.0 });
                blocks.push(if level < 2 {
                    b.block(&i.to_string(), |b| ConvBlock::new(b, width, c.layer_scale_conv, drop))
                } else {
                    let windows = Windows { side, window: c.windows[level], enter: i == 0, leave: i + 1 == depth };
                    // The first half scans; of an odd number, the larger half.
                    let scans = i < depth.div_ceil(2);
                    b.block(&i.to_string(), |b| WindowBlock::new(b, c, level, scans, windows, drop))
                });
            }
            if level + 1 < levels {
                let reduction = ConvShape::same(3, 2, 1);
                blocks
                    .push(b.block("downsample", |b| Downsample(b.conv2d("reduction.0", width, 2 * width, reduction))));
                side = halved(side);
            }
        }
        let last = c.level_width(levels.saturating_sub(1));
        Self {
            stem,
            blocks,
            norm: b.batch_norm2d("norm", last, NORM_EPS, 1.0),
            head: b.head("head").linear("", last, c.classes),
        }
    }
}

impl Model for MambaVision {
    /// The map (batch, channels, height / 4, width / 4) before the first block.
    fn patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor {
        let [first, second] = &self.stem;
        let x = first.1.forward(&first.0.forward(images, ctx), ctx).relu();
        second.1.forward(&second.0.forward(&x, ctx), ctx).relu()
    }

    /// The pooled map behind the last norm, (batch, channels).
    fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let x = executor.run(&self.blocks, vec![self.patches(images, ctx)], ctx).swap_remove(0);
        self.norm.forward(&x, ctx).mean_dim([2, 3].as_slice(), false, None::<Kind>)
    }

    fn forward(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.head.forward(&self.features(images, ctx, executor), ctx)
    }

    fn blocks(&self) -> &[Slot] {
        &self.blocks
    }
}

/// Two convolutions with their norms, added to the input. Maps (batch, channels, height, width) to the same.
struct ConvBlock {
    conv1: Conv2d,
    norm1_conv2: Part,
    norm2: BatchNorm2d,
    gamma: Option<Tensor>,
    drop: DropPath,
}

impl ConvBlock {
    fn new(b: &Builder, width: i64, layer_scale: Option<f64>, drop: DropPath) -> Self {
        let shape = ConvShape { bias: true, ..ConvShape::same(3, 1, 1) };
        Self {
            conv1: b.conv2d("conv1", width, width, shape),
            norm1_conv2: b.norm_act_conv(("norm1", NORM_EPS), Activation::GeluTanh, "conv2", [width, width], shape),
            norm2: b.batch_norm2d("norm2", width, NORM_EPS, 1.0),
            gamma: layer_scale.map(|value| b.param("gamma", &[width], Init::Constant(value))),
            drop,
        }
    }
}

impl Block for ConvBlock {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let y = self.norm1_conv2.forward(self.conv1.forward(&xs[0], ctx), ctx);
        let y = self.norm2.forward(&y, ctx);
        let y = match &self.gamma {
            Some(gamma) => y * gamma.view([1, -1, 1, 1]),
            None => y,
        };
        vec![&xs[0] + self.drop.forward(y, ctx)]
    }
}

/// Halves the map and doubles its width.
struct Downsample(Conv2d);

impl Block for Downsample {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        vec![self.0.forward(&xs[0], ctx)]
    }
}

/// How a level cuts its map into windows: once, in front of its first block, and back behind its last one. Where the map does
/// not divide into windows it grows at the bottom and on the right by zeros, which take part like other pixels.
#[derive(Debug, Clone, Copy)]
struct Windows {
    /// Side of the map, pixels.
    side: i64,
    /// Side of a window, pixels.
    window: i64,
    /// Whether this block is the level's first.
    enter: bool,
    /// Whether this block is the level's last.
    leave: bool,
}

impl Windows {
    /// Windows along a side.
    fn count(self) -> i64 {
        (self.side + self.window - 1) / self.window
    }

    /// (batch, channels, height, width) → (batch · windows, pixels, channels).
    fn cut(self, map: &Tensor) -> Tensor {
        let (batch, channels, w, n) = (map.size()[0], map.size()[1], self.window, self.count());
        let more = n * w - self.side;
        let map = if more > 0 { map.constant_pad_nd([0, more, 0, more]) } else { map.shallow_clone() };
        let windows = map.reshape([batch, channels, n, w, n, w]).permute([0, 2, 4, 3, 5, 1]);
        windows.reshape([batch * n * n, w * w, channels])
    }

    /// The way back, without what was added.
    fn join(self, tokens: &Tensor) -> Tensor {
        let (channels, w, n) = (tokens.size()[2], self.window, self.count());
        let map = tokens.reshape([-1, n, n, w, w, channels]).permute([0, 5, 1, 3, 2, 4]);
        let map = map.reshape([-1, channels, n * w, n * w]);
        if n * w > self.side { map.narrow(2, 0, self.side).narrow(3, 0, self.side).contiguous() } else { map }
    }
}

/// x + mixer(norm(x)), then x + MLP(norm(x)), on the tokens of windows.
struct WindowBlock {
    windows: Windows,
    mixer: Mixer,
    norm2_fc1: Part,
    gelu_fc2: Part,
    gamma: Option<[Tensor; 2]>,
    drop: DropPath,
}

enum Mixer {
    Scan(Box<ScanMixer>),
    Attention(Box<Attention>),
}

impl WindowBlock {
    fn new(b: &Builder, c: &MambaVisionConfig, level: usize, scans: bool, windows: Windows, drop: DropPath) -> Self {
        let width = c.level_width(level);
        let hidden = (width as f64 * c.mlp_ratio) as i64;
        let mlp = b.sub("mlp");
        let scale = |name: &str, value: f64| b.param(name, &[width], Init::Constant(value));
        Self {
            windows,
            mixer: if scans {
                Mixer::Scan(Box::new(ScanMixer::new(b, c, width)))
            } else {
                Mixer::Attention(Box::new(Attention::new(b, width, c.heads[level])))
            },
            norm2_fc1: b.norm_linear("norm2", NORM_EPS, "mlp.fc1", width, hidden),
            gelu_fc2: mlp.act_linear(Activation::Gelu, "fc2", hidden, width),
            gamma: c.layer_scale.map(|value| [scale("gamma_1", value), scale("gamma_2", value)]),
            drop,
        }
    }

    /// A branch as it is added.
    fn branch(&self, which: usize, y: Tensor, ctx: &Ctx) -> Tensor {
        let y = match &self.gamma {
            Some(gamma) => &gamma[which] * y,
            None => y,
        };
        self.drop.forward(y, ctx)
    }
}

impl Block for WindowBlock {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let x = if self.windows.enter { self.windows.cut(&xs[0]) } else { xs[0].shallow_clone() };
        let mixed = match &self.mixer {
            Mixer::Scan(mixer) => mixer.forward(&x, ctx),
            Mixer::Attention(mixer) => mixer.forward(&x, ctx),
        };
        let x = &x + self.branch(0, mixed, ctx);
        let hidden = self.norm2_fc1.forward(x.shallow_clone(), ctx); // (…, mlp_ratio · width)
        // A factor's gradient needs the values of what it multiplies.
        let y = if self.gamma.is_some() {
            self.gelu_fc2.forward(hidden, ctx)
        } else {
            self.gelu_fc2.forward_last(hidden, ctx)
        };
        let x = &x + self.branch(1, y, ctx);
        vec![if self.windows.leave { self.windows.join(&x) } else { x }]
    }
}

/// A norm; then half of the channels scan, the other half only goes through a convolution; neither gates the other.
struct ScanMixer {
    norm_in_proj: Part,
    halves: Part,
    out_proj: Linear,
}

impl ScanMixer {
    fn new(b: &Builder, c: &MambaVisionConfig, width: i64) -> Self {
        let inner = c.expand * width;
        let plain = LinearShape::USUAL.without_bias();
        let mixer = b.sub("mixer");
        Self {
            norm_in_proj: b.norm_linear_shaped(
                (NormKind::Layer, "norm1", NORM_EPS),
                "mixer.in_proj",
                [width, inner],
                plain,
            ),
            halves: mixer.part("halves", |b| Halves::new(b, c, width)),
            out_proj: mixer.linear_shaped("out_proj", inner, width, plain),
        }
    }

    /// (windows, tokens, width) to the same.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let y = self.halves.forward(self.norm_in_proj.forward(x.shallow_clone(), ctx), ctx);
        self.out_proj.forward(&y, ctx)
    }
}

/// What happens between a mixer's projections.
struct Halves {
    conv_x: Tensor,
    conv_z: Tensor,
    x_proj: Linear,
    dt_proj: Linear,
    a_log: Tensor,
    d: Tensor,
    sizes: [i64; 3],
}

impl Halves {
    fn new(b: &Builder, c: &MambaVisionConfig, width: i64) -> Self {
        let (half, rank) = (c.expand * width / 2, step_rank(width));
        let conv = |name: &str| b.sub(name).param("weight", &[half, 1, c.taps], Init::Uniform { fan_in: c.taps });
        Self {
            conv_x: conv("conv1d_x"),
            conv_z: conv("conv1d_z"),
            x_proj: b.linear_shaped("x_proj", half, rank + 2 * c.states, LinearShape::USUAL.without_bias()),
            // The published code draws special step widths, and then begins all biases of linear layers at zero.
            dt_proj: b.linear("dt_proj", rank, half),
            a_log: b.param("A_log", &[half, c.states], Init::Logarithms),
            d: b.param("D", &[half], Init::Constant(1.0)),
            sizes: [rank, c.states, c.states],
        }
    }

    /// SiLU of the convolution that sees as far ahead as back (for an even number of taps, one further ahead).
    fn convolve(&self, x: &Tensor, weight: &Tensor, ctx: &Ctx) -> Tensor {
        let taps = weight.size()[2];
        ctx.count(x.numel() as i64 * taps);
        conv_silu(x, &[Conv { weight, bias: None, left: (taps - 1) / 2, reverse: false }]).swap_remove(0)
    }
}

impl Block for Halves {
    /// (windows, tokens, inner) to the same.
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let mut halves = xs[0].chunk(2, -1);
        let (z, x) = (halves.remove(1), halves.remove(0));
        let (x, z) = (self.convolve(&x, &self.conv_x, ctx), self.convolve(&z, &self.conv_z, ctx));
        let mut parts = self.x_proj.forward(&x, ctx).split_with_sizes(self.sizes, -1);
        let (c, b, steps) = (parts.remove(2), parts.remove(1), parts.remove(0));
        // The layer adds its bias, and the scan adds it again: so does the published code, so its weights expect it.
        let delta = self.dt_proj.forward(&steps, ctx);
        let bias = self.dt_proj.bias().expect("built with a bias");
        let a = decay_rates(&self.a_log);
        let pass = Pass { x: &x, delta: &delta, a: &a, b: &b, c: &c, d: &self.d, bias, reverse: false };
        let scan = Scan { passes: &[pass], gate: None, scale: 1.0 };
        let y = if ctx.values { scan.run() } else { scan.without_value() };
        vec![Tensor::cat(&[y, z], -1)]
    }

    fn draws(&self) -> bool {
        self.x_proj.draws() || self.dt_proj.draws()
    }
}

/// A norm, and attention over the tokens of a window.
struct Attention {
    heads: i64,
    norm_qkv: Part,
    proj: Linear,
}

impl Attention {
    fn new(b: &Builder, width: i64, heads: i64) -> Self {
        Self {
            heads,
            norm_qkv: b.norm_linear("norm1", NORM_EPS, "mixer.qkv", width, 3 * width),
            proj: b.linear("mixer.proj", width, width),
        }
    }

    /// (windows, tokens, width) to the same.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.proj.forward(&attend(&self.norm_qkv.forward(x.shallow_clone(), ctx), self.heads, false, ctx), ctx)
    }
}
