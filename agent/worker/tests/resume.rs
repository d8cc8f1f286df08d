//! A trial that was interrupted ends with the same weights, bit for bit, as one that was not: every method, with and
//! without checkpointing, interrupted while it trains and while it is evaluated. The trials are worker processes, talked
//! to as the daemon does.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use fleet_common::plan::CellSettings;
use fleet_common::record::{Outcome, Training};
use fleet_common::worker::{Event, Job, JobDevice, Phase, STOP, SaveStates};
use fleet_dataset::synth::{TextureSet, TextureSpec, write};
use serde_json::json;

const STEPS: u32 = 14;

struct Trials {
    dir: tempfile::TempDir,
}

/// What a worker said.
struct Ended {
    outcome: Outcome,
    training: Training,
    /// States, by steps done.
    saved: Vec<(u32, PathBuf)>,
    refused: Vec<String>,
    phases: Vec<Phase>,
}

impl Trials {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 9, size: 64 };
        write(&dir.path().join("textures"), &spec, &mut |_, _| {}).unwrap();
        Self { dir }
    }

    fn job(&self, method: &serde_json::Value, checkpointing: &str) -> Job {
        let settings: CellSettings = serde_json::from_value(json!({
            "definition": 1, "method": method, "backbone": "vit_micro", "image_size": 64, "checkpointing": checkpointing,
            "dataset": { "name": "textures", "fingerprint": "ab", "classes": 8 }, "weights": { "from": "scratch" },
            "seed": 3, "budget_bytes": null,
            "train": { "steps": STEPS, "warm_up_steps": 2, "batch": 6, "learning_rate": 0.003, "weight_decay": 0.05,
                       "sampling": "shuffle", "augment": true },
            "evaluate": { "batch": 1 }
        }))
        .unwrap();
        Job {
            settings,
            device: JobDevice::Cpu,
            threads: 1,
            data_dir: self.dir.path().to_owned(),
            dataset: "textures".to_owned().try_into().unwrap(),
            weights: None,
            save_weights: None,
            save_states: Some(SaveStates { dir: self.dir.path().join("states"), every_seconds: 1e6 }),
            resume: None,
        }
    }

    fn weights(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("weights.safetensors")
    }
}

/// Runs a worker to its end; `ask` may write to it after each event.
fn run(job: &Job, mut ask: impl FnMut(&Event, &mut ChildStdin)) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fleet-worker"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", serde_json::to_string(job).unwrap()).unwrap();
    let (mut saved, mut refused, mut phases) = (Vec::new(), Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Event = serde_json::from_str(&line.unwrap()).unwrap();
        ask(&event, &mut stdin);
        match event {
            Event::Saved { step, file, .. } => saved.push((step, file)),
            Event::StateRefused { reason } => refused.push(reason),
            Event::Phase { phase, .. } => phases.push(phase),
            Event::Finished { outcome, training, .. } => {
                child.wait().unwrap();
                return Ended { outcome, training: *training, saved, refused, phases };
            }
            Event::Progress { .. } | Event::Memory { .. } => {}
        }
    }
    panic!("the worker ended without a result: {:?}", child.wait());
}

/// Runs a worker until it is in `phase` and has done something there, then asks it to stop.
fn interrupt(job: &Job, phase: Phase) -> Ended {
    let mut asked = false;
    run(job, |event, stdin| {
        if !asked && matches!(event, Event::Progress { phase: p, .. } if *p == phase) {
            asked = true;
            writeln!(stdin, "{STOP}").unwrap();
        }
    })
}

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
            text("fleet.state/1", "fleet.state/9"),
            "expected format \"fleet.state/1\", found \"fleet.state/9\"",
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
