//! Memory and time of one training step, block by block: what `fleet-agent profile` asks a worker for, and its answer.
//!
//! A request goes to the worker as one line of JSON, the answer ([`Answer`]) comes back as one.

use serde::{Deserialize, Serialize};

use crate::plan::MethodSettings;
use crate::record::{BlockChoice, MemoryPlan, MemoryTrace, PeakPlace};
use crate::spec::{Backbone, Checkpointing, Precision};
use crate::worker::JobDevice;

/// What to profile: a model with fresh weights on random images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Method with its hyper-parameters.
    pub method: MethodSettings,
    /// Backbone.
    pub backbone: Backbone,
    /// Side of the square input, pixels.
    pub image_size: u32,
    /// Classes of the head.
    pub classes: u32,
    /// Images per step.
    pub batch: u32,
    /// In what the large products compute.
    pub precision: Precision,
    /// The strategies to run a step under, in this order.
    pub checkpointing: Vec<Checkpointing>,
    /// Memory cap, bytes; `None` is no cap, under which the strategies that need a budget cannot run.
    pub budget_bytes: Option<u64>,
    /// Share of the budget from which on the adaptive strategy runs blocks again.
    pub adaptive_ratio: f64,
    /// Share of the budget that the planned strategy leaves free.
    pub planned_margin: f64,
    /// Steps to time under each strategy, after one that is not.
    pub steps: u32,
    /// The device.
    pub device: JobDevice,
    /// Threads for libtorch.
    pub threads: u32,
}

/// What came of it, or why nothing did: what was expected, what was found, what to do.
pub type Answer = Result<Profile, String>;

/// Blocks and steps of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Bytes that stay from step to step: weights, optimiser state, buffers.
    pub persistent_bytes: u64,
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
        /// Blocks that ran again as a whole.
        recomputed_blocks: Vec<u32>,
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
