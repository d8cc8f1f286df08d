//! The selective scan and its convolution against the same in libtorch's operators, against finite differences, and in
//! bytes.

mod support;

use fleet_worker::scan::{Conv, Pass, conv_silu, plain, selective_scan};
use fleet_worker::torch::memory::Memory;
use fleet_worker::torch::{GradMode, grad};
use support::{gradcheck, one_at_a_time};
use tch::{Device, Kind, Tensor};

/// Sizes of a case.
#[derive(Debug, Clone, Copy)]
struct Case {
    batch: i64,
    length: i64,
    channels: i64,
    states: i64,
    /// Whether each pass runs backwards.
    passes: &'static [bool],
    gate: bool,
    /// Inputs are parts of wider tensors, as a model's are; else they are whole, and transposed in memory.
    strided: bool,
}

const CASES: [Case; 9] = [
    Case { batch: 2, length: 17, channels: 64, states: 16, passes: &[false, true], gate: true, strided: true },
    Case { batch: 1, length: 1, channels: 1, states: 1, passes: &[false], gate: false, strided: true },
    Case { batch: 3, length: 33, channels: 70, states: 8, passes: &[false], gate: false, strided: false },
    Case { batch: 1, length: 65, channels: 16, states: 64, passes: &[true], gate: true, strided: true },
    Case { batch: 2, length: 31, channels: 130, states: 3, passes: &[true, false], gate: true, strided: false },
    Case { batch: 1, length: 197, channels: 48, states: 16, passes: &[false, true], gate: true, strided: true },
    Case { batch: 2, length: 96, channels: 20, states: 5, passes: &[false, false, true], gate: true, strided: true },
    Case { batch: 4, length: 49, channels: 160, states: 8, passes: &[false], gate: false, strided: true },
    Case { batch: 1, length: 64, channels: 63, states: 33, passes: &[true], gate: false, strided: true },
];

/// Leaves of a case: for each pass x, delta, a, b, c, d and bias; then the gate.
fn leaves(case: &Case, kind: Kind, seed: i64) -> Vec<Tensor> {
    tch::manual_seed(seed);
    let random = |shape: &[i64]| Tensor::randn(shape, (kind, Device::Cpu));
    // A part of something wider, or a transposed whole: both have rows that do not follow each other.
    let rows = |width: i64| {
        if case.strided {
            random(&[case.batch, case.length, width + 5]).narrow(2, 3, width)
        } else {
            random(&[case.batch, width, case.length]).transpose(1, 2)
        }
    };
    let mut leaves = Vec::new();
    for _ in case.passes {
        leaves.extend([rows(case.channels), rows(case.channels) * 2 - 1]);
        leaves.push(-random(&[case.channels, case.states]).exp());
        leaves.extend([rows(case.states), rows(case.states)]);
        leaves.extend([random(&[case.channels]), random(&[case.channels]) - 1]);
    }
    leaves.extend(case.gate.then(|| rows(case.channels)));
    leaves.into_iter().map(|t| t.detach().set_requires_grad(true)).collect()
}

fn passes<'a>(case: &Case, leaves: &'a [Tensor]) -> Vec<Pass<'a>> {
    leaves.chunks_exact(Pass::TENSORS).zip(case.passes).map(|(t, reverse)| Pass::of(t, *reverse)).collect()
}

type Scan = fn(&[Pass], Option<&Tensor>, f64) -> Tensor;

/// y, and the gradients of Σ y·weight.
fn run(case: &Case, scan: Scan, leaves: &[Tensor], weight: &Tensor) -> (Tensor, Vec<Tensor>) {
    let gate = case.gate.then(|| &leaves[7 * case.passes.len()]);
    let y = scan(&passes(case, leaves), gate, 0.5);
    let targets: Vec<&Tensor> = leaves.iter().collect();
    let grads = grad(&[&y], &[Some(weight)], &targets).expect("differentiates");
    // With a single time, decays do not matter.
    let grads = leaves.iter().zip(grads).map(|(leaf, g)| g.unwrap_or_else(|| leaf.zeros_like()));
    (y.detach(), grads.collect())
}

/// The largest difference, of the reference's largest value.
fn off(got: &Tensor, reference: &Tensor) -> f64 {
    assert_eq!(got.size(), reference.size());
    let largest = |t: Tensor| t.abs().max().double_value(&[]);
    let double = |t: &Tensor| t.to_kind(Kind::Double);
    largest(double(got) - double(reference)) / largest(double(reference)).max(f64::MIN_POSITIVE)
}

#[test]
fn kernels_compute_what_the_operators_compute_in_f64() {
    let _alone = one_at_a_time();
    for (i, case) in CASES.iter().enumerate() {
        let leaves = leaves(case, Kind::Double, i as i64);
        let weight = Tensor::randn([case.batch, case.length, case.channels], (Kind::Double, Device::Cpu));
        let (y, grads) = run(case, selective_scan, &leaves, &weight);
        let (y2, grads2) = run(case, plain::selective_scan, &leaves, &weight);
        assert!(off(&y, &y2) < 1e-13, "{case:?}: y {:e}", off(&y, &y2));
        for (n, (g, g2)) in grads.iter().zip(&grads2).enumerate() {
            assert!(off(g, g2) < 1e-12, "{case:?}: gradient {n} {:e}", off(g, g2));
        }
    }
}

#[test]
fn kernels_in_f32_are_as_near_to_f64_as_f32_is() {
    let _alone = one_at_a_time();
    for (i, case) in CASES.iter().enumerate() {
        let exact = leaves(case, Kind::Double, 100 + i as i64);
        let single: Vec<Tensor> =
            exact.iter().map(|t| t.to_kind(Kind::Float).detach().set_requires_grad(true)).collect();
        let exact: Vec<Tensor> =
            single.iter().map(|t| t.to_kind(Kind::Double).detach().set_requires_grad(true)).collect();
        let weight = Tensor::randn([case.batch, case.length, case.channels], (Kind::Double, Device::Cpu));
        let (y, grads) = run(case, selective_scan, &single, &weight.to_kind(Kind::Float));
        let (y2, grads2) = run(case, plain::selective_scan, &exact, &weight.to_kind(Kind::Float).to_kind(Kind::Double));
        assert!(off(&y, &y2) < 2e-6, "{case:?}: y {:e}", off(&y, &y2));
        for (n, (g, g2)) in grads.iter().zip(&grads2).enumerate() {
            assert!(off(g, g2) < 1e-5, "{case:?}: gradient {n} {:e}", off(g, g2));
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    let _alone = one_at_a_time();
    let case = Case { batch: 2, length: 5, channels: 3, states: 2, passes: &[false, true], gate: true, strided: true };
    let leaves = leaves(&case, Kind::Double, 7);
    let weight = Tensor::randn([case.batch, case.length, case.channels], (Kind::Double, Device::Cpu));
    let loss =
        |leaves: &[Tensor]| (selective_scan(&passes(&case, leaves), leaves.last(), 0.5) * &weight).sum(Kind::Double);
    gradcheck(loss, &leaves);
}

#[test]
fn a_scan_is_the_same_to_the_last_bit_on_any_number_of_threads() {
    let _alone = one_at_a_time();
    let case = &CASES[5];
    let leaves = leaves(case, Kind::Float, 3);
    let weight = Tensor::randn([case.batch, case.length, case.channels], (Kind::Float, Device::Cpu));
    let threads = tch::get_num_threads();
    let runs: Vec<(Tensor, Vec<Tensor>)> = [1, 2, 3]
        .map(|n| {
            tch::set_num_threads(n);
            run(case, selective_scan, &leaves, &weight)
        })
        .into();
    tch::set_num_threads(threads);
    for (y, grads) in &runs[1..] {
        assert!(y.equal(&runs[0].0));
        assert!(grads.iter().zip(&runs[0].1).all(|(a, b)| a.equal(b)));
    }
}

/// Between forward and backward live: the inputs, which are there anyway, and the output. No states.
#[test]
fn what_a_scan_keeps_is_its_inputs() {
    let _alone = one_at_a_time();
    let memory = Memory::of(Device::Cpu);
    let case =
        Case { batch: 2, length: 128, channels: 256, states: 16, passes: &[false, true], gate: true, strided: false };
    let contiguous: Vec<Tensor> =
        leaves(&case, Kind::Float, 1).iter().map(|t| t.detach().contiguous().set_requires_grad(true)).collect();
    let live = || memory.stats().expect("counted").live as i64;
    let before = live();
    let y = selective_scan(&passes(&case, &contiguous), contiguous.last(), 0.5);
    let kept = live() - before;
    let output = 4 * case.batch * case.length * case.channels;
    assert!((output..output + 4096).contains(&kept), "{kept} bytes are kept, {output} of them the output");
    let states = output * case.states;
    memory.reset_peak().expect("counted");
    let weight = Tensor::ones_like(&y);
    let targets: Vec<&Tensor> = contiguous.iter().collect();
    let _grads = grad(&[&y], &[Some(&weight)], &targets).expect("differentiates");
    let most = memory.stats().expect("counted").peak as i64 - before - kept;
    assert!(most < states, "backward takes {most} bytes for a moment, all states would be {states} per pass");
}

/// (channels, taps, zeros on the left, reverse, bias).
const CONVS: [(i64, i64, i64, bool, bool); 6] = [
    (64, 4, 3, false, true),
    (64, 4, 3, true, true),
    (70, 3, 1, false, false),
    (5, 1, 0, false, true),
    (160, 4, 1, true, false),
    (16, 7, 3, false, true),
];

#[test]
fn convolutions_are_libtorchs() {
    let _alone = one_at_a_time();
    for (i, (channels, taps, left, reverse, bias)) in CONVS.into_iter().enumerate() {
        for length in [1, 2, 29] {
            tch::manual_seed(i as i64);
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu)).set_requires_grad(true);
            let wide = random(&[2, length, 2 * channels]);
            let x = wide.narrow(2, channels, channels);
            let weights = [random(&[channels, 1, taps]), random(&[channels, 1, taps])];
            let biases = [random(&[channels]), random(&[channels])];
            let convs: Vec<Conv> = (0..2)
                .map(|n| Conv {
                    weight: &weights[n],
                    bias: bias.then_some(&biases[n]),
                    left,
                    reverse: reverse ^ (n == 1),
                })
                .collect();
            let mut targets = vec![&wide, &weights[0], &weights[1]];
            targets.extend(biases.iter().filter(|_| bias));
            let weight = [Tensor::randn_like(&x), Tensor::randn_like(&x)];
            let run = |conv: fn(&Tensor, &[Conv]) -> Vec<Tensor>| {
                let y = conv(&x, &convs);
                let grads =
                    grad(&[&y[0], &y[1]], &[Some(&weight[0]), Some(&weight[1])], &targets).expect("differentiates");
                let all = y.iter().map(Tensor::detach).chain(grads.into_iter().map(|g| g.expect("matters")));
                all.collect::<Vec<_>>()
            };
            for (n, (ours, theirs)) in run(conv_silu).iter().zip(run(plain::conv_silu)).enumerate() {
                assert!(off(ours, &theirs) < 1e-13, "case {i}, length {length}, tensor {n}: {:e}", off(ours, &theirs));
            }
        }
    }
}

/// Adds to a tensor in place, as an optimiser's step would.
fn write(tensor: &Tensor) {
    let _off = GradMode::off();
    let _ = tensor.shallow_clone().g_add_scalar_(1.0);
}

#[test]
fn what_a_scan_has_kept_may_not_change_before_backward() {
    let _alone = one_at_a_time();
    let case = CASES[0];
    let names = ["x", "delta", "a", "b", "c", "d", "bias"].iter().cycle().take(7 * case.passes.len()).chain(&["gate"]);
    for (i, name) in names.enumerate() {
        let leaves = leaves(&case, Kind::Float, 3);
        let gate = case.gate.then(|| &leaves[7 * case.passes.len()]);
        let y = selective_scan(&passes(&case, &leaves), gate, 0.5).sum(Kind::Float);
        write(&leaves[i]);
        let error = grad(&[&y], &[None], &[&leaves[1]]).expect_err(name).to_string();
        assert!(error.contains(&format!("a scan's {name} [")) && error.contains("changed in place"), "{name}: {error}");
    }
}

#[test]
fn what_a_convolution_has_kept_may_not_change_before_backward() {
    let _alone = one_at_a_time();
    for (i, what) in ["input", "weight", "bias"].iter().enumerate() {
        let sizes: [&[i64]; 3] = [&[2, 9, 4], &[4, 1, 3], &[4]];
        let leaves = sizes.map(|size| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true));
        let conv = Conv { weight: &leaves[1], bias: Some(&leaves[2]), left: 2, reverse: false };
        let y = conv_silu(&leaves[0], &[conv]).remove(0).sum(Kind::Float);
        write(&leaves[i]);
        let error = grad(&[&y], &[None], &[&leaves[0]]).expect_err(what).to_string();
        assert!(error.contains(&format!("a convolution's {what} [")), "{what}: {error}");
    }
}
