//! Trials in worker processes, talked to as the daemon does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};

use fleet_common::plan::CellSettings;
use fleet_common::record::{Outcome, Training};
use fleet_common::worker::{Event, Job, JobDevice, Phase, STOP, SaveStates};
use fleet_dataset::synth::{TextureSet, TextureSpec, write};
use serde_json::json;

/// Optimiser steps of every trial.
pub const STEPS: u32 = 14;

/// A folder with a texture set, and jobs on it.
pub struct Trials {
    pub dir: tempfile::TempDir,
}

/// What a worker said.
pub struct Ended {
    pub outcome: Outcome,
    pub training: Training,
    /// States, by steps done.
    pub saved: Vec<(u32, PathBuf)>,
    pub refused: Vec<String>,
    pub phases: Vec<Phase>,
}

impl Trials {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 9, size: 64 };
        write(&dir.path().join("textures"), &spec, &mut |_, _| {}).unwrap();
        Self { dir }
    }

    /// A job of [`STEPS`] steps.
    pub fn job(&self, method: &serde_json::Value, checkpointing: &str) -> Job {
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
            save_adapter: None,
            save_states: Some(SaveStates { dir: self.dir.path().join("states"), every_seconds: 1e6 }),
            resume: None,
        }
    }

    /// Where a trial may leave its weights.
    pub fn weights(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("weights.safetensors")
    }
}

/// Runs a worker to its end; `ask` may write to it after each event.
pub fn run(job: &Job, mut ask: impl FnMut(&Event, &mut ChildStdin)) -> Ended {
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
pub fn interrupt(job: &Job, phase: Phase) -> Ended {
    let mut asked = false;
    run(job, |event, stdin| {
        if !asked && matches!(event, Event::Progress { phase: p, .. } if *p == phase) {
            asked = true;
            writeln!(stdin, "{STOP}").unwrap();
        }
    })
}
