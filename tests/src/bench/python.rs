//! A row in timm, peft and torch: tests/bench/steps.py in the environment of tests/bench/set-up.sh.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::data::CLASSES;
use super::ours::WEIGHT_DECAY;
use super::{Row, Setting};

/// How glibc is made to give freed memory back, so that a peak of resident memory is one of live memory. It costs time,
/// so the time is taken without.
const RETURN_MEMORY: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// Whether glibc keeps freed memory for later, as it does by default, or returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    Kept,
    Returned,
}

/// A process with the row's model, trained for its warm-up steps.
pub(super) struct Python {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    pub ready: Ready,
}

/// What it says when it is ready.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub(super) struct Ready {
    /// Resident bytes before the model.
    pub baseline: u64,
    pub trainable: u64,
    pub python: String,
    pub versions: BTreeMap<String, String>,
}

/// What it says of some steps.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Steps {
    /// Of each step.
    pub seconds: Vec<f64>,
    /// Peak of resident bytes so far.
    pub peak: u64,
}

impl Python {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// In words; what Python says itself goes to standard error.
    pub(super) fn start(row: &Row, setting: &Setting, freed: Freed) -> Result<Self, String> {
        let asked = json!({
            "backbone": row.backbone, "image_size": row.backbone.image_size(), "batch": row.batch,
            "method": row.method_settings()?, "checkpointing": row.checkpointing, "classes": CLASSES,
            "learning_rate": row.method.default_learning_rate(), "weight_decay": WEIGHT_DECAY,
            "threads": setting.threads, "device": setting.device, "scan": row.scan.name(), "warm_up_steps": row.python_warm_up(),
        });
        let interpreter = &setting.python;
        let mut command = Command::new(interpreter);
        command.arg(setting.root.join("tests/bench/steps.py")).arg(asked.to_string());
        if freed == Freed::Returned {
            command.envs(RETURN_MEMORY);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{} cannot be started ({e}): run tests/bench/set-up.sh", interpreter.display()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("Python has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = read(&mut lines);
        let mut python = Self { child, stdin, lines, ready: Ready::default() };
        // Where it failed, too, dropping the value ends the process.
        python.ready = ready.map_err(|e| format!("Python, at {row}: {e}"))?;
        Ok(python)
    }

    /// Has it take some steps.
    ///
    /// # Errors
    /// In words: it ended, or said something else.
    pub(super) fn steps(&mut self, n: u32) -> Result<Steps, String> {
        let stdin = self.stdin.as_mut().ok_or("Python has no standard input")?;
        writeln!(stdin, "{n}").map_err(|e| format!("Python does not listen: {e}"))?;
        read(&mut self.lines)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read<T: for<'de> Deserialize<'de>>(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<T, String> {
    let line = lines.next().ok_or("it ended; what went wrong is above")?.map_err(|e| e.to_string())?;
    serde_json::from_str(&line).map_err(|e| format!("expected a line of JSON, found \"{line}\" ({e})"))
}

/// What tests/bench/set-up.sh makes.
pub fn interpreter(root: &Path) -> PathBuf {
    root.join(".bench/venv/bin/python")
}
