//! The custom autograd function and the gradient call: right answers, right errors, no leaks.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fleet_worker::torch::{Function, GradMode, attach, grad, guard};
use support::{gradcheck, max_diff, uniform};
use tch::{Kind, Tensor};

/// y = x·w + sin(x), z = sum(w)·x, differentiated by hand: two outputs, two inputs, one of them used twice.
struct Hand {
    x: Tensor,
    w: Tensor,
}

impl Function for Hand {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let (x, w) = (&self.x, &self.w);
        let mut gx = x.zeros_like();
        let mut gw = w.zeros_like();
        if let Some(gy) = &grads[0] {
            gx = gx + gy * w + gy * x.cos();
            gw += gy * x;
        }
        if let Some(gz) = &grads[1] {
            gx += gz * w.sum(Kind::Double);
            gw += (gz * x).sum(Kind::Double);
        }
        Ok(vec![needed[0].then_some(gx), needed[1].then_some(gw)])
    }
}

fn hand(x: &Tensor, w: &Tensor) -> Vec<Tensor> {
    let outputs = {
        let _off = GradMode::off();
        vec![x * w + x.sin(), w.sum(Kind::Double) * x]
    };
    attach(outputs, &[x, w], Hand { x: x.detach(), w: w.detach() }).expect("attached")
}

#[test]
fn a_function_with_two_outputs_matches_finite_differences() {
    let inputs = [uniform(1, &[3, 2]), uniform(2, &[3, 2])];
    let weights = [uniform(3, &[3, 2]), uniform(4, &[3, 2])];
    gradcheck(
        |xs| {
            let ys = hand(&xs[0], &xs[1]);
            (&ys[0] * &weights[0]).sum(Kind::Double) + (&ys[1] * &weights[1]).sum(Kind::Double)
        },
        &inputs,
    );
    // Only one output in use: the other's gradient is absent, not garbage.
    gradcheck(|xs| (&hand(&xs[0], &xs[1])[1] * &weights[0]).sum(Kind::Double), &inputs);
    // In a longer graph, with an input that another path uses too.
    gradcheck(
        |xs| {
            let inner = xs[0].tanh();
            let ys = hand(&inner, &xs[1]);
            ((&ys[0] + &ys[1]).exp() * &inner).sum(Kind::Double)
        },
        &inputs,
    );
}

#[test]
fn weighted_gradients_of_chosen_outputs() {
    let x = uniform(5, &[4]).set_requires_grad(true);
    let unused = uniform(6, &[4]).set_requires_grad(true);
    let (a, b) = (&x * &x, x.exp());
    let (wa, wb) = (uniform(7, &[4]), uniform(8, &[4]));
    let got = grad(&[&a, &b], &[Some(&wa), Some(&wb)], &[&x, &unused]).expect("gradients");
    let expected = &wa * &x * 2.0 + &wb * x.exp();
    assert!(max_diff(got[0].as_ref().expect("x is used"), &expected) < 1e-12);
    assert!(got[1].is_none(), "an input that nothing depends on has no gradient");
    assert!(!x.grad().defined(), "parameters' own gradients stay untouched");
}

#[test]
fn nothing_is_recorded_where_no_input_needs_a_gradient() {
    let x = uniform(1, &[2]);
    let ys = hand(&x, &x);
    assert!(!ys[0].requires_grad());
    let trainable = uniform(1, &[2]).set_requires_grad(true);
    let _off = GradMode::off();
    assert!(!hand(&trainable, &x)[0].requires_grad());
}

/// Counts how many of it are alive, and fails in the way it is told to.
struct Failing {
    alive: Arc<AtomicUsize>,
    how: &'static str,
}

impl Failing {
    fn new(alive: &Arc<AtomicUsize>, how: &'static str) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self { alive: alive.clone(), how }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Function for Failing {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, _: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        match self.how {
            "error" => anyhow::bail!("the block said no"),
            "panic" => panic!("the block fell over"),
            "libtorch" => {
                Ok(vec![Some(&Tensor::ones([2], tch::kind::DOUBLE_CPU) + &Tensor::ones([3], tch::kind::DOUBLE_CPU))])
            }
            "shape" => Ok(vec![Some(Tensor::ones([7], tch::kind::DOUBLE_CPU))]),
            "count" => Ok(vec![]),
            _ => Ok(grads),
        }
    }
}

#[test]
fn every_kind_of_failure_in_backward_is_an_error_and_frees_its_state() {
    let alive = Arc::new(AtomicUsize::new(0));
    for (how, expected) in [
        ("error", "the block said no"),
        ("panic", "the block fell over"),
        ("libtorch", "must match the size"),
        ("shape", "invalid gradient"),
        ("count", "returned 0 gradients for 1 inputs"),
    ] {
        let x = uniform(1, &[2]).set_requires_grad(true);
        let y = attach(vec![x.detach() * 2.0], &[&x], Failing::new(&alive, how)).expect("attached").remove(0);
        let error = grad(&[&y.sum(Kind::Double)], &[None], &[&x]).expect_err(how);
        assert!(error.to_string().contains(expected), "{how}: {error}");
        drop(y);
        assert_eq!(alive.load(Ordering::SeqCst), 0, "{how} leaked its state");
    }
    // And after all that, things still work.
    let x = uniform(1, &[2]).set_requires_grad(true);
    let y = attach(vec![x.detach().copy()], &[&x], Failing::new(&alive, "")).expect("attached").remove(0);
    assert!(grad(&[&y.sum(Kind::Double)], &[None], &[&x]).expect("works")[0].is_some());
    assert_eq!(alive.load(Ordering::SeqCst), 0, "the state goes with its part of backward, before the tensor does");
    // A second pass through a freed graph is an error, not a crash.
    let error = grad(&[&y.sum(Kind::Double)], &[None], &[&x]).expect_err("freed");
    assert!(error.to_string().contains("earlier backward"), "{error}");
}

#[test]
fn states_of_graphs_that_never_run_backward_are_freed() {
    let alive = Arc::new(AtomicUsize::new(0));
    let x = uniform(1, &[2]).set_requires_grad(true);
    let y = attach(vec![x.detach() * 2.0], &[&x], Failing::new(&alive, "")).expect("attached");
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(y);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    // Not differentiable: dropped at once.
    let plain =
        attach(vec![Tensor::ones([1], tch::kind::DOUBLE_CPU)], &[], Failing::new(&alive, "")).expect("attached");
    assert!(!plain[0].requires_grad());
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_guarded_panic_is_an_error_and_restores_the_gradient_mode() {
    let error = guard(|| {
        let _off = GradMode::off();
        Tensor::ones([2], tch::kind::FLOAT_CPU).matmul(&Tensor::ones([3], tch::kind::FLOAT_CPU))
    })
    .expect_err("shapes do not fit");
    assert!(error.to_string().contains("inconsistent tensor size"), "{error}");
    assert!(!error.to_string().contains("frame #"), "no C++ back-trace: {error}");
    let x = Tensor::ones([1], tch::kind::FLOAT_CPU).set_requires_grad(true);
    assert!((&x * 2.0).requires_grad(), "recording is on again");
}

#[test]
fn backward_runs_from_another_thread() {
    // CUDA graphs call back on the engine's own thread; on the CPU the same holds for whoever calls backward.
    let x = uniform(1, &[3]).set_requires_grad(true);
    let y = hand(&x, &x).remove(0).sum(Kind::Double);
    let x = std::thread::spawn(move || {
        let g = grad(&[&y], &[None], &[&x]).expect("gradients").remove(0).expect("used");
        assert!(max_diff(&g, &(&x * 2.0 + x.cos())) < 1e-12);
        x
    })
    .join()
    .expect("no panic");
    drop(x);
}
