//! Memory and time of one training step, block by block: what `fleet-agent profile` asks a worker for, and its answer.
//!
//! A request goes to the worker as one line of JSON, the answer ([`Answer`]) comes back as one.

use serde::{Deserialize, Serialize};

use crate::plan::{CellSettings, DatasetIdentity, PlannedCell, Resolution, plan};
use crate::record::{BlockChoice, MemoryPlan, MemoryTrace, PeakPlace};
use crate::spec::{Campaign, Checkpointing, DatasetName};
use crate::worker::JobDevice;

/// What to profile: a model with fresh weights on random images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Cells that differ in their checkpointing alone, one for each strategy to run steps under; at least one. Their
    /// data and weights are not looked at.
    pub cells: Vec<CellSettings>,
    /// Steps to time under each strategy, after one that is not.
    pub steps: u32,
    /// The device.
    pub device: JobDevice,
    /// Threads for libtorch.
    pub threads: u32,
}

/// The cells that the lines of a campaign file ask for, on data of `classes` classes that is never read.
///
/// # Errors
/// In words: what is wrong with the lines, or why a strategy cannot run.
pub fn cells(toml: &str, classes: u32) -> Result<Vec<CellSettings>, String> {
    let campaign = Campaign::parse("the options", toml).map_err(|e| e.to_string())?;
    let identity = DatasetIdentity { fingerprint: "0".repeat(64), classes, train: 0, test: 0 };
    let names = campaign.matrix.dataset.values().iter().cloned();
    let datasets = names.map(|name: DatasetName| (name, Ok(identity.clone()))).collect();
    let plan = plan(&campaign, &Resolution { datasets, ..Resolution::default() });
    match plan.excluded.first() {
        Some(excluded) => Err(excluded.reason.clone()),
        None => Ok(plan.cells.iter().map(PlannedCell::settings).collect()),
    }
}

/// What came of it, or why nothing did: what was expected, what was found, what to do.
pub type Answer = Result<Profile, String>;

/// Blocks and steps of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Bytes that stay from step to step: weights, optimiser state, buffers.
    pub persistent_bytes: u64,
    /// Fewest bytes that a step needs, whatever runs again.
    pub least_bytes: u64,
    /// The blocks in the order in which they run.
    pub blocks: Vec<Block>,
    /// One step under each strategy that was asked for.
    pub steps: Vec<Step>,
}

/// A block, measured by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Its path in the model, such as `blocks.3`.
    pub name: String,
    /// Seconds of its forward.
    pub forward_seconds: f64,
    /// What each choice keeps and costs, in the order of [`BlockChoice::ALL`].
    pub choices: Vec<Choice>,
}

/// What a choice for a block keeps and costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Which.
    pub choice: BlockChoice,
    /// Bytes that stay from the block's forward to its backward, those of its inputs included.
    pub kept_bytes: u64,
    /// Most bytes that its forward needs above those that were there before.
    pub forward_bytes: u64,
    /// Most bytes that its backward needs above those that were there before.
    pub backward_bytes: u64,
    /// Seconds of its backward, running again included.
    pub backward_seconds: f64,
    /// Seconds that running (parts of) it again costs.
    pub recompute_seconds: f64,
}

/// One training step under a strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The strategy.
    pub checkpointing: Checkpointing,
    /// How it went.
    pub outcome: StepOutcome,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum StepOutcome {
    /// It ran.
    Ran {
        /// Median seconds of a step.
        seconds: f64,
        /// Most bytes that tensors held.
        peak_bytes: u64,
        /// What was at work then.
        peak_place: Option<PeakPlace>,
        /// What happened to each block.
        choices: Vec<BlockChoice>,
        /// Seconds of running again, by the blocks' profile.
        recompute_seconds: f64,
        /// What the planned strategy chose.
        plan: Option<MemoryPlan>,
        /// Memory over the step.
        trace: MemoryTrace,
    },
    /// It did not fit, or could not be run.
    Failed {
        /// Why, and what it would need.
        reason: String,
    },
}
