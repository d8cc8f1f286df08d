//! Vision Mamba (`agent/worker/src/models/vim.rs`, `mamba.rs`).

use super::build::Builder;
use super::layers::{Linear, Pass};
use super::model::Model;
use super::ops;
use super::tape::Tensor;
use super::vit::repeated;
use crate::spec::Backbone;

const PATCH: u64 = 16;
const DEPTH: u64 = 24;
const STATES: u64 = 16;
const TAPS: u64 = 4;

/// The model for inputs of `side` pixels.
pub(super) fn model(b: &Builder<'_>, backbone: Backbone, side: u64, classes: u64) -> Model {
    let width = if backbone == Backbone::VimTiny { 192 } else { 384 };
    let patches = (side / PATCH).pow(2);
    let embed = b.sub("patch_embed").conv("proj", PATCH, 3, width, 1, true);
    let class = b.param("cls_token", width);
    let positions = b.param("pos_embed", (1 + patches) * width);
    let layers = b.sub("layers");
    let blocks = (0..DEPTH).map(|i| layers.block(&i.to_string(), |b| block(b, width, patches + 1, i))).collect();
    let norm = b.sub("norm_f").param("weight", width);
    let head = b.head("").linear("head", width, classes, true);
    Model {
        before: Box::new(move |images, pass| {
            let patches = ops::copied_back(&embed.forward(images, patches, false, pass));
            let class = ops::cast(&repeated(&class, pass.batch), patches.width);
            let x = ops::cat(&[&patches, &class]);
            vec![ops::add(&x, &positions)]
        }),
        blocks,
        after: Box::new(move |xs, pass| {
            let class: Vec<Tensor> = xs.iter().map(|x| ops::part(x, pass.batch * width)).collect();
            let sum = ops::add(&class[1], &ops::masked(&class[0]));
            head.forward(&ops::rms_norm(&sum, &norm), pass)
        }),
    }
}

/// One direction of a mixer.
struct Direction {
    conv: Tensor,
    conv_bias: Tensor,
    x_proj: Linear,
    dt_proj: Linear,
    step_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    rank: u64,
}

impl Direction {
    fn new(b: &Builder<'_>, suffix: &str, inner: u64, rank: u64) -> Self {
        let name = |stem: &str| format!("{stem}{suffix}");
        let conv = b.sub(&name("conv1d"));
        Self {
            conv: conv.param("weight", inner * TAPS),
            conv_bias: conv.param("bias", inner),
            x_proj: b.linear(&name("x_proj"), inner, rank + 2 * STATES, false),
            dt_proj: b.linear(&name("dt_proj"), rank, inner, false),
            step_bias: b.sub(&name("dt_proj")).param("bias", inner),
            a_log: b.param("A_log", inner * STATES),
            d: b.param("D", inner),
            rank,
        }
    }

    /// Step widths, decay rates, and what goes into the states and comes out, for input `x` of `tokens`.
    fn prepare(&self, x: &Tensor, tokens: u64, pass: Pass) -> [Tensor; 4] {
        let product = self.x_proj.forward(x, pass);
        let [steps, b, c] = thirds(&product, tokens, self.rank, STATES);
        drop(product);
        let delta = self.dt_proj.forward(&steps, pass);
        [delta, decay_rates(&self.a_log), b, c]
    }
}

/// The three parts of what a mixer computes for its scan.
pub(super) fn thirds(product: &Tensor, tokens: u64, rank: u64, states: u64) -> [Tensor; 3] {
    let mut parts = ops::split(product, &[tokens * rank, tokens * states, tokens * states]).into_iter();
    std::array::from_fn(|_| parts.next().expect("three sizes give three parts"))
}

/// −exp(A_log).
pub(super) fn decay_rates(a_log: &Tensor) -> Tensor {
    ops::negated(&ops::exp(a_log))
}

fn block(b: &Builder<'_>, width: u64, tokens: u64, index: u64) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let inner = 2 * width;
    let rank = width.div_ceil(16);
    let norm = b.sub("norm").param("weight", width);
    let b = b.sub("mixer");
    let in_proj = b.linear("in_proj", width, 2 * inner, false);
    let directions = [Direction::new(&b, "", inner, rank), Direction::new(&b, "_b", inner, rank)];
    let out_proj = b.linear("out_proj", inner, width, false);
    // Rates of stochastic depth rise from 0, which the first two blocks have.
    let drops = index > 1;
    move |xs, pass| {
        let sum = match xs {
            [hidden, residual] => {
                let hidden = if drops { ops::masked(hidden) } else { hidden.clone() };
                ops::add(residual, &hidden)
            }
            _ => xs[0].clone(),
        };
        let normal = ops::rms_norm(&sum, &norm);
        let xz = in_proj.forward(&normal, pass);
        let halves = ops::split(&xz, &[xz.numel / 2; 2]);
        let (x, z) = (&halves[0], &halves[1]);
        let [f, r] = &directions;
        let convs = [(&f.conv, Some(&f.conv_bias)), (&r.conv, Some(&r.conv_bias))];
        let inputs = ops::conv_silu(x, &convs, pass.batch);
        let all = pass.batch * tokens;
        let prepared = [f.prepare(&inputs[0], all, pass), r.prepare(&inputs[1], all, pass)];
        let passes: Vec<ops::Pass<'_>> = (0..2)
            .map(|i| {
                let [delta, a, b, c] = &prepared[i];
                let Direction { d, step_bias, .. } = &directions[i];
                ops::Pass { x: &inputs[i], delta, a, b, c, d, bias: step_bias }
            })
            .collect();
        let y = ops::selective_scan(&passes, Some(z), pass.batch);
        let y = out_proj.forward_last(&y, pass);
        vec![y, sum]
    }
}
