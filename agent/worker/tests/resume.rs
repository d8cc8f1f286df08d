//! A trial that was interrupted ends with the same weights, bit for bit, as one that was not: every method, with and
//! without checkpointing, interrupted while it trains and while it is evaluated. The trials are worker processes,
//! talked to as the daemon does.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::path::Path;

use fleet_common::record::{Outcome, Training};
use fleet_common::worker::{Job, Phase, SaveStates};
use serde_json::json;
use support::trials::{STEPS, Trials, interrupt, run};

fn same_file(a: &Path, b: &Path) {
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

fn steps(training: &Training, phase: Phase) -> u64 {
    training.phases.iter().filter(|p| p.phase == phase).map(|p| p.steps).sum()
}

/// Two interruptions while it trains and one while it is evaluated, against none.
fn resumes_bit_for_bit(method: &serde_json::Value, checkpointing: &str) {
    let trials = Trials::new();
    let job = trials.job(method, checkpointing);
    let whole = run(&Job { save_weights: Some(trials.weights("whole")), save_states: None, ..job.clone() }, |_, _| {});
    assert_eq!(whole.outcome, Outcome::Completed);

    let first = interrupt(&job, Phase::WarmUp);
    assert_eq!(first.outcome, Outcome::Cancelled);
    let (step, state) = first.saved.last().unwrap().clone();
    assert!((1..STEPS).contains(&step), "{step}");
    let second = interrupt(&Job { resume: Some(state), ..job.clone() }, Phase::Train);
    let (later, state) = second.saved.last().unwrap().clone();
    assert!(later > step && later < STEPS, "{later} after {step}");
    assert_eq!(second.training.losses.len() as u32, later);
    let third = interrupt(&Job { resume: Some(state), ..job.clone() }, Phase::Evaluate);
    let (last, state) = third.saved.last().unwrap().clone();
    assert_eq!(last, STEPS);
    let fourth = Job { resume: Some(state), save_weights: Some(trials.weights("pieces")), ..job };
    let fourth = run(&fourth, |_, _| {});
    assert_eq!(fourth.outcome, Outcome::Completed);
    assert!(!fourth.phases.contains(&Phase::Train), "training was done: {:?}", fourth.phases);

    same_file(&trials.weights("whole"), &trials.weights("pieces"));
    assert_eq!(whole.training.losses, fourth.training.losses);
    assert_eq!(whole.training.top1_percent, fourth.training.top1_percent);
    assert_eq!(whole.training.evaluation_loss, fourth.training.evaluation_loss);
    assert_eq!(whole.training.recomputed_blocks, fourth.training.recomputed_blocks);
    for phase in [Phase::WarmUp, Phase::Train, Phase::Evaluate] {
        assert_eq!(
            steps(&whole.training, phase),
            steps(&fourth.training, phase),
            "{phase:?}: nothing is counted twice"
        );
    }
}

#[test]
fn full_fine_tuning() {
    resumes_bit_for_bit(&json!({ "name": "full" }), "none");
}

#[test]
fn full_fine_tuning_with_checkpointing() {
    resumes_bit_for_bit(&json!({ "name": "full" }), "static");
}

/// With dropout, so that the random numbers of a step are part of what has to be the same.
fn lora() -> serde_json::Value {
    json!({ "name": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.2, "targets": ["fc1", "qkv"] })
}

#[test]
fn low_rank_adapters() {
    resumes_bit_for_bit(&lora(), "none");
}

#[test]
fn low_rank_adapters_with_checkpointing() {
    resumes_bit_for_bit(&lora(), "static");
}

fn qlora() -> serde_json::Value {
    json!({ "name": "qlora", "rank": 4, "alpha": 8.0, "dropout": 0.2, "targets": ["fc1", "qkv"], "block": 64,
            "double_quantization": true })
}

#[test]
fn packed_layers() {
    resumes_bit_for_bit(&qlora(), "none");
}

#[test]
fn packed_layers_with_checkpointing() {
    resumes_bit_for_bit(&qlora(), "static");
}

/// Ranks are taken away all along, so that the allocator's averages are part of the state.
fn adalora() -> serde_json::Value {
    json!({ "name": "adalora", "init_rank": 6, "target_rank": 3, "alpha": 8.0, "dropout": 0.2,
            "targets": ["fc1", "qkv"], "tinit": 1, "tfinal": 3, "delta_t": 2, "beta1": 0.85, "beta2": 0.85,
            "orthogonal_weight": 0.5 })
}

#[test]
fn adapters_of_changing_rank() {
    resumes_bit_for_bit(&adalora(), "none");
}

#[test]
fn adapters_of_changing_rank_with_checkpointing() {
    resumes_bit_for_bit(&adalora(), "static");
}

#[test]
fn biases() {
    resumes_bit_for_bit(&json!({ "name": "bitfit" }), "none");
}

#[test]
fn biases_with_checkpointing() {
    resumes_bit_for_bit(&json!({ "name": "bitfit" }), "static");
}

#[test]
fn states_are_saved_now_and_then_and_do_not_change_the_result() {
    let trials = Trials::new();
    let job = trials.job(&json!({ "name": "bitfit" }), "none");
    let plain = run(&Job { save_weights: Some(trials.weights("plain")), save_states: None, ..job.clone() }, |_, _| {});
    // As often as the share of the time allows.
    let often = Some(SaveStates { dir: trials.dir.path().join("states"), every_seconds: 0.0 });
    let saving = run(&Job { save_weights: Some(trials.weights("saving")), save_states: often, ..job }, |_, _| {});
    assert!(plain.saved.is_empty() && !saving.saved.is_empty());
    same_file(&trials.weights("plain"), &trials.weights("saving"));
    assert_eq!(steps(&plain.training, Phase::Train), steps(&saving.training, Phase::Train));
}

#[test]
fn a_state_that_cannot_be_used_is_refused_with_the_reason_and_the_trial_starts_over() {
    let trials = Trials::new();
    let job = trials.job(&json!({ "name": "bitfit" }), "none");
    let whole = run(&Job { save_weights: Some(trials.weights("whole")), save_states: None, ..job.clone() }, |_, _| {});
    let (_, state) = interrupt(&job, Phase::Train).saved.last().unwrap().clone();
    let bytes = std::fs::read(&state).unwrap();
    let text = |from: &str, to: &str| {
        let mut bytes = bytes.clone();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cell = job.settings.id().to_string();
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("cut", bytes[..bytes.len() - 9].to_vec(), "cut short"),
        ("flipped", flipped, "crc32"),
        (
            "version",
            text("fleet.state/2", "fleet.state/9"),
            "expected format \"fleet.state/2\", found \"fleet.state/9\"",
        ),
        ("other", text(&cell, &cell.chars().rev().collect::<String>()), "expected cell"),
        ("empty", Vec::new(), "cut short"),
    ];
    for (name, content, words) in cases {
        let file = trials.dir.path().join(format!("{name}.safetensors"));
        std::fs::write(&file, &content).unwrap();
        let resumed = Job { resume: Some(file.clone()), save_weights: Some(trials.weights(name)), ..job.clone() };
        let ended = run(&resumed, |_, _| {});
        assert_eq!(ended.outcome, Outcome::Completed, "{name}");
        assert!(matches!(&ended.refused[..], [why] if why.contains(words)), "{name}: {:?}", ended.refused);
        assert_eq!(std::fs::read(&file).unwrap(), content, "nothing is overwritten");
        same_file(&trials.weights("whole"), &trials.weights(name));
        assert_eq!(ended.training.losses, whole.training.losses);
    }
    let absent = Job { resume: Some("/nowhere/state.safetensors".into()), ..job };
    assert!(run(&absent, |_, _| {}).refused[0].contains("No such file"));
}
