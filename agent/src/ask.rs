//! Questions to the worker program, which links libtorch where this one does not.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fleet_common::worker::Check;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How often one who waits is told so.
const TICK: Duration = Duration::from_secs(1);

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
    answer(&worker.output().map_err(not_started)?)
}

/// Runs a worker that reads one line of JSON and answers with one; `waiting` is told once a second for how long it has
/// been at work.
///
/// # Errors
/// It cannot be started, or ended without an answer; in words.
pub fn ask_with<T: DeserializeOwned>(
    worker: &mut Command,
    request: &impl Serialize,
    mut waiting: impl FnMut(Duration),
) -> Result<T, String> {
    let mut line = serde_json::to_vec(request).map_err(|e| format!("the request cannot be written: {e}"))?;
    line.push(b'\n');
    let begun = Instant::now();
    let mut child =
        worker.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(not_started)?;
    // Kept open until the answer is there: its end would tell the worker that nobody waits for one. What cannot be
    // written was not wanted; the worker's end then says why.
    let mut stdin = child.stdin.take();
    if let Some(pipe) = &mut stdin {
        let _ = pipe.write_all(&line).and_then(|()| pipe.flush());
    }
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    loop {
        match ended.recv_timeout(TICK) {
            Ok(output) => return answer(&output.map_err(|e| format!("it cannot be waited for: {e}"))?),
            Err(mpsc::RecvTimeoutError::Timeout) => waiting(begun.elapsed()),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("nobody waits for it any more".to_owned()),
        }
    }
}

/// libgomp's threads spin while they wait, by default for a long time. With anything else on the machine, decoding
/// threads among it, that made a step seven times slower on two cores; a short spin costs nothing on an idle one. What
/// the user has set is meant.
pub(crate) fn spin() -> Option<(&'static str, &'static str)> {
    const NAME: &str = "GOMP_SPINCOUNT";
    std::env::var_os(NAME).is_none().then_some((NAME, "1000"))
}

fn not_started(error: std::io::Error) -> String {
    format!("it cannot be started: {error}")
}

/// The line of JSON on standard output, or how it ended and its last words.
fn answer<T: DeserializeOwned>(output: &Output) -> Result<T, String> {
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
        format!("{}: {last}", output.status)
    })
}
