//! The depthwise convolution in time with SiLU, for one group of channels of one batch entry.

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, for_each_isa};
use super::lanes::{Lanes, Real};
use super::rows::{DEPTH, Group, Rows, load, load_columns, slice};
use super::{GROUP, for_each_group};
use crate::scan::{Conv, ConvGradients};

/// A convolution's numbers.
struct Filter<'a, T> {
    /// (channels, taps).
    weight: &'a [T],
    bias: Option<&'a [T]>,
    taps: usize,
    left: isize,
    reverse: bool,
}

impl<'a, T: Real> Filter<'a, T> {
    fn of(conv: &Conv<'a>) -> Self {
        Self {
            weight: slice(conv.weight),
            bias: conv.bias.map(slice),
            taps: conv.weight.size()[2] as usize,
            left: conv.left as isize,
            reverse: conv.reverse,
        }
    }
}

/// A convolution for the channels of a group: its factors by tap, and where each tap looks.
struct Taps<T> {
    /// (taps), each for the group's channels.
    weight: Vec<Group<T>>,
    bias: Group<T>,
    /// Place in time that the first tap looks at, relative to the output's.
    first: isize,
    /// From one tap's place to the next one's: 1, or -1 where time runs backwards.
    step: isize,
}

impl<T: Real> Taps<T> {
    fn of(filter: &Filter<'_, T>, first: usize) -> Self {
        let step = if filter.reverse { -1 } else { 1 };
        Self {
            weight: load_columns(filter.weight, filter.taps, first),
            bias: filter.bias.map_or([Lanes::ZERO; DEPTH], |bias| load(&bias[first..])),
            first: -step * filter.left,
            step,
        }
    }

    /// The taps that look at a time that exists from `t`, with that time.
    #[inline(always)]
    fn at(&self, t: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
        let (first, step) = (self.first, self.step);
        (0..self.weight.len()).filter_map(move |j| {
            let place = t as isize + first + step * j as isize;
            (0 <= place && place < length as isize).then_some((j, place as usize))
        })
    }

    /// The convolution's output at `t`, before the SiLU.
    #[inline(always)]
    fn sum<const FMA: bool>(&self, x: &Rows<'_, T>, batch: usize, t: usize, first: usize) -> Group<T> {
        let mut u = self.bias;
        for (j, place) in self.at(t, x.length()) {
            let x = x.load(batch, place, first);
            for k in 0..DEPTH {
                u[k] = self.weight[j][k].fma::<FMA>(x[k], u[k]);
            }
        }
        u
    }
}

struct Job<'a, T> {
    x: Rows<'a, T>,
    filters: Vec<Filter<'a, T>>,
    /// Outputs, or their gradients.
    y: Vec<Rows<'a, T>>,
}

#[inline(always)]
fn forward<T: Real, const FMA: bool>(job: &Job<'_, T>, batch: usize, first: usize) {
    for (filter, y) in job.filters.iter().zip(&job.y) {
        let taps = Taps::of(filter, first);
        for t in 0..job.x.length() {
            let mut u = taps.sum::<FMA>(&job.x, batch, t, first);
            for lanes in &mut u {
                *lanes = *lanes * lanes.sigmoid::<FMA>();
            }
            y.store(batch, t, first, &u);
        }
    }
}

struct Out<'a, T> {
    x: Rows<'a, T>,
    /// (batch, taps, channels) of each convolution.
    weight: Vec<Rows<'a, T>>,
    /// (batch, 1, channels).
    bias: Vec<Rows<'a, T>>,
}

#[inline(always)]
fn backward<T: Real, const FMA: bool>(
    dx: &mut Vec<Group<T>>,
    job: &Job<'_, T>,
    out: &Out<'_, T>,
    batch: usize,
    first: usize,
) {
    let length = job.x.length();
    let zero = [Lanes::ZERO; DEPTH];
    dx.clear();
    dx.resize(length, zero);
    for (number, (filter, dy)) in job.filters.iter().zip(&job.y).enumerate() {
        let taps = Taps::of(filter, first);
        let mut dweight = vec![zero; taps.weight.len()];
        let mut dbias = zero;
        for t in 0..length {
            let u = taps.sum::<FMA>(&job.x, batch, t, first);
            let mut du = dy.load(batch, t, first);
            for k in 0..DEPTH {
                let sigmoid = u[k].sigmoid::<FMA>();
                du[k] = du[k] * sigmoid * (Lanes::constant(1.0) + u[k] - u[k] * sigmoid);
                dbias[k] = dbias[k] + du[k];
            }
            for (j, place) in taps.at(t, length) {
                let x = job.x.load(batch, place, first);
                for k in 0..DEPTH {
                    dweight[j][k] = du[k].fma::<FMA>(x[k], dweight[j][k]);
                    dx[place][k] = du[k].fma::<FMA>(taps.weight[j][k], dx[place][k]);
                }
            }
        }
        for (j, group) in dweight.iter().enumerate() {
            out.weight[number].store(batch, j, first, group);
        }
        out.bias[number].store(batch, 0, first, &dbias);
    }
    for (t, group) in dx.iter().enumerate() {
        out.x.store(batch, t, first, group);
    }
}

for_each_isa!(forward_on = forward, (job: &Job<'_, T>, batch: usize, first: usize));
for_each_isa!(backward_on = backward, (dx: &mut Vec<Group<T>>, job: &Job<'_, T>, out: &Out<'_, T>, batch: usize, first: usize));

/// SiLU of each convolution of `x`.
pub(in crate::scan) fn conv_forward(x: &Tensor, convs: &[Conv<'_>]) -> Vec<Tensor> {
    match x.kind() {
        Kind::Double => forward_in::<f64>(x, convs),
        _ => forward_in::<f32>(x, convs),
    }
}

/// The gradients, given those of the outputs.
pub(in crate::scan) fn conv_backward(x: &Tensor, convs: &[Conv<'_>], dy: &[Tensor]) -> ConvGradients {
    match x.kind() {
        Kind::Double => backward_in::<f64>(x, convs, dy),
        _ => backward_in::<f32>(x, convs, dy),
    }
}

fn forward_in<T: Real>(x: &Tensor, convs: &[Conv<'_>]) -> Vec<Tensor> {
    let y: Vec<Tensor> = convs.iter().map(|_| Tensor::empty(x.size(), (x.kind(), Device::Cpu))).collect();
    let job = Job::<T> {
        x: Rows::new(x),
        filters: convs.iter().map(Filter::of).collect(),
        y: y.iter().map(Rows::new).collect(),
    };
    for_each_group(
        job.x.batch(),
        job.x.width(),
        || (),
        |(), batch, group| forward_on(Isa::best(), &job, batch, group * GROUP),
    );
    drop(job);
    y
}

fn backward_in<T: Real>(x: &Tensor, convs: &[Conv<'_>], dy: &[Tensor]) -> ConvGradients {
    let size = x.size();
    let (batch, channels) = (size[0], size[2]);
    let empty = |shape: &[i64]| Tensor::empty(shape, (x.kind(), Device::Cpu));
    let dx = empty(&size);
    // Sums over batch entries, one part of them per task.
    let weights: Vec<Tensor> = convs.iter().map(|c| empty(&[batch, c.weight.size()[2], channels])).collect();
    let biases: Vec<Tensor> = convs.iter().map(|_| empty(&[batch, 1, channels])).collect();
    let job = Job::<T> {
        x: Rows::new(x),
        filters: convs.iter().map(Filter::of).collect(),
        y: dy.iter().map(Rows::new).collect(),
    };
    let out = Out::<T> {
        x: Rows::new(&dx),
        weight: weights.iter().map(Rows::new).collect(),
        bias: biases.iter().map(Rows::new).collect(),
    };
    for_each_group(batch as usize, channels as usize, Vec::new, |dx, batch, group| {
        backward_on(Isa::best(), dx, &job, &out, batch, group * GROUP);
    });
    drop((job, out));
    let sum = |part: &Tensor, dims: &[i64]| part.sum_dim_intlist(dims, false, None::<Kind>);
    let convs = weights.iter().zip(&biases);
    ConvGradients {
        x: dx,
        convs: convs.map(|(w, b)| (sum(w, &[0]).transpose(0, 1).unsqueeze(1).contiguous(), sum(b, &[0, 1]))).collect(),
    }
}
