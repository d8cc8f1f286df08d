//! A fleet on one machine, in a folder of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{processes, program, textures};

/// Nothing here takes as long as this; a test that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with data and state, and the programs to run in it.
pub struct Fleet {
    dir: tempfile::TempDir,
    marker: String,
}

/// What a command that has ended said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The JSON document that it printed.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}):\n{}\n{}", self.stdout, self.stderr))
    }

    /// Asserts the exit code.
    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that standard error says all of this.
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "lacks \"{part}\":\n{}", self.stderr);
        }
        self
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// An empty folder with a texture set.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let marker = format!("FLEET_TEST={}", dir.path().display());
        let fleet = Self { dir, marker };
        textures(&fleet.data(), "textures");
        fleet
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Writes a campaign file of very short trials; `more` is put in front of `[matrix]`, `tail` at the end.
    pub fn campaign(&self, name: &str, seeds: u32, more: &str, tail: &str) -> PathBuf {
        let seeds: Vec<String> = (0..seeds).map(|s| s.to_string()).collect();
        let text = format!(
            "name = \"{name}\"\nseeds = [{}]\nbudget = \"1GiB\"\n{more}\n[matrix]\nmethod = [\"full\", \"lora\", \"bitfit\"]\n\
             backbone = \"vit_micro\"\ncheckpointing = [\"none\", \"static\"]\ndataset = \"textures\"\n\
             [train]\nsteps = 4\nbatch = 4\nwarm_up_steps = 1\n[evaluate]\nlimit = 8\n{tail}",
            seeds.join(", ")
        );
        self.file(&format!("{name}.toml"), &text)
    }

    /// Writes a file.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A command with this folder as its own, and marked so that its processes can be found.
    pub fn command(&self, name: &str) -> Command {
        self.prepare(Command::new(program(name)))
    }

    fn prepare(&self, mut command: Command) -> Command {
        self.here(&mut command);
        command
    }

    /// Gives a command this folder as its own.
    pub fn here<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let (key, value) = self.marker.split_once('=').unwrap();
        command
            .current_dir(self.path())
            .env(key, value)
            .env("FLEET_LOCK_DIR", self.path().join("locks"))
            .env("FLEET_DATA", self.data())
            .env("FLEET_METER_CACHE", self.path().join("meters"))
            // A minute before the first trial; the tests of it say so.
            .env("FLEET_CHARACTERISE", "never")
            .env("FLEET_HWMON", self.path().join("no-hwmon"))
            // Whoever runs the tests may have joined a fleet.
            .env("FLEET_IDENTITY", self.path().join("identity.pem"))
            .env_remove("FLEET_COORDINATOR")
            .env_remove("FLEET_JOIN_TOKEN")
            .env_remove("FLEET_WEIGHTS")
            .stdin(Stdio::null())
    }

    /// Runs a command to its end.
    pub fn run(&self, name: &str, args: &[&str]) -> Output {
        let mut command = self.command(name);
        command.args(args);
        finish(&mut command)
    }

    /// The same, with more said to the command.
    pub fn run_with(&self, name: &str, args: &[&str], more: impl FnOnce(&mut Command)) -> Output {
        let mut command = self.command(name);
        more(command.args(args));
        finish(&mut command)
    }

    /// `fleet` to its end.
    pub fn fleet(&self, args: &[&str]) -> Output {
        self.run("fleet", args)
    }

    /// Pids of this fleet's processes called `name`.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        processes::with_marker(name, &self.marker)
    }

    /// Asserts that no worker is left, allowing a moment for the last one to notice that its daemon is gone.
    pub fn no_worker_is_left(&self) {
        wait_until("workers to end", || self.processes("fleet-worker").is_empty());
    }
}

/// A limit on the size of files stands in for a full disk: the kernel refuses the write in the same place.
pub fn with_small_files(kib: u32, program: &Path) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\""), "bash"]).arg(program);
    command
}

/// Runs a command to its end, with a limit.
pub fn finish(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |from: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.unwrap().read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|o| Box::new(o) as _));
    let stderr = read(child.stderr.take().map(|o| Box::new(o) as _));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{command:?} hangs; stderr:\n{}", stderr.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { code: status.code().unwrap_or(-1), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A coordinator process; killed when dropped.
pub struct Coordinator {
    child: Child,
    /// Its address.
    pub url: String,
}

impl Coordinator {
    /// Starts one on `listen` (port 0: any), with more arguments.
    pub fn start(fleet: &Fleet, listen: &str, more: &[&str]) -> Self {
        Self::start_as(fleet, Command::new(program("fleet")), listen, more)
    }

    /// Starts one with another command in front.
    pub fn start_as(fleet: &Fleet, command: Command, listen: &str, more: &[&str]) -> Self {
        let mut command = fleet.prepare(command);
        command.args(["serve", "--state", "coordinator", "--listen", listen]).args(more);
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(fleet.path().join("coordinator.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            let log = std::fs::read_to_string(fleet.path().join("coordinator.log")).unwrap();
            panic!("the coordinator did not start: {log}");
        };
        Self { url: url.to_owned(), child }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as an operator does; returns its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        terminate(&mut self.child)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An agent's daemon; killed when dropped.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts one for `coordinator`, with its state in the folder `state`.
    pub fn start(fleet: &Fleet, coordinator: &str, state: &str, more: &[&str]) -> Self {
        Self::start_as(fleet, Command::new(program("fleet-agent")), coordinator, state, more)
    }

    /// Starts one with another command in front.
    pub fn start_as(fleet: &Fleet, command: Command, coordinator: &str, state: &str, more: &[&str]) -> Self {
        let log = fleet.path().join(format!("{state}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = fleet.prepare(command);
        command.args(["run", "--coordinator", coordinator, "--state", state, "--devices", "cpu"]).args(more);
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, log }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has ended by itself; returns its exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as an operator does; returns its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        terminate(&mut self.child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminate(child: &mut Child) -> Option<i32> {
    // SAFETY: sends a signal to our own child, which has not been waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("SIGTERM did not end the process");
}
