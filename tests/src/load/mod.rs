//! `make bench-samples`: what a coordinator does with the samples of many trials at once.
//!
//! | file | |
//! |---|---|
//! | `readings` | what simulated machines read: every value follows from its place |
//! | `machines` | simulated agents that hold trials, introduced and leased to as real ones are |
//! | `stream` | one trial's samples on their way, with the time until each batch was acknowledged |
//! | `check` | what is stored beside what was sent |
//! | `process` | the coordinator's process: what it costs |

mod check;
mod machines;
mod process;
mod readings;
mod stream;

pub use check::{Found, check};
pub use machines::{Held, Machines};
pub use process::{Cost, Serving, cpu_of, on_disk, on_loopback};
pub use stream::{Told, stream};

/// How much load, for how long.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Trials that run at once, each with a stream of its own.
    pub trials: usize,
    /// Readings of every series per second.
    pub hertz: u64,
    /// For how long, seconds.
    pub seconds: u64,
    /// Send as agents did before they compressed.
    pub plain: bool,
}

impl Load {
    /// Samples per trial and second, which agents send as one batch.
    pub fn per_batch(&self) -> u64 {
        self.hertz * readings::SERIES.len() as u64
    }

    /// Samples per trial.
    pub fn per_trial(&self) -> u64 {
        self.per_batch() * self.seconds
    }

    /// Samples of all trials.
    pub fn all(&self) -> u64 {
        self.per_trial() * self.trials as u64
    }
}
