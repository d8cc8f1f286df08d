//! Downloads on a terminal: a bar, or in a log a line now and then; and Ctrl-C.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use fleet_common::units::{self, Bytes};
use fleet_download::DownloadError;
use fleet_download::fetch::Event;
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;

/// In a log, progress is told this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Runs what blocks beside the runtime. Ctrl-C ends the command at once: files that are not whole have other names.
pub(super) async fn run(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => {
            done.unwrap_or_else(|e| Err(Failure::failed(format!("the download ended unexpectedly: {e}"))))
        }
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::Interrupted("interrupted; what has come is kept, and the same command goes on".into()))
        }
    }
}

impl From<DownloadError> for Failure {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Address { .. } | DownloadError::Layout { .. } => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

/// Shows one file's way here.
pub(super) struct Show {
    name: String,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Show {
    pub(super) fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
            ProgressBar::no_length()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(name.to_owned())
        });
        Self { name: name.to_owned(), bar, told: Instant::now() }
    }

    /// Something happened.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Have { bytes, of } => self.amount("", bytes, of),
            Event::GoesOn { bytes } => {
                if let Some(bar) = &self.bar {
                    // What was there says nothing about the speed.
                    bar.set_position(bytes);
                    bar.reset_eta();
                }
                self.line(&format!("{} are here; going on with the rest", Bytes(bytes)));
            }
            Event::StartsOver { why } => self.line(&format!("{why}; starting over")),
            Event::Pauses { why, pause } => {
                self.line(&format!("{why}; trying again in {}", units::duration(pause.as_secs_f64())));
            }
            Event::Checks => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                self.line("all is here; checking it");
            }
        }
    }

    /// So much of something is done.
    pub(super) fn amount(&mut self, doing: &str, bytes: u64, of: Option<u64>) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            if let Some(of) = of {
                bar.set_length(of);
            }
            bar.set_position(bytes);
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            let of = of.map(|of| format!(" of {}", Bytes(of))).unwrap_or_default();
            eprintln!("{}: {doing}{}{of}", self.name, Bytes(bytes));
        }
    }

    /// Something worth a line, above the bar where there is one.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{}: {text}", self.name)),
            None => eprintln!("{}: {text}", self.name),
        }
    }
}
