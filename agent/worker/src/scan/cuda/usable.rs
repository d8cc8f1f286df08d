//! Whether the kernels may be used on a GPU: they are compiled for it, and compute on it what libtorch's operators compute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use tch::{Device, Kind, Tensor};

use super::nvrtc::Module;
use super::{Launch, backward, forward};
use crate::scan::{Pass, plain};
use crate::torch::{GradMode, grad, guard};

/// The kernels for `states` states on the `ordinal`th visible GPU, or `None` where they cannot be used there; why is logged, once.
pub(in crate::scan) fn module(ordinal: usize, states: i64) -> Option<Arc<Module>> {
    type Found = HashMap<(usize, i64), Option<Arc<Module>>>;
    static FOUND: Mutex<Option<Found>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let known = found.get_or_insert_with(HashMap::new).entry((ordinal, states));
    let module = known.or_insert_with(|| {
        let loaded = Module::load(ordinal, states).and_then(|module| {
            guard(|| agrees(&module, Device::Cuda(ordinal), states))??;
            Ok(module)
        });
        match loaded {
            Ok(module) => Some(Arc::new(module)),
            Err(error) => {
                tracing::warn!("scans on GPU {ordinal} use libtorch's own operators, which are much slower: {error:#}");
                None
            }
        }
    });
    module.clone()
}

/// Compares y and all gradients of a small scan in both directions with libtorch's operators.
///
/// # Errors
/// A kernel could not be started, or a result is off by more than a ten-thousandth of the largest value.
pub fn agrees(gpu: &dyn Launch, device: Device, states: i64) -> anyhow::Result<()> {
    // Not drawn from libtorch's generator: the trial's next dropout must not depend on this.
    let mut phase = 0.0;
    let mut wave = |shape: &[i64]| {
        phase += 1.0;
        let n = shape.iter().product::<i64>();
        let angles = Tensor::arange(n, (Kind::Float, device)) * 0.7371 + phase;
        angles.sin().view(shape)
    };
    let (batch, length, channels) = (2, 37, 40);
    let mut leaves = Vec::new();
    for _ in 0..2 {
        leaves.push(wave(&[batch, length, channels]));
        leaves.push(wave(&[batch, length, channels]) - 1.0);
        leaves.push(-wave(&[channels, states]).exp());
        leaves.push(wave(&[batch, length, states]));
        leaves.push(wave(&[batch, length, states]));
        leaves.push(wave(&[channels]));
        leaves.push(wave(&[channels]));
    }
    leaves.push(wave(&[batch, length, channels]));
    let dy = wave(&[batch, length, channels]);
    let leaves: Vec<Tensor> = leaves.into_iter().map(|t| t.detach().set_requires_grad(true)).collect();
    let (of_passes, gate) = leaves.split_at(leaves.len() - 1);
    let passes: Vec<Pass<'_>> =
        of_passes.chunks_exact(Pass::TENSORS).zip([false, true]).map(|(t, reverse)| Pass::of(t, reverse)).collect();

    let (y, found) = {
        let _off = GradMode::off();
        (forward(gpu, &passes, Some(&gate[0]), 0.5)?, backward(gpu, &passes, Some(&gate[0]), 0.5, &dy)?)
    };
    let _on = GradMode::on();
    let reference = plain::selective_scan(&passes, Some(&gate[0]), 0.5);
    let expected = grad(&[&reference], &[Some(&dy)], &leaves.iter().collect::<Vec<_>>())?;
    let ours = found.passes.into_iter().flat_map(|g| [g.x, g.delta, g.a, g.b, g.c, g.d, g.bias]).chain(found.gate);
    let pairs = std::iter::once((y, Some(reference))).chain(ours.zip(expected));
    for (which, (ours, expected)) in pairs.enumerate() {
        let expected = expected.unwrap_or_else(|| ours.zeros_like());
        let largest = |t: Tensor| t.abs().max().double_value(&[]);
        let off = largest(&ours - &expected) / largest(expected).max(1e-6);
        ensure!(off <= 1e-4, "result {which} of a scan of {states} states is off by {off:.1e} of its largest value");
    }
    Ok(())
}
