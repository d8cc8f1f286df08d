//! TinyViT (`agent/worker/src/models/tiny_vit.rs`).

use super::build::Builder;
use super::layers::{Conv, Linear, Norm, Pass, gelu_linear, norm_linear};
use super::model::Model;
use super::ops;
use super::tape::Tensor;
use crate::spec::Backbone;

const DEPTHS: [usize; 4] = [2, 2, 6, 2];
const WINDOWS: [u64; 4] = [7, 7, 14, 7];

/// The model for inputs of `side` pixels.
pub(super) fn model(b: &Builder<'_>, backbone: Backbone, side: u64, classes: u64) -> Model {
    let (widths, heads, drops) = match backbone {
        Backbone::TinyVit21m => ([96, 192, 384, 576], [3, 6, 12, 18], true),
        Backbone::TinyVit11m => ([64, 128, 256, 448], [2, 4, 8, 14], true),
        _ => ([64, 128, 160, 320], [2, 4, 5, 10], false),
    };
    let stem = b.sub("patch_embed");
    let half = side.div_ceil(2);
    let mut map = half.div_ceil(2);
    let stem = [
        (ConvNorm::new(&stem, "conv1", 3, 3, widths[0] / 2, 1), half * half),
        (ConvNorm::new(&stem, "conv2", 3, widths[0] / 2, widths[0], 1), map * map),
    ];
    let mut blocks = Vec::new();
    for (stage, depth) in DEPTHS.into_iter().enumerate() {
        let b = b.sub("stages").sub(&stage.to_string());
        let width = widths[stage];
        if stage > 0 {
            let (before, pixels) = (widths[stage - 1], map * map);
            map = map.div_ceil(2);
            let after = map * map;
            blocks.push(b.block("downsample", |b| merging(b, before, width, stage > 1, [pixels, after])));
        }
        let b = b.sub("blocks");
        for i in 0..depth {
            // The first block's rate is 0.
            let drops = drops && !blocks.is_empty();
            blocks.push(if stage == 0 {
                b.block(&i.to_string(), |b| bottleneck(b, width, map * map, drops))
            } else {
                let sizes = AttentionSizes { width, heads: heads[stage], window: WINDOWS[stage], map };
                b.block(&i.to_string(), |b| block(b, sizes, drops))
            });
        }
    }
    let head = b.sub("head");
    let norm = head.layer_norm("norm", widths[3]);
    let fc = b.head("head").linear("fc", widths[3], classes, true);
    Model {
        before: Box::new(move |images, pass| {
            let [(first, pixels), (second, after)] = &stem;
            let x = ops::gelu(&first.forward(images, *pixels, false, pass));
            vec![second.forward(&x, *after, false, pass)]
        }),
        blocks,
        after: Box::new(move |mut xs, pass| {
            let pooled = ops::mean(&xs.swap_remove(0), pass.batch * widths[3]);
            fc.forward(&norm.layer(&pooled), pass)
        }),
    }
}

/// A convolution and the batch norm behind it.
struct ConvNorm {
    conv: Conv,
    norm: Norm,
}

impl ConvNorm {
    fn new(b: &Builder<'_>, name: &str, kernel: u64, inputs: u64, outputs: u64, groups: u64) -> Self {
        let b = b.sub(name);
        Self { conv: b.conv("conv", kernel, inputs, outputs, groups, false), norm: b.batch_norm("bn", outputs) }
    }

    fn forward(&self, x: &Tensor, pixels: u64, channels_last: bool, pass: Pass) -> Tensor {
        self.norm.batch(&self.conv.forward(x, pixels, channels_last, pass))
    }
}

fn dropped(x: Tensor, drops: bool) -> Tensor {
    if drops { ops::masked(&x) } else { x }
}

/// An inverted bottleneck.
fn bottleneck(
    b: &Builder<'_>,
    width: u64,
    pixels: u64,
    drops: bool,
) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let hidden = 4 * width;
    let expand = ConvNorm::new(b, "conv1", 1, width, hidden, 1);
    let depthwise = ConvNorm::new(b, "conv2", 3, hidden, hidden, hidden);
    let project = ConvNorm::new(b, "conv3", 1, hidden, width, 1);
    move |xs, pass| {
        let x = ops::gelu(&expand.forward(&xs[0], pixels, false, pass));
        let x = {
            let y = ops::gelu(&depthwise.forward(&x, pixels, false, pass));
            (x, y)
        };
        let y = dropped(project.forward(&x.1, pixels, false, pass), drops);
        vec![ops::gelu(&ops::add(&y, &xs[0]))]
    }
}

/// Halves the map, from `pixels[0]` to `pixels[1]`.
fn merging(
    b: &Builder<'_>,
    before: u64,
    width: u64,
    from_channels_last: bool,
    pixels: [u64; 2],
) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let conv1 = ConvNorm::new(b, "conv1", 1, before, width, 1);
    let conv2 = ConvNorm::new(b, "conv2", 3, width, width, width);
    let conv3 = ConvNorm::new(b, "conv3", 1, width, width, 1);
    move |xs, pass| {
        let first = if from_channels_last { ops::copied(&xs[0]) } else { xs[0].clone() };
        let second = ops::gelu(&conv1.forward(&first, pixels[0], false, pass));
        let third = ops::gelu(&conv2.forward(&second, pixels[1], false, pass));
        vec![conv3.forward(&third, pixels[1], false, pass)]
    }
}

/// Sizes of a block with attention.
#[derive(Clone, Copy)]
struct AttentionSizes {
    width: u64,
    heads: u64,
    window: u64,
    /// Side of the map, pixels.
    map: u64,
}

struct Layers {
    norm: Norm,
    qkv: Linear,
    proj: Linear,
    biases: Tensor,
    local: ConvNorm,
    mlp_norm: Norm,
    fc1: Linear,
    fc2: Linear,
}

fn block(b: &Builder<'_>, sizes: AttentionSizes, drops: bool) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let AttentionSizes { width, heads, window, map } = sizes;
    let (attention, mlp) = (b.sub("attn"), b.sub("mlp"));
    // A window has as many distances as pixels, and a place in the table for each pair of pixels.
    let tokens = window * window;
    attention.buffer(tokens * tokens, 8);
    let l = Layers {
        biases: attention.param("attention_biases", heads * tokens),
        norm: attention.layer_norm("norm", width),
        qkv: attention.linear("qkv", width, 3 * width, true),
        proj: attention.linear("proj", width, width, true),
        mlp_norm: mlp.layer_norm("norm", width),
        fc1: mlp.linear("fc1", width, 4 * width, true),
        fc2: mlp.linear("fc2", 4 * width, width, true),
        local: ConvNorm::new(b, "local_conv", 3, width, width, width),
    };
    move |xs, pass| {
        let x = {
            let attended = dropped(attend(&l, &xs[0], sizes, pass), drops);
            ops::add(&xs[0], &attended)
        };
        let x = l.local.forward(&x, map * map, true, pass);
        let hidden = norm_linear(&l.mlp_norm, &l.fc1, &x, pass);
        let y = dropped(gelu_linear(&l.fc2, &hidden, pass), drops);
        vec![ops::add(&x, &y)]
    }
}

/// Attention in windows, from the map and back to it.
fn attend(l: &Layers, x: &Tensor, sizes: AttentionSizes, pass: Pass) -> Tensor {
    let AttentionSizes { width, heads, window, map } = sizes;
    if map == window {
        return attention(l, x, pass.batch, sizes, pass);
    }
    let along = map.div_ceil(window);
    let whole = pass.batch * (along * window).pow(2) * width;
    let padded = if along * window > map { super::windows::padded(x, whole) } else { x.clone() };
    let tokens = ops::copied(&padded);
    let y = attention(l, &tokens, pass.batch * along * along, AttentionSizes { heads, ..sizes }, pass);
    let y = ops::copied(&y);
    // Two views that cut off what was added, or nothing.
    let rows = ops::part(&y, whole / (along * window) * map);
    ops::part(&rows, pass.batch * map * map * width)
}

fn attention(l: &Layers, x: &Tensor, windows: u64, sizes: AttentionSizes, pass: Pass) -> Tensor {
    let AttentionSizes { heads, window, .. } = sizes;
    let tokens = window * window;
    let qkv = norm_linear(&l.norm, &l.qkv, x, pass);
    let parts = ops::thirds(&qkv);
    drop(qkv);
    let bias = super::windows::looked_up(&l.biases, heads * tokens * tokens);
    let bias = ops::cast(&bias, parts[0].width);
    let y = if l.biases.requires_grad() {
        ops::attention_with_trained_bias(&parts, &bias, windows * heads * tokens * tokens)
    } else {
        ops::attention(&parts, Some(&bias), windows * heads * tokens)
    };
    l.proj.forward(&y, pass)
}
