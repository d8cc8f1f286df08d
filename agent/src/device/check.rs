//! What libtorch can do here: the worker program is asked, because this one does not link it.

use std::path::Path;
use std::process::Command;

use fleet_common::worker::Check;

/// Asks `worker`; `gpu` is the UUID of the only board that it may see.
///
/// # Errors
/// It cannot be started, or ended without an answer; in words.
pub fn ask(worker: &Path, gpu: Option<&str>) -> Result<Check, String> {
    let mut command = Command::new(worker);
    command.arg("--check");
    if let Some(uuid) = gpu {
        command.env("CUDA_VISIBLE_DEVICES", uuid);
    }
    let output = command.output().map_err(|e| format!("it cannot be started: {e}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
        format!("{}: {last}", output.status)
    })
}
