//! The coordinator as a process of its own, started as a person starts it, and what the kernel says that it costs.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::bench::most_resident;

/// `fleet serve`, running; killed when dropped.
pub struct Serving {
    child: Child,
    /// Its address.
    pub url: String,
}

/// What a process has taken so far.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds of one CPU.
    pub cpu: f64,
    /// The most memory that it had at once, bytes.
    pub resident: u64,
}

impl Serving {
    /// Starts one with its state in `state`.
    ///
    /// # Errors
    /// It does not start; its own words are on standard error.
    pub fn start(program: &Path, state: &Path) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(state);
        command.env("FLEET_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        let cannot = |e: std::io::Error| format!("cannot start {}: {e}", program.display());
        let mut child = command.spawn().map_err(cannot)?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("the coordinator has no standard output")?;
        BufReader::new(out).read_line(&mut line).map_err(cannot)?;
        let url = line.trim().strip_prefix("listening on ").ok_or("the coordinator did not start")?;
        Ok(Self { url: url.to_owned(), child })
    }

    /// What it has taken so far.
    pub fn cost(&self) -> Cost {
        let pid = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Cost { cpu: cpu_seconds(&stat).unwrap_or(f64::NAN), resident: most_resident(pid).unwrap_or(0) }
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as an operator does.
    ///
    /// # Errors
    /// It does not end by itself within a minute.
    pub fn terminate(mut self) -> Result<(), String> {
        // SAFETY: sends a signal to our own child, which has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        for _ in 0..600 {
            if self.child.try_wait().map_err(|e| e.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("the coordinator does not end".to_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process so far, seconds.
pub fn cpu_of(pid: u32) -> Option<f64> {
    cpu_seconds(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// User and system time of a /proc/PID/stat, seconds. The name in front of them may hold anything but its last bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // The kernel's unit for this file is a hundredth of a second on every architecture that we build for.
    Some((ticks()? + ticks()?) as f64 / 100.0)
}

/// Bytes that all files below a folder have.
pub fn on_disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(there) if there.is_dir() => on_disk(&entry.path()),
            Ok(there) => there.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Bytes that went over the loopback interface so far, with all headers; those of other processes are among them.
pub fn on_loopback() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 2135 0 2 0 150 50 0 0 20 0 7 0 1234 5678 90";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("12 (a"), None);
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("a")).expect("makes");
        std::fs::write(dir.path().join("a/b"), [0; 70]).expect("writes");
        std::fs::write(dir.path().join("c"), [0; 7]).expect("writes");
        assert_eq!((on_disk(dir.path()), on_disk(&dir.path().join("none"))), (77, 0));
        let before = on_loopback();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.send_to(&[0; 500], socket.local_addr().expect("an address")).expect("sends");
        assert!(on_loopback() >= before + 500);
    }
}
