//! `fleet-agent profile`: memory and time of one training step, block by block, and a step under each checkpointing
//! strategy. The worker measures, this asks it and shows.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Options`] | what is asked, and whether it can be |
//! | `grid` | a plain table of text |
//! | `table` | the answer for people |
//! | `picture` | the answer as an SVG file |

mod grid;
mod options;
mod picture;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fleet_common::plan::CellSettings;
use fleet_common::profile::{Answer, Profile, Request, StepOutcome};
use serde::Serialize;

use crate::ask;
use crate::device::Slot;

pub use options::Options;
pub use picture::picture;
pub use table::text;

/// Name and version of the `--json` form.
pub const SCHEMA: &str = "fleet.profile/1";

/// What was asked and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What was asked.
    pub request: Request,
    /// What came of it.
    pub profile: Profile,
}

impl Document {
    /// What all its cells have in common, but for the checkpointing.
    fn cell(&self) -> &CellSettings {
        &self.request.cells[0]
    }

    /// Whether a step ran under any strategy.
    pub fn any_ran(&self) -> bool {
        self.profile.steps.iter().any(|s| matches!(s.outcome, StepOutcome::Ran { .. }))
    }
}

/// Asks `worker`, which sees no other GPU than that of `slot`; `waiting` is told once a second for how long it has been at
/// work.
///
/// # Errors
/// The worker cannot be started, ended without an answer, or cannot do what was asked; in words.
pub fn profile(
    worker: &Path,
    slot: &Slot,
    request: Request,
    waiting: impl FnMut(Duration),
) -> Result<Document, String> {
    let mut command = Command::new(worker);
    command.arg("--profile").envs(ask::spin());
    if let Some(gpu) = &slot.gpu {
        command.env("CUDA_VISIBLE_DEVICES", &gpu.uuid);
    }
    let answer: Answer = ask::ask_with(&mut command, &request, waiting)
        .map_err(|why| format!("the worker {} gave no profile: {why}", worker.display()))?;
    Ok(Document { schema: SCHEMA, request, profile: answer? })
}

/// What was asked in a line: "vit_micro, lora, batch 32, 64 pixels, 100 classes, fp32".
fn asked(cell: &CellSettings) -> String {
    let (batch, precision) = match &cell.train {
        Some(train) => {
            let parts = match train.micro_batches {
                1 => String::new(),
                n => format!(" in {n} parts"),
            };
            (format!(", batch {}{parts}", train.batch), format!(", {}", train.precision.name()))
        }
        None => Default::default(),
    };
    format!(
        "{}, {}{batch}, {} pixels, {} classes{precision}",
        cell.backbone.name(),
        cell.method.method().name(),
        cell.image_size,
        cell.dataset.classes,
    )
}
