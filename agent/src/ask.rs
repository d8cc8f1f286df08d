//! Questions to the worker program, which links libtorch where this one does not.

use std::path::Path;
use std::process::Command;

use fleet_common::worker::Check;
use serde::de::DeserializeOwned;

/// What libtorch can do here; `gpu` is the UUID of the only board that it may see.
///
/// # Errors
/// It cannot be started, or ended without an answer; in words.
pub fn check(worker: &Path, gpu: Option<&str>) -> Result<Check, String> {
    let mut command = Command::new(worker);
    command.arg("--check");
    if let Some(uuid) = gpu {
        command.env("CUDA_VISIBLE_DEVICES", uuid);
    }
    ask(&mut command)
}

/// Runs a worker that answers with one line of JSON.
///
/// # Errors
/// It cannot be started, or ended without an answer; in words.
pub fn ask<T: DeserializeOwned>(worker: &mut Command) -> Result<T, String> {
    let output = worker.output().map_err(|e| format!("it cannot be started: {e}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
        format!("{}: {last}", output.status)
    })
}
