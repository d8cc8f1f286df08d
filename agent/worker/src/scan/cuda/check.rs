//! The kernels against the plain form, on a small case, before they are trusted with a trial.

use tch::{Device, Kind, Tensor};

use super::{Kernels, MARK};
use crate::scan::Pass;
use crate::torch::{GradMode, grad, guard};

/// The scan in tensor operations that libtorch differentiates: passes, gate and scale to the result.
pub type Plain = fn(&[Pass], Option<&Tensor>, f64) -> Tensor;

/// Differences allowed, of the largest value: both compute in f32, and a mistake is larger.
const TOLERANCE: f64 = 1e-4;
/// Odd enough for incomplete warps, blocks and segments.
const SHAPE: [i64; 3] = [2, 43, 40];

/// Compares results and gradients of two passes with a gate, in one chunk and in several.
///
/// # Errors
/// They differ, or something fails; in words.
pub fn check(kernels: &Kernels, device: Device, states: i64, plain: Plain) -> Result<(), String> {
    guard(|| compare(kernels, device, states, plain)).unwrap_or_else(|why| Err(why.to_string()))
}

fn compare(kernels: &Kernels, device: Device, states: i64, plain: Plain) -> Result<(), String> {
    let _recording = GradMode::on();
    let [batch, length, channels] = SHAPE;
    let mut seed = 0.0;
    // Not drawn: a trial's random numbers are its own.
    let mut values = |shape: &[i64], low: f64, high: f64| {
        seed += 1.0;
        let angles = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, device)) * (2.0 + seed / 7.0);
        let values = (angles.sin() + 1.0) * (0.5 * (high - low)) + low;
        values.view(shape).detach().set_requires_grad(true)
    };
    let gate = values(&SHAPE, -2.0, 2.0);
    let weights = values(&SHAPE, -1.0, 1.0).detach();
    let mut leaves = Vec::new();
    for _ in 0..2 {
        leaves.push([
            values(&SHAPE, -1.0, 1.0),
            values(&SHAPE, -3.0, 1.0),
            values(&[channels, states], -4.0, -0.1),
            values(&[batch, length, states], -1.0, 1.0),
            values(&[batch, length, states], -1.0, 1.0),
            values(&[channels], -1.0, 1.0),
            values(&[channels], -1.0, 1.0),
        ]);
    }
    let passes = [Pass::of(&leaves[0], false), Pass::of(&leaves[1], true)];

    let expected = plain(&passes, Some(&gate), 0.5);
    let inputs: Vec<_> = leaves.iter().flatten().chain([&gate]).collect();
    let expected_grads = grad(&[&expected], &[Some(&weights)], &inputs).map_err(|why| why.to_string())?;
    for chunk in [length, 2 * MARK] {
        let kernels = kernels.with_chunks_of(chunk);
        let y = kernels.forward(&passes, Some(&gate), 0.5).map_err(|why| format!("{why:#}"))?;
        same("result", &y, &expected)?;
        let found = kernels.backward(&passes, Some(&gate), 0.5, &weights).map_err(|why| format!("{why:#}"))?;
        let by_pass = found.passes.iter().flat_map(|p| [&p.x, &p.delta, &p.a, &p.b, &p.c, &p.d, &p.bias]);
        let names = ["x", "delta", "A", "B", "C", "D", "bias"].iter().cycle().take(7 * passes.len()).chain(&["gate"]);
        for ((name, found), expected) in names.zip(by_pass.chain(&found.gate)).zip(&expected_grads) {
            let expected = expected.as_ref().ok_or_else(|| format!("the plain form ignores {name}"))?;
            same(&format!("gradient by {name}"), found, expected)?;
        }
    }
    Ok(())
}

/// Whether two tensors are the same, as far as f32 allows.
fn same(what: &str, found: &Tensor, expected: &Tensor) -> Result<(), String> {
    let expected = expected.detach();
    let (off, largest) = ((found - &expected).abs().max().double_value(&[]), expected.abs().max().double_value(&[]));
    // Not `off > …`: a NaN is no match.
    if off <= TOLERANCE * largest {
        return Ok(());
    }
    Err(format!("the kernels' {what} is {off:.1e} away from the plain form's, whose largest value is {largest:.1e}"))
}
