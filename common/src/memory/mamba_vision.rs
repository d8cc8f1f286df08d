//! MambaVision (`agent/worker/src/models/mamba_vision.rs`).

use super::build::Builder;
use super::layers::{Linear, Norm, Pass, gelu_linear};
use super::model::Model;
use super::ops;
use super::tape::Tensor;
use super::vim::{decay_rates, thirds};
use super::windows::padded;

const WIDTH: u64 = 80;
const STEM_WIDTH: u64 = 32;
const DEPTHS: [usize; 4] = [1, 3, 8, 4];
const HEADS: [u64; 4] = [2, 4, 8, 16];
const WINDOWS: [u64; 4] = [8, 8, 14, 7];
const STATES: u64 = 8;
const TAPS: u64 = 3;

/// `mamba_vision_T` for inputs of `side` pixels.
pub(super) fn model(b: &Builder<'_>, side: u64, classes: u64) -> Model {
    let stem = b.sub("patch_embed.conv_down");
    let half = side.div_ceil(2);
    let mut map = half.div_ceil(2);
    let convs = [stem.conv("0", 3, 3, STEM_WIDTH, 1, false), stem.conv("3", 3, STEM_WIDTH, WIDTH, 1, false)];
    let norms = [stem.batch_norm("1", STEM_WIDTH), stem.batch_norm("4", WIDTH)];
    let pixels = [half * half, map * map];
    let mut blocks = Vec::new();
    for (level, depth) in DEPTHS.into_iter().enumerate() {
        let (b, width) = (b.sub("levels").sub(&level.to_string()), WIDTH << level);
        for i in 0..depth {
            let b = b.sub("blocks");
            // The first block's rate is 0.
            let drops = !blocks.is_empty();
            blocks.push(if level < 2 {
                b.block(&i.to_string(), |b| conv_block(b, width, map * map, drops))
            } else {
                let windows = Windows { map, window: WINDOWS[level], enter: i == 0, leave: i + 1 == depth };
                let scans = i < depth.div_ceil(2);
                b.block(&i.to_string(), |b| window_block(b, width, HEADS[level], scans, windows, drops))
            });
        }
        if level + 1 < DEPTHS.len() {
            map = map.div_ceil(2);
            let after = map * map;
            blocks.push(b.block("downsample", |b| {
                let conv = b.conv("reduction.0", 3, width, 2 * width, 1, false);
                move |xs: &[Tensor], pass: Pass| vec![conv.forward(&xs[0], after, false, pass)]
            }));
        }
    }
    let last = WIDTH << 3;
    let norm = b.batch_norm("norm", last);
    let head = b.head("").linear("head", last, classes, true);
    Model {
        before: Box::new(move |images, pass| {
            let mut x = images.clone();
            for i in 0..2 {
                x = ops::relu(&norms[i].batch(&convs[i].forward(&x, pixels[i], false, pass)));
            }
            vec![x]
        }),
        blocks,
        after: Box::new(move |mut xs, pass| {
            let x = norm.batch(&xs.swap_remove(0));
            head.forward(&ops::mean(&x, pass.batch * last), pass)
        }),
    }
}

fn dropped(x: Tensor, drops: bool) -> Tensor {
    if drops { ops::masked(&x) } else { x }
}

fn conv_block(
    b: &Builder<'_>,
    width: u64,
    pixels: u64,
    drops: bool,
) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let conv1 = b.conv("conv1", 3, width, width, 1, true);
    let norm1 = b.batch_norm("norm1", width);
    let conv2 = b.conv("conv2", 3, width, width, 1, true);
    let norm2 = b.batch_norm("norm2", width);
    move |xs, pass| {
        let y = ops::gelu(&norm1.batch(&conv1.forward(&xs[0], pixels, false, pass)));
        let z = norm2.batch(&conv2.forward(&y, pixels, false, pass));
        drop(y);
        vec![ops::add(&xs[0], &dropped(z, drops))]
    }
}

/// How a level cuts its map into windows.
#[derive(Clone, Copy)]
struct Windows {
    map: u64,
    window: u64,
    enter: bool,
    leave: bool,
}

impl Windows {
    /// Side of the map with what is added to it.
    fn whole(self) -> u64 {
        self.map.div_ceil(self.window) * self.window
    }

    fn cut(self, x: &Tensor, width: u64, batch: u64) -> Tensor {
        let whole = self.whole();
        let x = if whole > self.map { padded(x, batch * whole * whole * width) } else { x.clone() };
        ops::copied(&x)
    }

    fn join(self, x: &Tensor, width: u64, batch: u64) -> Tensor {
        let y = ops::copied(x);
        if self.whole() == self.map {
            return y;
        }
        let rows = ops::part(&y, batch * self.map * self.whole() * width);
        let map = ops::part(&rows, batch * self.map * self.map * width);
        drop((y, rows));
        ops::copied_part(&map)
    }
}

enum Mixer {
    Scan(Box<ScanMixer>),
    Attention { heads: u64, qkv: Box<Linear>, proj: Box<Linear> },
}

fn window_block(
    b: &Builder<'_>,
    width: u64,
    heads: u64,
    scans: bool,
    windows: Windows,
    drops: bool,
) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let (m, mlp) = (b.sub("mixer"), b.sub("mlp"));
    let norm1: Norm = b.layer_norm("norm1", width);
    let mixer = if scans {
        Mixer::Scan(Box::new(ScanMixer::new(&m, width)))
    } else {
        let (qkv, proj) = (m.linear("qkv", width, 3 * width, true), m.linear("proj", width, width, true));
        Mixer::Attention { heads, qkv: Box::new(qkv), proj: Box::new(proj) }
    };
    let norm2 = b.layer_norm("norm2", width);
    let (fc1, fc2) = (mlp.linear("fc1", width, 4 * width, true), mlp.linear("fc2", 4 * width, width, true));
    move |xs, pass| {
        let before = if windows.enter { windows.cut(&xs[0], width, pass.batch) } else { xs[0].clone() };
        let normal = norm1.layer(&before);
        let mixed = match &mixer {
            Mixer::Scan(mixer) => mixer.forward(&normal, windows, pass),
            Mixer::Attention { heads, qkv, proj } => {
                let qkv = qkv.forward(&normal, pass);
                let y = ops::attention(&ops::thirds(&qkv), None, normal.numel / width * heads);
                proj.forward(&y, pass)
            }
        };
        let x = ops::add(&before, &dropped(mixed, drops));
        let hidden = fc1.forward(&norm2.layer(&x), pass);
        let y = dropped(gelu_linear(&fc2, &hidden, pass), drops);
        let sum = ops::add(&x, &y);
        drop(y);
        vec![if windows.leave { windows.join(&sum, width, pass.batch) } else { sum }]
    }
}

/// Half of the channels scan, the other half goes through a convolution.
struct ScanMixer {
    in_proj: Linear,
    conv_x: Tensor,
    conv_z: Tensor,
    x_proj: Linear,
    dt_proj: Linear,
    a_log: Tensor,
    d: Tensor,
    out_proj: Linear,
    width: u64,
}

impl ScanMixer {
    fn new(b: &Builder<'_>, width: u64) -> Self {
        let (half, rank) = (width / 2, width.div_ceil(16));
        let conv = |name: &str| b.sub(name).param("weight", half * TAPS);
        Self {
            in_proj: b.linear("in_proj", width, width, false),
            conv_x: conv("conv1d_x"),
            conv_z: conv("conv1d_z"),
            x_proj: b.linear("x_proj", half, rank + 2 * STATES, false),
            dt_proj: b.linear("dt_proj", rank, half, true),
            a_log: b.param("A_log", half * STATES),
            d: b.param("D", half),
            out_proj: b.linear("out_proj", width, width, false),
            width,
        }
    }

    fn forward(&self, normal: &Tensor, windows: Windows, pass: Pass) -> Tensor {
        let tokens = normal.numel / self.width;
        let sequences = tokens / windows.window.pow(2).max(1);
        let xz = self.in_proj.forward(normal, pass);
        let halves = ops::split(&xz, &[xz.numel / 2; 2]);
        let x = ops::conv_silu(&halves[0], &[(&self.conv_x, None)], sequences).swap_remove(0);
        let z = ops::conv_silu(&halves[1], &[(&self.conv_z, None)], sequences).swap_remove(0);
        drop(halves);
        let product = self.x_proj.forward(&x, pass);
        let [steps, b, c] = thirds(&product, tokens, self.width.div_ceil(16), STATES);
        drop(product);
        let delta = self.dt_proj.forward(&steps, pass);
        let a = decay_rates(&self.a_log);
        let Some(bias) = &self.dt_proj.bias else { unreachable!("built with a bias") };
        let scan = ops::Pass { x: &x, delta: &delta, a: &a, b: &b, c: &c, d: &self.d, bias };
        let y = ops::selective_scan(&[scan], None, sequences);
        self.out_proj.forward(&ops::cat(&[&y, &z]), pass)
    }
}
