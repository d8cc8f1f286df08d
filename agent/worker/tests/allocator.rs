//! The counting, capping allocator. One test at a time: its counters belong to the whole process.

mod support;

use std::sync::MutexGuard;

use fleet_worker::torch::memory::{Memory, Place};
use fleet_worker::torch::timeline::Timeline;
use fleet_worker::torch::{Function, attach, grad, guard};
use tch::{Device, Kind, Tensor, kind::FLOAT_CPU};

struct Alone {
    memory: Memory,
    _lock: MutexGuard<'static, ()>,
}

fn alone() -> Alone {
    let lock = support::one_at_a_time();
    let memory = Memory::of(Device::Cpu);
    memory.set_cpu_cap(None);
    Alone { memory, _lock: lock }
}

const MIB: u64 = 1 << 20;

/// A tensor of `n` MiB.
fn mib(n: i64) -> Tensor {
    Tensor::zeros([n << 18], FLOAT_CPU)
}

#[test]
fn live_and_peak_bytes_are_exact() {
    let a = alone();
    let stats = || a.memory.stats().expect("the CPU has figures");
    let before = stats().live;
    a.memory.reset_peak().expect("resets");
    let one = mib(3);
    assert_eq!(stats().live - before, 3 * MIB);
    let two = mib(5);
    drop(one);
    assert_eq!(stats().live - before, 5 * MIB);
    assert_eq!(stats().peak - before, 8 * MIB);
    a.memory.reset_peak().expect("resets");
    assert_eq!(stats().peak - before, 5 * MIB);
    drop(two);
    assert_eq!(stats().live, before);
}

#[test]
fn a_refused_allocation_is_typed_and_the_process_goes_on() {
    let a = alone();
    let base = a.memory.stats().expect("figures");
    a.memory.set_cpu_cap(Some(base.live + 10 * MIB));
    let kept = mib(6);
    Place::phase("forward").block(3).enter();
    let error = guard(|| mib(5)).expect_err("the cap refuses");
    let after = a.memory.stats().expect("figures");
    assert_eq!(after.refusals, base.refusals + 1, "the allocator says so, not the message ({error})");
    assert_eq!(after.live, base.live + 6 * MIB, "a refused allocation leaves nothing behind");
    let (needed, place) = a.memory.last_cpu_refusal().expect("it refused");
    assert_eq!(needed, base.live + 11 * MIB);
    assert_eq!((place.phase_name(), place.block_index()), ("forward", Some(3)));
    let fits = mib(4);
    drop((kept, fits));
    a.memory.set_cpu_cap(None);
    drop(mib(64));
}

/// Runs a chain of large multiplications with the cap closed after forward, so that backward hits it: inside libtorch's
/// engine, and inside a Rust function that the engine calls.
#[test]
fn a_refusal_inside_backward_is_an_error_too() {
    struct Square(Tensor);
    impl Function for Square {
        fn backward(&mut self, grads: Vec<Option<Tensor>>, _: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
            Ok(vec![grads[0].as_ref().map(|g| g * &self.0 * 2.0)])
        }
    }
    let a = alone();
    for custom in [false, true] {
        let base = a.memory.stats().expect("figures");
        {
            let x = mib(4).set_requires_grad(true);
            let y = if custom {
                attach(vec![x.detach().square()], &[&x], Square(x.detach())).expect("attached").remove(0)
            } else {
                x.square()
            };
            let loss = y.sum(Kind::Float);
            drop(y);
            let now = a.memory.stats().expect("figures");
            a.memory.set_cpu_cap(Some(now.live + MIB));
            grad(&[&loss], &[None], &[&x]).expect_err("the cap refuses");
            assert!(a.memory.stats().expect("figures").refusals > now.refusals);
            a.memory.set_cpu_cap(None);
        }
        assert_eq!(a.memory.stats().expect("figures").live, base.live, "custom: {custom}");
    }
}

#[test]
fn live_bytes_return_to_the_baseline_after_a_training_step() {
    use fleet_worker::torch::adamw::{AdamW, AdamWConfig};
    let a = alone();
    let w = (mib(1).view([512, 512]) + 0.01).set_requires_grad(true);
    let mut optimizer = AdamW::new(vec![w.shallow_clone()], AdamWConfig::default());
    let x = Tensor::ones([64, 512], FLOAT_CPU);
    let mut after = Vec::new();
    for _ in 0..3 {
        let loss = x.matmul(&w).relu().square().mean(Kind::Float);
        let grads = grad(&[&loss], &[None], &[&w]).expect("gradients");
        optimizer.step(&grads, 1e-3).expect("a step");
        drop((loss, grads));
        after.push(a.memory.stats().expect("figures").live);
    }
    assert_eq!(after[0], after[1]);
    assert_eq!(after[1], after[2]);
}

#[test]
fn the_peak_knows_its_place() {
    let a = alone();
    Place::phase("forward").enter();
    a.memory.reset_peak().expect("resets");
    let one = mib(1);
    Place::phase("recompute").block(7).enter();
    let two = mib(4);
    Place::phase("optimizer").enter();
    drop((one, two));
    let three = mib(2);
    let place = a.memory.stats().expect("figures").peak_place.expect("the CPU allocator knows");
    assert_eq!((place.phase_name(), place.block_index()), ("recompute", Some(7)));
    drop(three);
}

/// A timeline, and whoever measures a block by itself, begin the peak anew; the phase's must not be lost by that.
#[test]
fn the_highest_peak_outlives_its_parts() {
    let a = alone();
    let base = a.memory.stats().expect("figures").live;
    a.memory.reset_peak().expect("resets");
    let peak = || a.memory.highest().expect("figures").0 - base;
    Place::phase("forward").enter();
    drop(mib(3));
    a.memory.part_peak(None).expect("resets");
    assert_eq!((a.memory.stats().expect("figures").peak - base, peak() / MIB), (0, 3));
    Timeline::start(Device::Cpu).expect("starts");
    Place::phase("recompute").block(4).enter();
    drop(mib(5));
    Place::phase("backward").enter();
    drop(mib(1));
    drop(Timeline::finish().expect("recorded"));
    let place = a.memory.highest().expect("figures").1.expect("the CPU allocator knows");
    assert_eq!((peak() / MIB, place.phase_name(), place.block_index()), (5, "recompute", Some(4)));
    a.memory.reset_peak().expect("resets");
    assert_eq!(peak(), 0, "a new phase");
}

/// A choice that was tried and did not fit must not make a later failure, of another kind, look like a want of memory.
#[test]
fn a_refusal_that_was_dealt_with_is_no_reason_later() {
    let a = alone();
    let cap = a.memory.stats().expect("figures").live + MIB;
    a.memory.set_cpu_cap(Some(cap));
    let ((tried, inner), outer) = a.memory.watch(|| a.memory.watch(|| guard(|| drop(mib(4)))));
    assert!(tried.is_err() && inner && !outer);
    let (failed, refused) = a.memory.watch(|| {
        let _ = a.memory.watch(|| guard(|| drop(mib(4))));
        guard(|| drop(mib(4)))
    });
    assert!(failed.is_err() && refused, "the second one was nobody's");
    a.memory.set_cpu_cap(None);
    assert!(!a.memory.watch(|| drop(mib(4))).1);
}

/// What the process holds now, in bytes, and how many pages it has been given so far.
fn process() -> (u64, i64) {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
    // SAFETY: fills the struct it is given.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage
    };
    (pages * 4096, usage.ru_minflt)
}

/// Tensors of 96 KiB to 3 MiB, seldom a whole number of pages, made and freed in a random order, each holding what was
/// written to it until its end; always close to 32 MiB together.
fn churn(seed: u64) {
    let mut random = seed;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut held: Vec<(i64, Tensor)> = Vec::new();
    let mut bytes = 0;
    for id in 0..200 {
        let n = (24 << 10) + next(760 << 10) as i64;
        while bytes + 4 * n > 32 << 20 {
            let (id, tensor) = held.swap_remove(next(held.len()));
            bytes -= 4 * tensor.numel() as i64;
            let (least, most) = (tensor.min().double_value(&[]), tensor.max().double_value(&[]));
            assert_eq!((least, most), (id as f64, id as f64), "somebody else wrote into a tensor");
        }
        bytes += 4 * n;
        held.push((id, Tensor::full([n], id as f64, FLOAT_CPU)));
    }
}

#[test]
fn the_process_holds_no_more_than_its_tensors_did_at_their_peak() {
    let a = alone();
    let stats = || a.memory.stats().expect("figures");
    // The most that tensors of this process ever hold: other tests hold no more.
    drop(mib(192));
    let base = stats().live;
    for seed in 0..6 {
        a.memory.reset_peak().expect("resets");
        churn(seed);
        let s = stats();
        assert_eq!(s.live, base, "everything was freed");
        assert!(s.reserved > s.live + 24 * MIB, "freed memory is kept: {s:?}");
        // Live bytes are counted as asked for, kept ones in pages.
        assert!(s.reserved_peak <= base + 194 * MIB, "but no more than was live at the peak: {s:?}");
    }
    let (before, _) = process();
    let whole = Tensor::ones([192 << 18], FLOAT_CPU);
    let grown = process().0.saturating_sub(before);
    assert!(grown < 8 * MIB, "what was kept serves a tensor of any size: grown by {} MiB", grown / MIB);
    drop(whole);
}

#[test]
fn pages_are_given_back_where_what_is_kept_does_not_fit() {
    let a = alone();
    let full = |n: i64, value: i64| Tensor::full([n << 18], value as f64, FLOAT_CPU);
    // 192 MiB, the peak of this process, of 4 MiB each; then every second is freed, and nothing larger fits between the
    // others.
    let mut held: Vec<Tensor> = (0..48).map(|i| full(4, i)).collect();
    let (before, _) = process();
    let mut number = 0;
    held.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    assert!(process().0 + 8 * MIB > before, "freed memory is kept");
    let larger: Vec<Tensor> = (100..109).map(|i| full(10, i)).collect();
    let (after, _) = process();
    assert!(after < before + 8 * MIB, "grown by {} MiB", (after - before) / MIB);
    let reserved = a.memory.stats().expect("figures").reserved;
    assert!(reserved < 194 * MIB, "{reserved}");
    for (i, tensor) in (0..24).map(|i| 2 * i + 1).zip(&held).chain((100..109).zip(&larger)) {
        let (least, most) = (tensor.min().double_value(&[]), tensor.max().double_value(&[]));
        assert_eq!((least, most), (f64::from(i), f64::from(i)), "what lives is left alone");
    }
}

/// The order of a training step: what forward makes is freed in reverse, between gradients that stay until the end.
fn step() {
    let sizes = [605, 1815, 151, 605, 2420, 2421, 604]; // KiB: of a small ViT's block
    let kib = |n: i64| Tensor::ones([n << 8], FLOAT_CPU);
    let mut activations: Vec<Tensor> = (0..12).flat_map(|_| sizes.map(kib)).collect();
    let mut gradients = Vec::new();
    while let Some(activation) = activations.pop() {
        let incoming = kib(activation.numel() as i64 >> 8);
        drop(activation);
        gradients.push(kib(incoming.numel() as i64 >> 10));
    }
}

#[test]
fn a_step_like_the_one_before_needs_few_fresh_pages() {
    let _alone = alone();
    step();
    step();
    let (_, before) = process();
    step();
    let fresh = process().1 - before;
    // Every activation comes twice, once as its gradient: 12 · 2 · 8.4 MiB are 52,000 pages, each of which would be
    // fresh if freed memory were returned.
    println!("{fresh} fresh pages");
    assert!(fresh < 3_000, "{fresh} fresh pages");
}
