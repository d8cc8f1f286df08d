//! What is asked for, and what comes back: campaigns of any number of trials, and records as long as real ones.

use fleet_common::record::{Outcome, SCHEMA, Training};
use fleet_common::wire::v1;
use serde_json::{Value, json};

/// Combinations of method, backbone and checkpointing: kinds of trial, which is what a scheduler tells apart.
const KINDS: usize = 20;
/// Losses in a record: with them it has about 7 kB, somewhat more than those of the demo.
const LOSSES: usize = 280;

/// A campaign file of `trials` trials, each a cell of its own.
///
/// # Errors
/// The number is none of twenty kinds times seeds.
pub fn campaign(name: &str, trials: usize) -> Result<String, String> {
    if trials == 0 || !trials.is_multiple_of(KINDS) {
        return Err(format!("expected a multiple of {KINDS} trials, found {trials}"));
    }
    let seeds: Vec<String> = (0..trials / KINDS).map(|seed| seed.to_string()).collect();
    Ok(format!(
        "name = \"{name}\"\nseeds = [{}]\nbudget = \"2GiB\"\n[matrix]\n\
         method = [\"full\", \"lora\", \"adalora\", \"qlora\", \"bitfit\"]\n\
         backbone = [\"vit_micro\", \"vit_tiny_patch16_224\"]\ncheckpointing = [\"none\", \"static\"]\n\
         dataset = \"textures\"\n[train]\nsteps = 2000\nbatch = 16\n",
        seeds.join(", ")
    ))
}

/// The data set that it names, as `fleet submit` resolves one.
pub(super) fn textures() -> v1::ResolvedDataset {
    let fingerprint = "ab".repeat(32);
    v1::ResolvedDataset { name: "textures".to_owned(), fingerprint, classes: 8, train: 480, test: 240 }
}

/// The record of a leased trial.
///
/// # Errors
/// The lease cannot be read.
pub(super) fn record(lease: &v1::Lease, agent: &str, slot: &str, hardware: &str) -> Result<Vec<u8>, String> {
    let trial = fleet_common::wire::trial(lease.trial.clone()).map_err(|e| e.to_string())?;
    let settings: Value = serde_json::from_str(&lease.settings_json).map_err(|e| e.to_string())?;
    let seed = settings["seed"].as_u64().unwrap_or(0);
    let loss = |step: usize| (1.0 + (seed as f32 + step as f32).sin() * 0.1) / (1.0 + step as f32 / 50.0);
    let training = Training { losses: (0..LOSSES).map(loss).collect(), ..Training::default() };
    let record = json!({
        "schema": SCHEMA, "trial": trial, "attempt": lease.attempt, "settings": settings,
        "outcome": Outcome::Completed, "training": training,
        "phases": [{"phase": "train", "seconds": 2.0, "energy": {"unavailable": "simulated"}},
                   {"phase": "evaluate", "seconds": 1.0, "energy": {"unavailable": "simulated"}}],
        "machine": {"agent": agent, "slot": slot, "hardware": hardware, "host": agent, "os": "Linux", "cpu": "simulated",
                    "cpus": 8, "memory_bytes": 8u64 << 30},
        "started_unix_ms": 1_700_000_000_000u64, "finished_unix_ms": 1_700_000_003_000u64, "samples_taken": 0,
    });
    serde_json::to_vec(&record).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn campaigns_have_as_many_trials_as_they_say() {
        let parsed = fleet_common::spec::Campaign::parse("c.toml", &campaign("c", 40).expect("a number of trials"));
        let parsed = parsed.expect("valid");
        assert_eq!(parsed.seeds.values(), [0, 1]);
        assert!(campaign("c", 30).is_err());
    }
}
