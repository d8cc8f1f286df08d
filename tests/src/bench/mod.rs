//! `make bench`: the time and memory of a training step beside Python's. See tests/bench/README.md.
//!
//! | file | |
//! |---|---|
//! | `row` | what is compared: backbone, batch, method, checkpointing; the matrix |
//! | `ours` | a row in our worker, as the daemon starts it |
//! | `python` | the same row in timm, peft and torch |
//! | `resident` | what a process holds, as the kernel counts it |
//! | `data` | the images that our side reads |
//! | `compare` | one row, both sides in turn |
//! | `table` | the comparison as Markdown |
//! | `machine` | what it ran on |

mod compare;
mod data;
mod machine;
mod ours;
mod python;
mod resident;
mod row;
mod table;

pub use compare::{Compared, compare};
pub use data::Images;
pub use machine::Machine;
pub use ours::baseline;
pub use python::interpreter;
pub use resident::most as most_resident;
pub use row::{Row, Scan, matrix};
pub use table::{line, page};

/// Where the parts of a comparison are, and how much of it is wanted.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The worker to measure.
    pub worker: std::path::PathBuf,
    /// What the worker holds before any model, in bytes; see [`baseline`].
    pub baseline: u64,
    /// The repository, which has `.bench/venv` and `tests/bench`.
    pub root: std::path::PathBuf,
    /// The interpreter that has timm, peft and torch.
    pub python: std::path::PathBuf,
    /// Where either side computes.
    pub device: fleet_common::worker::JobDevice,
    /// Threads for either side.
    pub threads: u32,
    /// How often the two sides take turns.
    pub rounds: u32,
}

impl Setting {
    /// Whether the two sides compute on a GPU, where peaks are those of tensors.
    pub fn on_cuda(&self) -> bool {
        self.device == fleet_common::worker::JobDevice::Cuda
    }
}
