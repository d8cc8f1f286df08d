//! A row in transformers or open_clip: tests/bench/frozen.py in the environment of tests/bench/set-up.sh.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::rows::Row;

/// A process with the row's model, which has run once.
pub(crate) struct Python {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) parameters: u64,
    pub(crate) versions: String,
}

#[derive(Deserialize)]
struct Ready {
    parameters: u64,
    versions: String,
}

#[derive(Deserialize)]
struct Timed {
    seconds: Vec<f64>,
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The interpreter, where it has been set up.
pub(crate) fn interpreter() -> Option<PathBuf> {
    Some(root().join(".bench/venv/bin/python")).filter(|python| python.exists())
}

impl Python {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// In words; what Python says itself goes to standard error.
    pub(crate) fn start(interpreter: PathBuf, row: &Row, threads: i32) -> Result<Self, String> {
        let asked = json!({ "row": row, "threads": threads });
        let mut child = Command::new(interpreter)
            .arg(root().join("tests/bench/frozen.py"))
            .arg(asked.to_string())
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("Python cannot be started: {e}"))?;
        let stdin = child.stdin.take().ok_or("Python has no standard input")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("Python has no standard output")?).lines();
        let ready: Result<Ready, String> = read(&mut lines);
        let mut python = Self { child, stdin, lines, parameters: 0, versions: String::new() };
        // Where it failed, too, dropping the value ends the process.
        let ready = ready?;
        (python.parameters, python.versions) = (ready.parameters, ready.versions);
        Ok(python)
    }

    /// Mean seconds of so many runs.
    ///
    /// # Errors
    /// In words: it ended, or said something else.
    pub(crate) fn window(&mut self, runs: u32) -> Result<f64, String> {
        writeln!(self.stdin, "{runs}").map_err(|e| format!("Python does not listen: {e}"))?;
        let Timed { seconds } = read(&mut self.lines)?;
        Ok(seconds.iter().sum::<f64>() / seconds.len() as f64)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read<T: for<'de> Deserialize<'de>>(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<T, String> {
    let line = lines.next().ok_or("Python ended; what went wrong is above")?.map_err(|e| e.to_string())?;
    serde_json::from_str(&line).map_err(|e| format!("expected a line of JSON from Python, found \"{line}\" ({e})"))
}
