//! A coordinator's process, as all tests here start one.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program.
pub(crate) const FLEET: &str = env!("CARGO_BIN_EXE_fleet");

/// A coordinator that serves; killed when dropped.
pub(crate) struct Serving {
    pub(crate) child: Child,
    /// Where, with the scheme.
    pub(crate) url: String,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Serving {
    /// Runs `command` with its log behind what is in `log`, and waits until it serves.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut serving = Self { child, url: String::new(), lines };
        serving.url = serving.says("listening on ");
        serving
    }

    /// The rest of the next line, which begins so.
    pub(crate) fn says(&mut self, start: &str) -> String {
        let line = self.lines.next().expect("a line").expect("text");
        line.strip_prefix(start).unwrap_or_else(|| panic!("expected {start} in {line}")).to_owned()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.kill();
    }
}
