//! The selective scan of Mamba (Gu & Dao, arXiv 2312.00752), and the short convolution in front of it, as functions
//! that libtorch's autograd sees as one node each.
//!
//! For each channel and each of its N states, with dt = softplus(delta + bias):
//!
//! ```text
//! h[t] = exp(dt[t]·a)·h[t−1] + dt[t]·b[t]·x[t]        s[t] = Σ_n c[t]·h[t] + d·x[t]        y = scale·silu(gate)·Σ_passes s
//! ```
//!
//! A pass may run backwards in time: Vim has one in each direction, and neither its inputs nor its outputs are flipped
//! for that. What is kept for backward are the inputs: with L times and D channels O(L·D) numbers per image, and none
//! of the L·D·N states, which are computed again. Layout is (batch, time, channels) throughout, as linear layers read
//! and write.
//!
//! `cpu` and `cuda` have the kernels, `plain` the same in libtorch's operators.

mod cpu;
pub mod cuda;
mod function;
pub mod plain;

use tch::{Device, Kind, Tensor};

use function::{Kernels, OwnConvs, OwnScan};

/// One pass of a scan.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Input, (batch, length, channels).
    pub x: &'a Tensor,
    /// Step widths before bias and softplus, (batch, length, channels).
    pub delta: &'a Tensor,
    /// Decay rates, negative, (channels, states).
    pub a: &'a Tensor,
    /// What of the input goes into each state, (batch, length, states).
    pub b: &'a Tensor,
    /// What of each state is read, (batch, length, states).
    pub c: &'a Tensor,
    /// What of the input is passed on as it is, (channels).
    pub d: &'a Tensor,
    /// Added to `delta`, (channels).
    pub bias: &'a Tensor,
    /// From the last time to the first.
    pub reverse: bool,
}

impl<'a> Pass<'a> {
    /// Tensors of a pass.
    pub const TENSORS: usize = 7;

    fn tensors(&self) -> [&'a Tensor; 7] {
        [self.x, self.delta, self.a, self.b, self.c, self.d, self.bias]
    }

    /// A pass of its tensors: x, delta, a, b, c, d and bias.
    ///
    /// # Panics
    /// When they are not seven.
    pub fn of(tensors: &'a [Tensor], reverse: bool) -> Self {
        let [x, delta, a, b, c, d, bias] = tensors else { panic!("a pass has seven tensors, found {}", tensors.len()) };
        Self { x, delta, a, b, c, d, bias, reverse }
    }

    fn check(&self) {
        let size = self.x.size();
        let [batch, length, channels] = size[..] else { panic!("a scan's input has three dimensions, found {size:?}") };
        let states = self.a.size().get(1).copied().unwrap_or(0);
        assert!(batch > 0 && length > 0 && states > 0, "a scan over nothing: {size:?} with {states} states");
        let expected =
            [&[batch, length, channels][..], &[channels, states], &[batch, length, states], &[batch, length, states]];
        let found = [self.delta, self.a, self.b, self.c];
        for ((name, found), expected) in ["delta", "a", "b", "c"].iter().zip(found).zip(expected) {
            assert_eq!(found.size(), expected, "shape of a scan's {name}");
        }
        assert!(
            self.d.size() == [channels] && self.bias.size() == [channels],
            "a scan's d and bias are one per channel"
        );
    }
}

/// The gradients of a pass, each of its tensor's shape and by its name.
#[derive(Debug)]
#[allow(missing_docs, reason = "they are named as in the pass")]
pub struct PassGradients {
    pub x: Tensor,
    pub delta: Tensor,
    pub a: Tensor,
    pub b: Tensor,
    pub c: Tensor,
    pub d: Tensor,
    pub bias: Tensor,
}

/// The gradients of a scan.
#[derive(Debug)]
pub struct Gradients {
    /// One for each pass.
    pub passes: Vec<PassGradients>,
    /// Where there is a gate.
    pub gate: Option<Tensor>,
}

/// A scan, before it runs.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// What is added up.
    pub passes: &'a [Pass<'a>],
    /// Whose SiLU is a factor, in the shape of the input.
    pub gate: Option<&'a Tensor>,
    /// Another factor.
    pub scale: f64,
}

impl Scan<'_> {
    /// y (batch, length, channels): the sum over the passes, times `scale`, times silu(`gate`) where there is one.
    ///
    /// Tensors may be views with any stride between rows; the scan computes in f32 (in f64 for f64 inputs) and gives
    /// that.
    ///
    /// # Panics
    /// For shapes that do not fit, and where libtorch fails, as tch's operators do; see [`crate::torch::guard`].
    pub fn run(&self) -> Tensor {
        self.apply(true)
    }

    /// Zeros in place of y, with the gradients of y, for who runs a scan again for backward's sake. (Where libtorch's
    /// own operators have to stand in for the kernels, y itself.)
    ///
    /// # Panics
    /// As [`Scan::run`].
    pub fn without_value(&self) -> Tensor {
        self.apply(false)
    }

    fn apply(&self, values: bool) -> Tensor {
        let Self { passes, gate, scale } = *self;
        passes.iter().for_each(Pass::check);
        assert!(gate.is_none_or(|gate| gate.size() == passes[0].x.size()), "a scan's gate has the shape of its input");
        let tensors: Vec<Tensor> = passes.iter().flat_map(|p| p.tensors()).chain(gate).map(wide).collect();
        let reverse: Vec<bool> = passes.iter().map(|p| p.reverse).collect();
        let scan = OwnScan { tensors, reverse, scale };
        match passes[0].x.device() {
            Device::Cpu => scan.run(Kernels::Cpu, values),
            device => match gpu_kernels(passes, device, scan.tensors[0].kind()) {
                Some(gpu) => scan.run(Kernels::Gpu(gpu), values),
                None => scan.plain(),
            },
        }
    }
}

/// [`Scan::run`].
///
/// # Panics
/// As that.
pub fn selective_scan(passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64) -> Tensor {
    Scan { passes, gate, scale }.run()
}

/// The kernels for these passes on a GPU, if they can be used there.
fn gpu_kernels(passes: &[Pass<'_>], device: Device, kind: Kind) -> Option<cuda::Kernels> {
    let states = passes.iter().map(|pass| pass.b.size()[2]).max()?;
    if kind == Kind::Float { cuda::kernels(device, states, plain::selective_scan) } else { None }
}

/// A depthwise convolution in time.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// Factors, (channels, 1, taps), as PyTorch keeps them.
    pub weight: &'a Tensor,
    /// Added to each channel, (channels).
    pub bias: Option<&'a Tensor>,
    /// How many times before its own the first tap looks: taps − 1 for a causal convolution. Beyond the ends are zeros.
    pub left: i64,
    /// From the last time to the first: "before" means after.
    pub reverse: bool,
}

/// The gradients of some convolutions of the same input.
struct ConvGradients {
    x: Tensor,
    /// Weight and bias of each.
    convs: Vec<(Tensor, Tensor)>,
}

/// SiLU of each of the convolutions of `x` (batch, length, channels), in the shape of `x`. What is kept for backward is
/// `x`.
///
/// # Panics
/// As [`selective_scan`].
pub fn conv_silu(x: &Tensor, convs: &[Conv<'_>]) -> Vec<Tensor> {
    if x.device() != Device::Cpu {
        return plain::conv_silu(x, convs);
    }
    let channels = x.size()[2];
    for conv in convs {
        let size = conv.weight.size();
        assert!(
            size.len() == 3 && size[..2] == [channels, 1],
            "a depthwise convolution of {channels} channels has {size:?}"
        );
    }
    OwnConvs::new(&wide(x), convs).run()
}

/// As the kernels take tensors: in f32 or f64, with the numbers of a row side by side.
fn wide(tensor: &Tensor) -> Tensor {
    let tensor = match tensor.kind() {
        Kind::Double => tensor.shallow_clone(),
        _ => tensor.to_kind(Kind::Float),
    };
    let rows = tensor.dim() == 3 && tensor.stride()[2] == 1;
    if rows { tensor } else { tensor.contiguous() }
}
