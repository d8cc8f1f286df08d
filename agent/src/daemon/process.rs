//! A worker process: started with a job, listened to, ended.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use fleet_common::worker::{Event, Job, STOP};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::ask;
use crate::device::{DeviceLock, Slot};

/// A line from a worker is never longer: losses of a long training are the largest part.
const LAST_LINES: usize = 8;

/// A worker at work.
pub(super) struct Worker {
    child: Child,
    /// Kept open: its end tells the worker that the daemon is gone.
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Worker {
    /// Starts `program` on `job`; what it logs goes to the file `log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) async fn start(
        program: &Path,
        job: &Job,
        slot: &Slot,
        lock: &DeviceLock,
        log: &Path,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let log_file = std::fs::File::create(log).with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file).kill_on_drop(true);
        command.envs(ask::spin());
        if let Some(gpu) = &slot.gpu {
            command.env("CUDA_VISIBLE_DEVICES", &gpu.uuid);
        }
        lock.inherit(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot start the worker {}", program.display()))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the worker has no pipes");
        };
        let mut line = serde_json::to_vec(job)?;
        line.push(b'\n');
        // A worker that dies at once is told apart by its exit, not by a broken pipe.
        let _ = stdin.write_all(&line).await;
        Ok(Self { child, stdin, lines: BufReader::new(stdout).lines(), log: log.to_owned() })
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The next event; `None` once the worker has closed its output. Lines that are no events are skipped.
    pub(super) async fn next(&mut self) -> Option<Event> {
        while let Ok(Some(line)) = self.lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(event) => return Some(event),
                Err(error) => tracing::warn!(%error, "the worker said something that is no event"),
            }
        }
        None
    }

    /// Asks the worker to save its state and end.
    pub(super) async fn ask_to_stop(&mut self) {
        // One that has ended needs no asking.
        let _ = self.stdin.write_all(format!("{STOP}\n").as_bytes()).await;
    }

    /// Ends the process and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Waits for the end, and says how it came about in words.
    pub(super) async fn wait(&mut self) -> String {
        let how = match self.child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("it cannot be waited for: {error}"),
        };
        let tail = tail(&self.log);
        if tail.is_empty() { how } else { format!("{how}; its last words: {tail}") }
    }
}

fn describe(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (_, Some(libc::SIGKILL)) => {
            "the worker was killed (signal 9); if nobody did, the machine ran out of memory".to_owned()
        }
        (_, Some(signal)) => format!("the worker was ended by signal {signal}"),
        (Some(127), _) => "the worker could not be loaded".to_owned(),
        (Some(code), _) => format!("the worker ended with code {code} before its result"),
        (None, None) => "the worker ended in an unknown way".to_owned(),
    }
}

/// The last lines of a log, on one line.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b[b.len().saturating_sub(4096)..]).into_owned());
    let text = text.unwrap_or_default();
    let mut last: VecDeque<&str> = VecDeque::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        last.push_back(line);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    last.into_iter().collect::<Vec<_>>().join(" | ")
}
