//! The scan and its convolution on the CPU: sixteen channels side by side, threads over batch entries and groups of
//! channels.
//!
//! The design note says "vectorised over the state". Here lanes are channels: any number of states fills the registers,
//! the layout that linear layers give is read as it is, and only the sums over channels (gradients of b and c) cross
//! lanes.

mod conv;
mod isa;
mod kernel;
mod lanes;
mod rows;

use tch::{Kind, Tensor};

use super::{Gradients, Pass, PassGradients};
use crate::torch::parallel;
use isa::{Isa, for_each_isa};
use kernel::{Inputs, PassInputs, Segment};
use lanes::Real;
use rows::{GROUP, Rows};

pub(super) use conv::{conv_backward, conv_forward};

for_each_isa!(forward_on = kernel::forward, (inputs: &Inputs<'_, T>, y: &Rows<'_, T>, batch: usize, first: usize));
for_each_isa!(backward_on = kernel::backward, (
    segment: &mut Segment<T>,
    inputs: &Inputs<'_, T>,
    dy: &Rows<'_, T>,
    gradients: &kernel::Gradients<'_, T>,
    batch: usize,
    first: usize
));

/// y, for f32 or f64 tensors on the CPU.
pub(super) fn forward(passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64) -> Tensor {
    match passes[0].x.kind() {
        Kind::Double => forward_in::<f64>(passes, gate, scale, Isa::best()),
        _ => forward_in::<f32>(passes, gate, scale, Isa::best()),
    }
}

/// The gradients, given those of y.
pub(super) fn backward(passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64, dy: &Tensor) -> Gradients {
    match passes[0].x.kind() {
        Kind::Double => backward_in::<f64>(passes, gate, scale, dy, Isa::best()),
        _ => backward_in::<f32>(passes, gate, scale, dy, Isa::best()),
    }
}

fn inputs<'a, T: Real>(passes: &'a [Pass<'_>], gate: Option<&'a Tensor>, scale: f64) -> Inputs<'a, T> {
    let passes = passes.iter().map(|pass| PassInputs {
        x: Rows::new(pass.x),
        delta: Rows::new(pass.delta),
        b: Rows::new(pass.b),
        c: Rows::new(pass.c),
        a: rows::slice(pass.a),
        d: rows::slice(pass.d),
        bias: rows::slice(pass.bias),
        reverse: pass.reverse,
    });
    Inputs { passes: passes.collect(), gate: gate.map(Rows::new), scale: T::of(scale) }
}

fn forward_in<T: Real>(passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64, isa: Isa) -> Tensor {
    let y = Tensor::empty(passes[0].x.size(), (passes[0].x.kind(), tch::Device::Cpu));
    let (inputs, out) = (inputs::<T>(passes, gate, scale), Rows::new(&y));
    for_each_group(
        out.batch(),
        out.width(),
        || (),
        |(), batch, group| forward_on(isa, &inputs, &out, batch, group * GROUP),
    );
    y
}

fn backward_in<T: Real>(passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64, dy: &Tensor, isa: Isa) -> Gradients {
    let size = passes[0].x.size();
    let (batch, length, channels) = (size[0], size[1], size[2]);
    let groups = (channels as usize).div_ceil(GROUP) as i64;
    let empty = |shape: &[i64]| Tensor::empty(shape, (dy.kind(), tch::Device::Cpu));
    // Sums over batch entries or channels, one part of them per task.
    let parts: Vec<PassGradients> = passes
        .iter()
        .map(|pass| {
            let states = pass.b.size()[2];
            PassGradients {
                x: empty(&size),
                delta: empty(&size),
                a: empty(&[batch, channels, states]),
                b: empty(&[groups * batch, length, states]),
                c: empty(&[groups * batch, length, states]),
                d: empty(&[batch, 1, channels]),
                bias: empty(&[batch, 1, channels]),
            }
        })
        .collect();
    let dgate = gate.map(|_| empty(&size));
    let out = kernel::Gradients {
        passes: parts.iter().map(kernel::PassGradients::of).collect(),
        gate: dgate.as_ref().map(Rows::new),
    };
    let (inputs, dy) = (inputs::<T>(passes, gate, scale), Rows::new(dy));
    let states = passes.iter().map(|pass| pass.b.size()[2] as usize).max().unwrap_or(0);
    let segment = || Segment::new(states, length as usize);
    for_each_group(batch as usize, channels as usize, segment, |segment, batch, group| {
        backward_on(isa, segment, &inputs, &dy, &out, batch, group * GROUP);
    });
    drop(out);
    let sum = |part: Tensor, dims: &[i64]| part.sum_dim_intlist(dims, false, None::<Kind>);
    let by_group = |part: Tensor| sum(part.view([groups, batch, length, -1]), &[0]);
    let passes = parts.into_iter().map(|part| PassGradients {
        x: part.x,
        delta: part.delta,
        a: sum(part.a, &[0]),
        b: by_group(part.b),
        c: by_group(part.c),
        d: sum(part.d, &[0, 1]),
        bias: sum(part.bias, &[0, 1]),
    });
    Gradients { passes: passes.collect(), gate: dgate }
}

impl<'a, T: Real> kernel::PassGradients<'a, T> {
    fn of(parts: &'a PassGradients) -> Self {
        Self {
            x: Rows::new(&parts.x),
            delta: Rows::new(&parts.delta),
            a: Rows::new(&parts.a),
            b: Rows::new(&parts.b),
            c: Rows::new(&parts.c),
            d: Rows::new(&parts.d),
            bias: Rows::new(&parts.bias),
        }
    }
}

/// Calls `task` with every batch entry and group of channels, on libtorch's threads, each with a place to work in.
fn for_each_group<S>(
    batch: usize,
    channels: usize,
    scratch: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize, usize) + Sync,
) {
    let groups = channels.div_ceil(GROUP);
    parallel::for_each(batch * groups, scratch, |place, i| task(place, i / groups, i % groups));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of instructions that the processor has gives the same, but for roundings.
    #[test]
    fn instructions_do_not_matter() {
        let (batch, length, channels, states) = (2, 40, 70, 5);
        // A wave instead of libtorch's generator, which other tests share.
        let wave = |shape: &[i64], phase: f64| {
            let n = shape.iter().product::<i64>();
            (Tensor::arange(n, (Kind::Float, tch::Device::Cpu)) * 0.7371 + phase).sin().view(shape)
        };
        let (x, delta) = (wave(&[batch, length, channels], 0.0), wave(&[batch, length, channels], 1.0));
        let (b, c) = (wave(&[batch, length, states], 2.0), wave(&[batch, length, states], 3.0));
        let a = -wave(&[channels, states], 4.0).exp();
        let (d, bias) = (wave(&[channels], 5.0), wave(&[channels], 6.0));
        let (gate, dy) = (wave(&[batch, length, channels], 7.0), wave(&[batch, length, channels], 8.0));
        let pass = Pass { x: &x, delta: &delta, a: &a, b: &b, c: &c, d: &d, bias: &bias, reverse: true };
        let run = |isa| {
            let y = forward_in::<f32>(&[pass], Some(&gate), 0.5, isa);
            let found = backward_in::<f32>(&[pass], Some(&gate), 0.5, &dy, isa);
            let of_pass = found.passes.into_iter().flat_map(|g| [g.x, g.delta, g.a, g.b, g.c, g.d, g.bias]);
            std::iter::once(y).chain(of_pass).chain(found.gate).collect::<Vec<_>>()
        };
        let plain = run(Isa::Baseline);
        let there =
            [(Isa::Avx512, is_x86_feature_detected!("avx512dq")), (Isa::Avx2, is_x86_feature_detected!("avx2"))];
        for (isa, _) in there.into_iter().filter(|(_, there)| *there) {
            for (which, (ours, plain)) in run(isa).iter().zip(&plain).enumerate() {
                let largest = |t: Tensor| t.abs().max().double_value(&[]);
                let off = largest(ours - plain) / largest(plain.shallow_clone());
                assert!(off < 5e-6, "{isa:?}, result {which}: {off:e}");
            }
        }
    }
}
