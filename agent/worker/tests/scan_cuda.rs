//! The scan's CUDA kernels without a GPU: launched by the worker's own code, through libraries that have the symbols of
//! NVIDIA's (`tests/stand_ins`), compiled for the CPU. The arithmetic, the launches and the scratch memory are those of
//! a GPU; only the clock is not.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use fleet_worker::scan::Pass;
use fleet_worker::scan::cuda::nvrtc::Nvrtc;
use fleet_worker::scan::cuda::{self, Kernels, Widths, check};
use fleet_worker::torch::grad;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use support::{gradcheck, one_at_a_time, same_bits, uniform};
use tch::{Device, Kind, Tensor};

/// Compiles a stand-in and loads it under the name that the worker asks the loader for.
fn stand_in(source: &str, name: &str, folder: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/stand_ins").join(source);
    let library = folder.join(name);
    let mut compiler = Command::new(if source.extension().unwrap() == "c" { "cc" } else { "c++" });
    compiler.args(["-shared", "-fPIC", "-O1", &format!("-Wl,-soname,{name}")]);
    compiler.arg(format!("-DFOLDER=\"{}\"", folder.display())).arg("-o").arg(&library).arg(source);
    assert!(compiler.status().unwrap().success(), "the stand-in {name} does not compile");
    let library = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the stand-ins have no initialisers to speak of.
    assert!(!unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }.is_null());
}

/// The kernels for so many states on the stand-in's board.
fn kernels(states: i64) -> Kernels {
    static LOADED: LazyLock<Mutex<HashMap<i64, Kernels>>> = LazyLock::new(Mutex::default);
    load_stand_ins();
    let mut loaded = LOADED.lock().unwrap();
    *loaded.entry(Widths::of(states).forward).or_insert_with(|| Kernels::load(Device::Cpu, states).unwrap())
}

fn load_stand_ins() {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("scan_cuda");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        stand_in("cuda.c", "libcuda.so.1", &folder);
        stand_in("nvrtc.cpp", "libcaffe2_nvrtc.so", &folder);
        folder
    });
    assert!(FOLDER.is_dir());
}

/// The scan as it is defined, step by step, in the inputs' own precision.
fn plain(passes: &[Pass], gate: Option<&Tensor>, scale: f64) -> Tensor {
    let mut sum = passes[0].x.zeros_like();
    for pass in passes {
        let dt = (pass.delta + pass.bias).softplus();
        let (batch, length, channels) = pass.x.size3().unwrap();
        let mut h = Tensor::zeros([batch, channels, pass.a.size()[1]], (pass.x.kind(), pass.x.device()));
        let mut tokens: Vec<Option<Tensor>> = (0..length).map(|_| None).collect();
        for step in 0..length {
            let t = if pass.reverse { length - 1 - step } else { step };
            let at = |tensor: &Tensor, dim| tensor.select(1, t).unsqueeze(dim);
            h = (at(&dt, -1) * pass.a).exp() * h + at(&dt, -1) * at(pass.b, 1) * at(pass.x, -1);
            tokens[t as usize] = Some((at(pass.c, 1) * &h).sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>));
        }
        let tokens: Vec<_> = tokens.into_iter().map(Option::unwrap).collect();
        sum = sum + Tensor::stack(&tokens, 1) + pass.d * pass.x;
    }
    gate.map_or_else(|| &sum * scale, |gate| &sum * gate.silu() * scale)
}

/// A scan to test, in f64 as the definition computes it; the kernels get it rounded to f32.
struct Case {
    passes: Vec<(Vec<Tensor>, bool)>,
    gate: Option<Tensor>,
    scale: f64,
}

impl Case {
    fn new(seed: i64, [batch, length, channels, states]: [i64; 4], reverse: &[bool], gated: bool) -> Self {
        let pass = |(i, reverse): (usize, &bool)| {
            let seed = 100 * seed + 10 * i as i64;
            let tensors = vec![
                uniform(seed, &[batch, length, channels]),
                // Over softplus's whole way, and beyond where it is the identity.
                uniform(seed + 1, &[batch, length, channels]).pow_tensor_scalar(5.0) * 25.0 - 1.0,
                uniform(seed + 2, &[channels, states]) * 1.9 - 2.0,
                uniform(seed + 3, &[batch, length, states]),
                uniform(seed + 4, &[batch, length, states]),
                uniform(seed + 5, &[channels]),
                uniform(seed + 6, &[channels]),
            ];
            (tensors, *reverse)
        };
        let gate = gated.then(|| uniform(100 * seed + 99, &[batch, length, channels]) * 3.0);
        Self { passes: reverse.iter().enumerate().map(pass).collect(), gate, scale: 1.0 / reverse.len() as f64 }
    }

    /// The same with each tensor made by `f`.
    fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        let passes = self.passes.iter().map(|(tensors, reverse)| (tensors.iter().map(&f).collect(), *reverse));
        Self { passes: passes.collect(), gate: self.gate.as_ref().map(&f), scale: self.scale }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.passes.iter().flat_map(|(tensors, _)| tensors).chain(&self.gate).collect()
    }

    fn passes(&self) -> Vec<Pass<'_>> {
        self.passes.iter().map(|(tensors, reverse)| Pass::of(tensors, *reverse)).collect()
    }

    /// By the definition: the result, and the gradients of ⟨result, weights⟩ by all tensors.
    fn defined(&self, weights: &Tensor) -> Vec<Tensor> {
        let leaves = self.map(|t| t.detach().copy().set_requires_grad(true));
        let y = plain(&leaves.passes(), leaves.gate.as_ref(), self.scale);
        let grads = grad(&[&y], &[Some(weights)], &leaves.tensors()).unwrap();
        std::iter::once(y.detach()).chain(grads.into_iter().map(Option::unwrap)).collect()
    }

    /// By the kernels.
    fn launched(&self, kernels: &Kernels, weights: &Tensor) -> Vec<Tensor> {
        let y = kernels.forward(&self.passes(), self.gate.as_ref(), self.scale).unwrap();
        let grads = kernels.backward(&self.passes(), self.gate.as_ref(), self.scale, weights).unwrap();
        let by_pass = grads.passes.into_iter().flat_map(|p| [p.x, p.delta, p.a, p.b, p.c, p.d, p.bias]);
        std::iter::once(y).chain(by_pass).chain(grads.gate).collect()
    }
}

/// The same values as a view into a tensor that is otherwise NaN, with other distances between sequences and rows.
fn strided(tensor: &Tensor) -> Tensor {
    let [batch, length, columns] = tensor.size()[..] else { return tensor.copy() };
    let around = Tensor::full([batch + 1, length + 2, columns + 5], f64::NAN, (tensor.kind(), Device::Cpu));
    let view = around.narrow(0, 1, batch).narrow(1, 1, length).narrow(2, 3, columns);
    view.shallow_clone().copy_(tensor);
    view
}

#[test]
fn the_definitions_gradients_are_those_of_finite_differences() {
    let _alone = one_at_a_time();
    for reverse in [false, true] {
        let case = Case::new(1, [2, 5, 2, 3], &[reverse], true);
        let inputs: Vec<_> = case.tensors().into_iter().map(Tensor::shallow_clone).collect();
        let weights = uniform(7, &[2, 5, 2]);
        let f = |t: &[Tensor]| (plain(&[Pass::of(&t[..7], reverse)], Some(&t[7]), 0.5) * &weights).sum(None::<Kind>);
        gradcheck(f, &inputs);
    }
}

#[test]
fn the_kernels_compute_the_definition_and_its_gradients() {
    let _alone = one_at_a_time();
    let (both, ahead, back): (&[bool], &[bool], &[bool]) = (&[false, true], &[false], &[true]);
    // Sizes, passes, gate, and the steps of a chunk.
    let cases = [
        ([2, 43, 40, 16], both, true, Some(16)),
        ([2, 43, 40, 16], both, true, None),
        ([1, 1, 1, 1], ahead, false, None),
        ([1, 9, 33, 1], both, true, Some(8)),
        ([3, 8, 64, 3], back, true, None),
        ([1, 17, 65, 3], both, false, Some(8)),
        ([2, 100, 7, 2], ahead, true, None),
        ([1, 70, 130, 8], back, false, Some(24)),
        ([2, 31, 96, 8], both, true, Some(40)),
        ([1, 197, 5, 16], back, true, None),
        ([1, 12, 31, 17], both, true, Some(8)),
        ([2, 15, 9, 33], both, true, Some(8)),
        ([1, 23, 32, 64], both, false, None),
        ([1, 33, 3, 64], &[false, true, true], true, Some(16)),
    ];
    let mut dice = ChaCha8Rng::seed_from_u64(4);
    let mut roll = |below: i64| dice.random_range(0..below);
    let random = (0..16).map(|_| {
        let sizes = [1 + roll(3), 1 + roll(60), 1 + roll(140), 1 + roll(24)];
        (sizes, [both, ahead, back][roll(3) as usize], roll(2) == 0, [None, Some(8 + roll(40))][roll(2) as usize])
    });
    let cases: Vec<_> = cases.into_iter().chain(random).collect();
    let names = ["x", "delta", "A", "B", "C", "D", "bias"];
    let mut worst: f64 = 0.0;
    for (seed, (sizes, reverse, gated, chunk)) in (10..).zip(cases) {
        let case = Case::new(seed, sizes, reverse, gated).map(|t| t.to_kind(Kind::Float).to_kind(Kind::Double));
        let weights = uniform(seed, &sizes[..3]).to_kind(Kind::Float);
        let mut kernels = kernels(sizes[3]);
        if let Some(chunk) = chunk {
            kernels = kernels.with_chunks_of(chunk);
        }
        let found = case.map(|t| strided(&t.to_kind(Kind::Float))).launched(&kernels, &strided(&weights));
        let expected = case.defined(&weights.to_kind(Kind::Double));
        let results = std::iter::once("y").chain(names.into_iter().cycle().take(7 * reverse.len())).chain(["gate"]);
        assert_eq!(found.len(), expected.len());
        for ((name, found), expected) in results.zip(found).zip(expected) {
            assert_eq!(found.size(), expected.size(), "{name} of {sizes:?}");
            let off = (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
            let largest = expected.abs().max().double_value(&[]);
            assert!(
                off <= 2e-6 * largest,
                "{name} of {sizes:?} in chunks of {chunk:?}: {off:.1e} off, of {largest:.1e}"
            );
            worst = worst.max(off / largest.max(f64::MIN_POSITIVE));
        }
    }
    println!("at most {worst:.1e} of a tensor's largest value");
}

#[test]
fn a_repeated_scan_has_the_same_bits() {
    let _alone = one_at_a_time();
    let case = Case::new(3, [2, 43, 40, 16], &[false, true], true).map(|t| t.to_kind(Kind::Float));
    let weights = uniform(3, &[2, 43, 40]).to_kind(Kind::Float);
    let kernels = kernels(16).with_chunks_of(16);
    let first = case.launched(&kernels, &weights);
    // Whatever was in the scratch memory must not matter.
    drop((0..40).map(|i| Tensor::full([1 << (i / 2)], f64::NAN, (Kind::Float, Device::Cpu))).collect::<Vec<_>>());
    let second = case.launched(&kernels, &weights);
    assert!(first.iter().zip(&second).all(|(a, b)| same_bits(a, b)));
}

#[test]
fn a_scan_over_nothing_gives_nothing_and_no_gradient() {
    let _alone = one_at_a_time();
    for sizes in [[0, 5, 4, 3], [2, 0, 4, 3]] {
        let case = Case::new(4, sizes, &[false], true).map(|t| t.to_kind(Kind::Float));
        let weights = uniform(4, &sizes[..3]).to_kind(Kind::Float);
        let found = case.launched(&kernels(3), &weights);
        assert_eq!(found[0].size(), sizes[..3]);
        assert_eq!(found[3].abs().sum(None::<Kind>).double_value(&[]), 0.0, "by A");
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let _alone = one_at_a_time();
    let mut case = Case::new(5, [2, 6, 4, 3], &[false], false).map(|t| t.to_kind(Kind::Float));
    let kernels = kernels(3);
    let weights = uniform(5, &[2, 6, 3]).to_kind(Kind::Float);
    let error = kernels.backward(&case.passes(), None, 1.0, &weights).unwrap_err().to_string();
    assert!(error.contains("[2, 6, 3] instead of [2, 6, 4]"), "{error}");
    case.passes[0].0[3] = uniform(5, &[2, 6, 2]).to_kind(Kind::Float);
    let error = kernels.forward(&case.passes(), None, 1.0).unwrap_err().to_string();
    assert!(error.contains("a scan's B is [2, 6, 2] instead of [2, 6, 3]"), "{error}");
    case.passes[0].0[3] = uniform(5, &[2, 6, 3]);
    let error = kernels.forward(&case.passes(), None, 1.0).unwrap_err().to_string();
    assert!(error.contains("a scan's B is Double instead of f32"), "{error}");
}

#[test]
fn the_check_passes_what_is_right_and_tells_what_is_not() {
    let _alone = one_at_a_time();
    let kernels = kernels(16);
    check(&kernels, Device::Cpu, 16, plain).unwrap();
    let outcome = check(&kernels, Device::Cpu, 16, |passes, gate, _| plain(passes, gate, 0.4998));
    assert!(outcome.as_ref().is_err_and(|why| why.contains("the kernels' result is")), "{outcome:?}");
    // Only a gradient is off.
    let outcome = check(&kernels, Device::Cpu, 16, |passes, gate, scale| {
        let bias = passes[1].bias * 1.001 - passes[1].bias.detach() * 0.001;
        plain(&[passes[0], Pass { bias: &bias, ..passes[1] }], gate, scale)
    });
    assert!(outcome.as_ref().is_err_and(|why| why.contains("the kernels' gradient by bias is")), "{outcome:?}");
    // libtorch fails on the way.
    let outcome = check(&kernels, Device::Cpu, 16, |passes, _, _| passes[0].x.view([3, 3]));
    assert!(outcome.as_ref().is_err_and(|why| why.contains("shape '[3, 3]' is invalid")), "{outcome:?}");
}

#[test]
fn what_does_not_fit_together_is_said_in_words() {
    let _alone = one_at_a_time();
    load_stand_ins();
    let error = |ordinal| Kernels::load(Device::Cuda(ordinal), 1).unwrap_err();
    assert!(error(1).contains("unsupported toolchain. (CUDA_ERROR_UNSUPPORTED_PTX_VERSION)"), "{}", error(1));
    assert_eq!(error(2), "NVRTC 13.0 has no code for compute capability 30");
    assert!(error(4).starts_with("cuDeviceGet: "), "{}", error(4));
    // libtorch's CUDA half is not loaded, so the check cannot run, whatever the machine has: the plain form it is.
    assert!(cuda::kernels(Device::Cuda(0), 16, plain).is_none());
    assert!(cuda::kernels(Device::Cpu, 16, plain).is_none());
    let nvrtc = Nvrtc::open().unwrap();
    assert_eq!(nvrtc.target(90).unwrap(), "sm_90");
    assert_eq!(nvrtc.target(89).unwrap(), "compute_75", "the newest before it");
    let other = Kernels::load(Device::Cuda(3), 1).expect("a board newer than the compiler takes PTX");
    let case = Case::new(6, [1, 2, 3, 1], &[false], false).map(|t| t.to_kind(Kind::Float));
    let error = other.forward(&case.passes(), None, 1.0).unwrap_err().to_string();
    assert_eq!(error, "a scan on Cpu with the kernels of Cuda(3)");
    // A source that does not compile: a warp has no lane for each of so many values.
    let error = nvrtc.compile("sm_90", Widths { forward: 16, backward: 32 }).unwrap_err();
    assert!(error.contains("nvrtcCompileProgram answers with error 6"), "{error}");
    assert!(error.contains("kernel.cu") && error.contains("a lane for each value"), "{error}");
}
