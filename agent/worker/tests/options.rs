//! What a campaign may ask of the training loop beyond the protocol.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use fleet_common::record::Outcome;
use fleet_common::spec::Schedule;
use fleet_common::worker::{Job, Phase};
use serde_json::json;
use support::trials::{STEPS, Trials, run};

fn peak(training: &fleet_common::record::Training) -> u64 {
    training.phases.iter().find(|p| p.phase == Phase::Train).unwrap().peak_bytes
}

#[test]
fn micro_batches_take_the_same_steps_with_less_memory() {
    let trials = Trials::new();
    let whole = trials.job(&json!({ "name": "full" }), "none");
    let mut parts = whole.clone();
    parts.settings.train.as_mut().expect("it trains").micro_batches = 3;
    let (whole, parts) = (run(&whole, |_, _| {}), run(&parts, |_, _| {}));
    assert_eq!((&whole.outcome, &parts.outcome), (&Outcome::Completed, &Outcome::Completed));
    // The sums are taken in another order; over the steps that difference grows.
    for (step, (a, b)) in whole.training.losses.iter().zip(&parts.training.losses).enumerate().take(4) {
        assert!((a - b).abs() < 1e-4, "step {step}: {a} {b}");
    }
    assert!(peak(&parts.training) < peak(&whole.training), "{} {}", peak(&parts.training), peak(&whole.training));
}

#[test]
fn a_schedule_and_a_clipped_gradient_change_the_steps_and_nothing_before_them() {
    let trials = Trials::new();
    let plain = trials.job(&json!({ "name": "full" }), "none");
    let with = |change: &dyn Fn(&mut Job)| {
        let mut job = plain.clone();
        change(&mut job);
        run(&job, |_, _| {}).training.losses
    };
    let constant = with(&|_| {});
    // Falling from the start: the first step is at the full rate, the second at less.
    let cosine = with(&|job| job.settings.train.as_mut().expect("it trains").schedule = Schedule::Cosine);
    assert_eq!(constant[..2], cosine[..2]);
    assert_ne!(constant[2..], cosine[2..]);
    // Rising to the end: the first step is one fourteenth of it.
    let ramp = with(&|job| job.settings.train.as_mut().expect("it trains").ramp_steps = STEPS);
    assert_eq!(constant[0], ramp[0]);
    assert_ne!(constant[1], ramp[1]);
    // A norm that no gradient reaches changes nothing, one that all exceed does.
    assert_eq!(constant, with(&|job| job.settings.train.as_mut().expect("it trains").clip_norm = Some(1e9)));
    let clipped = with(&|job| job.settings.train.as_mut().expect("it trains").clip_norm = Some(1e-3));
    assert_eq!(constant[0], clipped[0]);
    assert_ne!(constant[2], clipped[2]);
}

#[test]
fn weights_serve_another_input_size_and_the_record_says_so() {
    let trials = Trials::new();
    let trained = Job { save_weights: Some(trials.weights("64")), ..trials.job(&json!({ "name": "full" }), "none") };
    assert_eq!(run(&trained, |_, _| {}).outcome, Outcome::Completed);
    let mut job = trials.job(&json!({ "name": "bitfit" }), "static");
    job.weights = Some(trials.weights("64"));
    job.settings.image_size = 96;
    let ended = run(&job, |_, _| {});
    assert_eq!(ended.outcome, Outcome::Completed);
    let loaded = ended.training.loaded.unwrap();
    assert_eq!(loaded.resampled, ["pos_embed"]);
    assert!(loaded.missing.is_empty() && loaded.unexpected.is_empty() && loaded.replaced.is_empty(), "{loaded:?}");
    assert!(ended.training.macs > 84_740_608, "more patches, more work");
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let trials = Trials::new();
    let trained = Job { save_weights: Some(trials.weights("w")), ..trials.job(&json!({ "name": "full" }), "none") };
    run(&trained, |_, _| {});
    let file = trials.weights("w");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let mut job = trials.job(&json!({ "name": "full" }), "none");
    job.weights = Some(file);
    let Outcome::BadInput { message } = run(&job, |_, _| {}).outcome else { panic!("taken") };
    assert!(message.contains("not finite"), "{message}");
}
