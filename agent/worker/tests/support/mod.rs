//! Helpers of the integration tests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

pub mod trials;

use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_common::plan::MethodSettings;
use fleet_worker::torch::grad;
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// Keeps the tests of one binary apart where they use what a process has once: the allocator's counters, libtorch's
/// random generator. A trial has a process of its own.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Uniform values in [-1, 1), in f64 so that finite differences mean something.
pub fn uniform(seed: i64, shape: &[i64]) -> Tensor {
    tch::manual_seed(seed);
    Tensor::rand(shape, (Kind::Double, Device::Cpu)) * 2.0 - 1.0
}

/// The largest absolute difference of two tensors.
pub fn max_diff(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size(), "shapes differ");
    if a.numel() == 0 { 0.0 } else { (a - b).abs().max().double_value(&[]) }
}

/// Whether two tensors have the same bits.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.size() == b.size() && a.kind() == b.kind() && a.equal(b)
}

/// Checks the gradients of a scalar function against central differences, element by element. All in f64; the bound is
/// what central differences with step 1e-6 can resolve on values of order one.
pub fn gradcheck(f: impl Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]) {
    let leaves: Vec<Tensor> = inputs.iter().map(|x| x.detach().copy().set_requires_grad(true)).collect();
    let y = f(&leaves);
    let analytic = grad(&[&y], &[None], &leaves.iter().collect::<Vec<_>>()).expect("a gradient");
    const H: f64 = 1e-6;
    for (which, input) in inputs.iter().enumerate() {
        let analytic = match &analytic[which] {
            Some(g) => g.flatten(0, -1),
            None => input.zeros_like().flatten(0, -1),
        };
        for i in 0..input.numel() as i64 {
            let at = |delta: f64| {
                let moved: Vec<Tensor> = inputs
                    .iter()
                    .enumerate()
                    .map(|(k, x)| {
                        let x = x.detach().copy();
                        if k == which {
                            let mut element = x.view([-1]).narrow(0, i, 1);
                            let _ = element.g_add_scalar_(delta);
                        }
                        x
                    })
                    .collect();
                f(&moved).double_value(&[])
            };
            let numeric = (at(H) - at(-H)) / (2.0 * H);
            let analytic = analytic.double_value(&[i]);
            assert!(
                (numeric - analytic).abs() <= 1e-7 * (1.0 + numeric.abs()),
                "input {which}, element {i}: finite differences give {numeric}, backward gives {analytic}"
            );
        }
    }
}

/// All five, with dropout, so that the random numbers of a block are part of what has to be the same.
pub fn methods(targets: &[&str]) -> Vec<MethodSettings> {
    [
        json!({ "name": "full" }),
        json!({ "name": "bitfit" }),
        json!({ "name": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.3, "targets": targets }),
        json!({ "name": "qlora", "rank": 4, "alpha": 8.0, "dropout": 0.3, "targets": targets, "block": 64,
                "double_quantization": true }),
        json!({ "name": "adalora", "init_rank": 4, "target_rank": 2, "alpha": 8.0, "dropout": 0.3, "targets": targets,
                "tinit": 1, "tfinal": 1, "delta_t": 1, "beta1": 0.85, "beta2": 0.85, "orthogonal_weight": 0.5 }),
    ]
    .map(|settings| serde_json::from_value(settings).expect("settings"))
    .into()
}
