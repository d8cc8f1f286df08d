//! What the worker tells the daemon: one JSON value per line on standard output.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use fleet_common::record::{Outcome, Training};
use fleet_common::telemetry::MonoNanos;
use fleet_common::worker::{Event, Phase};

/// Progress is told this often at most; phases and the end at once.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// The line to the daemon; shared by the trial and the memory sampler.
pub struct Events {
    out: Mutex<Box<dyn Write + Send>>,
    told: Mutex<Option<Instant>>,
}

impl Events {
    /// Writes to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Mutex::new(Box::new(out)), told: Mutex::new(None) }
    }

    fn send(&self, event: &Event) {
        self.line(event);
    }

    /// Writes any value as one line of JSON.
    pub fn line(&self, value: &impl serde::Serialize) {
        let mut line = serde_json::to_vec(value).expect("our own types are JSON");
        line.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A daemon that is gone closes our standard input too, and that ends the process.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }

    pub(super) fn phase(&self, phase: Phase) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.send(&Event::Phase { phase, at: now() });
    }

    pub(super) fn progress(&self, phase: Phase, done: u64, of: u64, loss: Option<f64>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if done < of && told.is_some_and(|t| t.elapsed() < PROGRESS_EVERY) {
            return;
        }
        *told = Some(Instant::now());
        self.send(&Event::Progress { phase, done, of, loss });
    }

    /// A reading of the allocator.
    pub fn memory(&self, live: u64) {
        self.send(&Event::Memory { at: now(), live });
    }

    pub(super) fn saved(&self, step: u32, file: &Path) {
        self.send(&Event::Saved { at: now(), step, file: file.to_owned() });
    }

    pub(super) fn state_refused(&self, reason: String) {
        self.send(&Event::StateRefused { reason });
    }

    /// The end of the trial.
    pub fn finished(&self, outcome: Outcome, training: Training) {
        self.send(&Event::Finished { at: now(), outcome, training: Box::new(training) });
    }
}

/// The machine's monotonic clock, which the daemon reads too.
pub(crate) fn now() -> MonoNanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the struct it is given; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    MonoNanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
