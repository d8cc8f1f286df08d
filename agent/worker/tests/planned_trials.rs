//! Trials under planned checkpointing, as worker processes: the plan holds, changes no bit, survives an interruption,
//! and a budget that nothing fits says what it would take.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::path::Path;

use fleet_common::record::{BlockChoice, Outcome, Training};
use fleet_common::worker::{Job, Phase};
use serde_json::json;
use support::trials::{Trials, interrupt, run};

fn peak(training: &Training) -> u64 {
    let training = training.phases.iter().filter(|p| matches!(p.phase, Phase::WarmUp | Phase::Train));
    training.map(|p| p.peak_bytes).max().unwrap()
}

/// The job with a budget, under the planned strategy.
fn planned(job: &Job, budget: u64) -> Job {
    let mut job = job.clone();
    job.settings = serde_json::from_value({
        let mut settings = serde_json::to_value(&job.settings).unwrap();
        settings["checkpointing"] = json!("planned");
        settings["planned_margin"] = json!(0.01);
        settings["budget_bytes"] = json!(budget);
        settings
    })
    .unwrap();
    job
}

fn same_file(a: &Path, b: &Path) {
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

#[test]
fn a_plan_holds_and_changes_no_bit_also_across_an_interruption() {
    let trials = Trials::new();
    // Dropout is drawn anew where parts of a block run again.
    let lora = json!({ "name": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.2, "targets": ["qkv", "fc1", "fc2"] });
    for method in [json!({ "name": "full" }), lora] {
        let job = trials.job(&method, "none");
        let none =
            run(&Job { save_weights: Some(trials.weights("none")), save_states: None, ..job.clone() }, |_, _| {});
        let with = |how| run(&Job { save_states: None, ..trials.job(&method, how) }, |_, _| {});
        let (most, least) = (peak(&none.training), peak(&with("static").training));
        assert!(least < most);
        assert_eq!(none.training.memory_plan, None);

        let budget = (most + least) / 2;
        let job = planned(&job, budget);
        let first = interrupt(&job, Phase::Train);
        assert_eq!(first.outcome, Outcome::Cancelled);
        assert!(first.phases.contains(&Phase::Profile));
        let plan = first.training.memory_plan.clone().unwrap();
        let kinds: std::collections::BTreeSet<BlockChoice> = plan.blocks.iter().copied().collect();
        assert!(kinds.iter().any(|k| *k != BlockChoice::Keep), "something has to run again: {plan:?}");
        assert!(plan.predicted_peak_bytes <= plan.limit_bytes && plan.limit_bytes < budget);
        assert!(!plan.replanned && plan.measured_peak_bytes.abs_diff(plan.predicted_peak_bytes) * 50 < budget);
        let state = first.saved.last().unwrap().1.clone();
        let whole = Job { resume: Some(state), save_weights: Some(trials.weights("planned")), ..job };
        let second = run(&whole, |_, _| {});
        assert_eq!(second.outcome, Outcome::Completed);
        assert!(!second.phases.contains(&Phase::Profile), "the plan is part of the state: {:?}", second.phases);
        assert_eq!(second.training.memory_plan, Some(plan.clone()));
        // What tensors hold beside the passes that were tried: batches, the optimiser's counts.
        assert!(peak(&second.training).abs_diff(plan.predicted_peak_bytes) * 50 < budget, "{plan:?}");
        assert!(peak(&second.training) <= budget);
        same_file(&trials.weights("none"), &trials.weights("planned"));
        assert_eq!(none.training.losses, second.training.losses);

        let trace = second.training.memory_trace.clone().unwrap();
        assert!(trace.windows.is_sorted_by(|a, b| a.at <= b.at) && trace.windows.iter().all(|w| w.live <= w.peak));
        assert_eq!(trace.windows.iter().map(|w| w.peak).max().unwrap(), peak(&second.training));
        for phase in ["forward", "backward", "recompute", "optimizer"] {
            assert!(trace.windows.iter().any(|w| w.place.phase == phase), "{phase}");
        }
    }
}

#[test]
fn a_budget_that_nothing_fits_says_what_it_would_take() {
    let trials = Trials::new();
    let job = Job { save_states: None, ..trials.job(&json!({ "name": "full" }), "none") };
    let none = run(&job, |_, _| {});
    let persistent = none.training.phases.iter().find(|p| p.phase == Phase::Load).unwrap().peak_bytes;

    // Less than the weights and the optimiser.
    for budget in [1, persistent / 4] {
        let small = run(&planned(&job, budget), |_, _| {});
        let Outcome::DoesNotFit { needed_bytes, budget_bytes, .. } = small.outcome else {
            panic!("{:?}", small.outcome)
        };
        assert!(needed_bytes > budget && budget_bytes == budget);
    }
    // The most that does not fit, to a hundredth: just above, a plan is found, and it fills the budget.
    let (mut low, mut high) = (persistent, peak(&none.training) + (1 << 20));
    let mut said = 0;
    while high - low > high / 100 {
        let middle = (low + high) / 2;
        match run(&planned(&job, middle), |_, _| {}).outcome {
            Outcome::Completed => high = middle,
            Outcome::DoesNotFit { needed_bytes, .. } => (low, said) = (middle, needed_bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(said > low && said < high + high / 50, "said {said}, it is between {low} and {high}");
    let static_ = run(&Job { save_states: None, ..trials.job(&json!({ "name": "full" }), "static") }, |_, _| {});
    assert!(high <= peak(&static_.training) + high / 100, "{high} against {}", peak(&static_.training));
}
