//! The selective scan alone: its time beside that of the same in libtorch's operators, beside reading its inputs and
//! writing its outputs once, and beside its floating-point operations at the speed that the processor reaches.
//!
//! `cargo bench -p fleet-worker --bench scan`, or as a part of `make bench`; on a GPU
//! `cargo bench -p fleet-worker --bench scan -- cuda`.

use std::hint::black_box;
use std::time::Instant;

use fleet_worker::scan::{Pass, plain, selective_scan};
use fleet_worker::torch::cuda::{self, CudaHalf};
use fleet_worker::torch::grad;
use fleet_worker::torch::memory::Memory;
use tch::{Cuda, Device, Kind, Tensor};

struct Case {
    name: &'static str,
    batch: i64,
    length: i64,
    channels: i64,
    states: i64,
    passes: usize,
    gate: bool,
}

/// As the backbones scan at 224 pixels, in the batches of the steps that are compared with Python's.
const CASES: [Case; 4] = [
    Case { name: "Vim-Small", batch: 2, length: 197, channels: 768, states: 16, passes: 2, gate: true },
    Case { name: "Vim-Small", batch: 16, length: 197, channels: 768, states: 16, passes: 2, gate: true },
    Case { name: "MambaVision-T, level 2", batch: 4, length: 196, channels: 160, states: 8, passes: 1, gate: false },
    Case { name: "MambaVision-T, level 3", batch: 4, length: 49, channels: 320, states: 8, passes: 1, gate: false },
];

/// The same in batches that fill a GPU.
const CUDA_CASES: [Case; 4] = [
    Case { batch: 16, ..CASES[0] },
    Case { batch: 64, ..CASES[0] },
    Case { batch: 64, ..CASES[2] },
    Case { batch: 64, ..CASES[3] },
];

fn main() {
    let on_cuda = std::env::args().any(|a| a == "cuda");
    if on_cuda && !matches!(cuda::load(), CudaHalf::Devices(_)) {
        return eprintln!("scan: no GPU that libtorch can use is here");
    }
    let device = if on_cuda { Device::Cuda(0) } else { Device::Cpu };
    // The worker's own allocator, as in a trial: freed memory is at hand for the next step.
    let _memory = Memory::of(device);
    println!("{device:?}, threads: {}", tch::get_num_threads());
    let bandwidth = bandwidth(device);
    let flops = flops(device);
    println!(
        "copying: {:.1} GB/s read and written together; a matrix product: {:.0} GFLOP/s\n",
        bandwidth / 1e9,
        flops / 1e9
    );
    println!(
        "| scan | batch | | ours ms | plain ms | plain / ours | traffic ms | arithmetic ms | ours / larger floor |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for case in if on_cuda { &CUDA_CASES } else { &CASES } {
        run(case, device, bandwidth, flops);
    }
}

/// The least of some timed calls, seconds.
fn least(device: Device, times: usize, mut f: impl FnMut()) -> f64 {
    f();
    let timed = (0..times).map(|_| {
        done(device);
        let start = Instant::now();
        f();
        done(device);
        start.elapsed().as_secs_f64()
    });
    timed.fold(f64::INFINITY, f64::min)
}

/// Waits until the device has done what it was asked for.
fn done(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// Bytes per second that a large copy reads and writes.
fn bandwidth(device: Device) -> f64 {
    let from = Tensor::ones([64 << 20], (Kind::Float, device));
    let mut to = from.zeros_like();
    2.0 * 4.0 * from.numel() as f64 / least(device, 5, || to.copy_(&from))
}

/// Floating-point operations per second of a large matrix product, which is next to what the processor can do.
fn flops(device: Device) -> f64 {
    let n = if device == Device::Cpu { 1536 } else { 8192 };
    let square = || Tensor::randn([n, n], (Kind::Float, device));
    let (a, b) = (square(), square());
    2.0 * (n as f64).powi(3) / least(device, 10, || drop(black_box(a.mm(&b))))
}

fn run(case: &Case, device: Device, bandwidth: f64, flops: f64) {
    let options = (Kind::Float, device);
    let rows = |width| Tensor::randn([case.batch, case.length, width], options).set_requires_grad(true);
    let leaves: Vec<Tensor> = (0..case.passes)
        .flat_map(|_| {
            let a = -Tensor::rand([case.channels, case.states], options) * 16.0;
            let vector = || Tensor::randn([case.channels], options);
            let states = || rows(case.states);
            let a = a.detach().set_requires_grad(true);
            let bias = (vector() - 4.0).detach().set_requires_grad(true);
            [rows(case.channels), rows(case.channels), a, states(), states(), vector().set_requires_grad(true), bias]
        })
        .chain(case.gate.then(|| rows(case.channels)))
        .collect();
    let passes: Vec<Pass> =
        leaves.chunks_exact(Pass::TENSORS).enumerate().map(|(i, tensors)| Pass::of(tensors, i == 1)).collect();
    let gate = case.gate.then(|| leaves.last().expect("a gate"));
    let weight = Tensor::randn([case.batch, case.length, case.channels], options);
    let targets: Vec<&Tensor> = leaves.iter().collect();
    type Scan = fn(&[Pass], Option<&Tensor>, f64) -> Tensor;
    let time = |scan: Scan, times: usize| {
        let forward = least(device, times, || drop(black_box(tch::no_grad(|| scan(&passes, gate, 1.0)))));
        let mut backward = f64::INFINITY;
        for _ in 0..times {
            let y = scan(&passes, gate, 1.0);
            done(device);
            let start = Instant::now();
            let _ = black_box(grad(&[&y], &[Some(&weight)], &targets).expect("differentiates"));
            done(device);
            backward = backward.min(start.elapsed().as_secs_f64());
        }
        (forward, backward)
    };
    let (forward, backward) = time(selective_scan, 20);
    let (plain_forward, plain_backward) = time(plain::selective_scan, 3);

    let passes = case.passes as f64;
    let wide = (case.batch * case.length * case.channels) as f64; // B·L·D
    let narrow = (case.batch * case.length * case.states) as f64; // B·L·N
    let states = wide * case.states as f64; // B·L·D·N
    let gates = f64::from(u8::from(case.gate));
    // Numbers read and written once: x, delta, b, c of each pass, the gate, y; in backward all of these and dy are
    // read, and the gradients of all but y written.
    let traffic = 4.0 * (passes * (2.0 * wide + 2.0 * narrow) + gates * wide + wide);
    let traffic_back = 4.0 * (2.0 * passes * (2.0 * wide + 2.0 * narrow) + 2.0 * gates * wide + wide);
    // Per state: dt·a, an exponential, h = decay·h + u·b, s += c·h. An exponential that is exact in f32 is a polynomial
    // of degree 5 and 4 operations to reduce its argument and scale the result. Backward does that again (but for c·h
    // where there is no gate) and for each state 7 fused operations and one product.
    let exponential = 2.0 * 5.0 + 4.0;
    let forwards = 1.0 + exponential + 1.0 + 2.0 + 2.0;
    let backwards = forwards + 7.0 * 2.0 + 1.0;
    for (name, ours, plain, bytes, operations) in [
        ("forward", forward, plain_forward, traffic, forwards * passes * states),
        ("backward", backward, plain_backward, traffic_back, backwards * passes * states),
    ] {
        let (traffic, arithmetic) = (bytes / bandwidth, operations / flops);
        println!(
            "| {} | {} | {name} | {:.2} | {:.1} | {:.0} | {:.2} | {:.2} | **{:.1}** |",
            case.name,
            case.batch,
            1e3 * ours,
            1e3 * plain,
            plain / ours,
            1e3 * traffic,
            1e3 * arithmetic,
            ours / traffic.max(arithmetic)
        );
    }
}
