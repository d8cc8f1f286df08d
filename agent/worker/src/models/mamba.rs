//! What Mamba's mixers have in common: a causal convolution in time, and what makes a scan's inputs depend on the data.

use tch::Tensor;

use crate::nn::{Builder, Ctx, Init, Linear, LinearShape};
use crate::scan::{Conv, Pass, conv_silu};

/// The usual rank of the step widths' projection.
pub(crate) fn step_rank(width: i64) -> i64 {
    (width + 15) / 16
}

/// Sizes of a direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirectionSizes {
    /// Channels.
    pub(crate) inner: i64,
    /// States of a channel.
    pub(crate) states: i64,
    /// Taps of the convolution.
    pub(crate) taps: i64,
    /// Rank of the step widths' projection.
    pub(crate) step_rank: i64,
    /// Whether the convolution adds something to each channel.
    pub(crate) conv_bias: bool,
}

/// One direction of a mixer in the form of Gu & Dao (arXiv 2312.00752), from its convolution to its scan.
pub(crate) struct Direction {
    conv_weight: Tensor,
    conv_bias: Option<Tensor>,
    x_proj: Linear,
    dt_proj: Linear,
    step_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    sizes: [i64; 3],
}

impl Direction {
    /// Builds it under names that end in `suffix`; `step_bias` is how its step widths begin.
    pub(crate) fn new(b: &Builder, suffix: &str, sizes: DirectionSizes, step_bias: Init) -> Self {
        let DirectionSizes { inner, states, taps, step_rank, conv_bias } = sizes;
        let name = |stem: &str| format!("{stem}{suffix}");
        let a_log = if suffix.is_empty() { "A_log".to_owned() } else { format!("A{suffix}_log") };
        let torch = |fan_in: i64| LinearShape { weight: Init::Uniform { fan_in }, bias: None };
        let conv = b.sub(name("conv1d"));
        let init = Init::Uniform { fan_in: taps };
        Self {
            conv_weight: conv.param("weight", &[inner, 1, taps], init),
            conv_bias: conv_bias.then(|| conv.param("bias", &[inner], init)),
            x_proj: b.linear_shaped(&name("x_proj"), inner, step_rank + 2 * states, torch(inner)),
            // Its bias is the scan's, which adds it once.
            dt_proj: b.linear_shaped(&name("dt_proj"), step_rank, inner, torch(step_rank)),
            step_bias: b.sub(name("dt_proj")).param("bias", &[inner], step_bias),
            a_log: b.param(&a_log, &[inner, states], Init::Logarithms),
            d: b.param(&name("D"), &[inner], Init::Constant(1.0)),
            sizes: [step_rank, states, states],
        }
    }

    /// Whether its layers draw random numbers in training.
    pub(crate) fn draws(&self) -> bool {
        self.x_proj.draws() || self.dt_proj.draws()
    }

    /// What the scan takes, for input `x` (batch, tokens, inner) behind the convolution.
    pub(crate) fn prepare<'a>(&'a self, x: &'a Tensor, ctx: &Ctx) -> Prepared<'a> {
        let mut parts = self.x_proj.forward(x, ctx).split_with_sizes(self.sizes, -1);
        let (c, b, steps) = (parts.remove(2), parts.remove(1), parts.remove(0));
        let delta = self.dt_proj.forward(&steps, ctx);
        Prepared { x, delta, a: decay_rates(&self.a_log), b, c, direction: self }
    }
}

/// A direction's scan, ready.
pub(crate) struct Prepared<'a> {
    x: &'a Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    direction: &'a Direction,
}

impl Prepared<'_> {
    pub(crate) fn pass(&self, reverse: bool) -> Pass<'_> {
        let Self { x, delta, a, b, c, direction } = self;
        Pass { x, delta, a, b, c, d: &direction.d, bias: &direction.step_bias, reverse }
    }
}

/// a = −exp(A_log), in whatever the parameter is kept.
pub(super) fn decay_rates(a_log: &Tensor) -> Tensor {
    -a_log.exp()
}

/// SiLU of the causal convolutions of `x` for directions that run forwards or, where it says so, backwards in time.
pub(crate) fn convolutions<const N: usize>(x: &Tensor, directions: [(&Direction, bool); N], ctx: &Ctx) -> Vec<Tensor> {
    let convs = directions.map(|(direction, reverse)| {
        let taps = direction.conv_weight.size()[2];
        ctx.count(x.numel() as i64 * taps);
        Conv { weight: &direction.conv_weight, bias: direction.conv_bias.as_ref(), left: taps - 1, reverse }
    });
    conv_silu(x, &convs)
}
