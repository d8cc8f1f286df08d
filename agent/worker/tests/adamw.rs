//! The optimiser against the formulas of the paper, written out in f64.

mod support;

use fleet_worker::torch::adamw::{AdamW, AdamWConfig};
use support::{max_diff, same_bits, uniform};

#[test]
fn steps_follow_the_published_formulas() {
    let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
    let param = uniform(1, &[5, 3]);
    let mut expected = param.copy();
    let (mut m, mut v) = (param.zeros_like(), param.zeros_like());
    let mut optimizer = AdamW::new(vec![param.shallow_clone()], config);
    for t in 1..=6 {
        let g = uniform(10 + i64::from(t), &[5, 3]);
        let lr = 0.01 / f64::from(t);
        optimizer.step(&[Some(g.copy())], lr).expect("a step");
        // Loshchilov and Hutter, algorithm 2, as PyTorch words it: decay first, then the bias-corrected step.
        expected = &expected * (1.0 - lr * config.weight_decay);
        m = &m * config.beta1 + &g * (1.0 - config.beta1);
        v = &v * config.beta2 + &g * &g * (1.0 - config.beta2);
        let m_hat = &m / (1.0 - config.beta1.powi(t));
        let v_hat = &v / (1.0 - config.beta2.powi(t));
        expected = &expected - lr * m_hat / (v_hat.sqrt() + config.eps);
        assert!(max_diff(&param, &expected) < 1e-12, "step {t}: {}", max_diff(&param, &expected));
    }
}

#[test]
fn a_parameter_without_a_gradient_is_left_alone() {
    let (used, unused) = (uniform(1, &[4]), uniform(2, &[4]));
    let before = unused.copy();
    let mut optimizer = AdamW::new(vec![used.shallow_clone(), unused.shallow_clone()], AdamWConfig::default());
    optimizer.step(&[Some(uniform(3, &[4])), None], 0.1).expect("a step");
    assert!(same_bits(&unused, &before), "not even weight decay touches it");
    assert!(!same_bits(&used, &uniform(1, &[4])));
    optimizer.step(&[None, None], 0.1).expect("nothing to do is fine");
}
