//! The counting, capping allocator. One test at a time: its counters belong to the whole process.

mod support;

use std::sync::MutexGuard;

use fleet_worker::torch::memory::{Memory, Place};
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
