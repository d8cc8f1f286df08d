//! A load that is on and off in turns, put on a device by a worker.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use fleet_common::telemetry::MonoNanos;
use fleet_common::worker::{JobDevice, LoadEdge, LoadRequest};

use crate::device::Slot;

/// Eight turns of a period that no update period divides: enough to tell a window of a second from one of a tenth.
const TURNS: u32 = 8;
const ON_SECONDS: f64 = 1.10;
const OFF_SECONDS: f64 = 1.27;

/// Why there was no load; in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the load could not be run: {0}")]
pub struct LoadError(String);

/// A load on one slot's device.
#[derive(Debug, Clone)]
pub struct SquareLoad<'a> {
    /// The worker program.
    pub worker: &'a Path,
    /// The slot.
    pub slot: &'a Slot,
    /// CPU threads.
    pub threads: u32,
}

impl SquareLoad<'_> {
    /// Seconds that it takes, at least.
    pub const SECONDS: f64 = TURNS as f64 * (ON_SECONDS + OFF_SECONDS);

    /// Runs it to its end: when it was on.
    ///
    /// # Errors
    /// The worker cannot be started, or did not do what it should.
    pub fn run(&self) -> Result<Vec<(MonoNanos, MonoNanos)>, LoadError> {
        let failed = |e: std::io::Error| LoadError(e.to_string());
        let device = if self.slot.gpu.is_some() { JobDevice::Cuda } else { JobDevice::Cpu };
        let request = LoadRequest {
            device,
            threads: self.threads,
            turns: TURNS,
            on_seconds: ON_SECONDS,
            off_seconds: OFF_SECONDS,
        };
        let mut command = Command::new(self.worker);
        command.arg("--load").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(gpu) = &self.slot.gpu {
            command.env("CUDA_VISIBLE_DEVICES", &gpu.uuid);
        }
        let mut child = command.spawn().map_err(failed)?;
        // Kept open: its end would tell the worker that nobody waits for it.
        let mut stdin = child.stdin.take();
        let line = serde_json::to_string(&request).map_err(|e| LoadError(e.to_string()))?;
        if let Some(pipe) = &mut stdin {
            let _ = writeln!(pipe, "{line}").and_then(|()| pipe.flush());
        }
        let mut edges: Vec<LoadEdge> = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                edges.push(serde_json::from_str(&line).map_err(|e| LoadError(format!("the worker said {line}: {e}")))?);
            }
        }
        let ended = child.wait_with_output().map_err(failed)?;
        let on: Vec<(MonoNanos, MonoNanos)> = edges.iter().map(|e| (e.from, e.to)).collect();
        if ended.status.success() && on.len() == TURNS as usize {
            return Ok(on);
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("without a word").to_owned();
        Err(LoadError(format!("the worker ended ({}): {last}", ended.status)))
    }
}
