//! The cap on the CPU: what a budget covers, and that it was tried.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use fleet_common::record::{Cap, Outcome};
use fleet_common::spec::BudgetScope;
use fleet_common::worker::Job;
use fleet_worker::torch::cap;
use fleet_worker::torch::memory::Memory;
use serde_json::json;
use support::one_at_a_time;
use support::trials::{Trials, run};
use tch::Device;

#[test]
fn a_budget_for_the_process_leaves_tensors_less() {
    let trials = Trials::new();
    let job = |budget: u64, scope| {
        let mut job = Job { save_states: None, ..trials.job(&json!({ "name": "full" }), "none") };
        (job.settings.budget_bytes, job.settings.budget_scope) = (Some(budget), scope);
        run(&job, |_, _| {})
    };
    let tensors = job(1 << 30, BudgetScope::Allocator);
    assert_eq!(tensors.outcome, Outcome::Completed);
    let cap = tensors.training.cap.unwrap();
    assert_eq!((cap.bytes, cap.overhead_bytes), (1 << 30, None));

    let process = job(1 << 30, BudgetScope::Process);
    assert_eq!(process.outcome, Outcome::Completed);
    let cap = process.training.cap.unwrap();
    let overhead = cap.overhead_bytes.unwrap();
    assert_eq!(cap.bytes + overhead, 1 << 30);
    // Code and libtorch's libraries: tens of MiB at least, and no model yet.
    assert!((20 << 20..600 << 20).contains(&overhead), "{overhead}");
    assert_eq!(tensors.training.losses, process.training.losses);

    let Outcome::DoesNotFit { needed_bytes, budget_bytes, place } = job(1 << 20, BudgetScope::Process).outcome else {
        panic!("a megabyte holds no process");
    };
    assert!(needed_bytes > budget_bytes && budget_bytes == 1 << 20 && place.phase == "start", "{place}");
}

#[test]
fn a_cap_that_does_not_hold_is_found_out() {
    let _alone = one_at_a_time();
    let memory = Memory::of(Device::Cpu);
    let set = cap::on_cpu(64 << 20, BudgetScope::Allocator).unwrap();
    let before = memory.stats().unwrap();
    cap::verify(Device::Cpu, set).unwrap();
    let after = memory.stats().unwrap();
    assert_eq!((after.live, after.peak, after.refusals), (before.live, before.peak, before.refusals + 1));
    memory.set_cpu_cap(None);
    let error = cap::verify(Device::Cpu, set).unwrap_err().to_string();
    assert!(error.contains("the memory budget cannot be enforced"), "{error}");
}

#[test]
fn a_failure_that_is_no_refusal_is_no_cap() {
    let _alone = one_at_a_time();
    // This process has not loaded libtorch's CUDA half: an allocation there fails, whatever the cap.
    let set = Cap { bytes: 64 << 20, overhead_bytes: None };
    let error = cap::verify(Device::Cuda(0), set).unwrap_err().to_string();
    assert!(error.contains("neither given nor refused"), "{error}");
}
