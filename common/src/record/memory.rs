//! What a record tells of memory beside its peaks: where they were, the cap, one step in time, and what was planned.

use serde::{Deserialize, Serialize};

/// What was at work when memory peaked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeakPlace {
    /// forward, backward, recompute, optimizer, …
    pub phase: String,
    /// Block number, where a block was at work.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block: Option<u32>,
}

impl std::fmt::Display for PeakPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.phase)?;
        self.block.iter().try_for_each(|b| write!(f, " of block {b}"))
    }
}

/// What tensors could hold at most; before the first step it was tried that more is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// Bytes.
    pub bytes: u64,
    /// Bytes of the budget that the process itself takes, where it counts: the CUDA context, or on the CPU code and
    /// libraries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overhead_bytes: Option<u64>,
}

/// What happens to a block's activations between forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockChoice {
    /// All that backward needs is kept.
    Keep,
    /// What is cheap to compute again (norms, activations, expansions) is; the large products are not.
    Cheap,
    /// The inputs alone are kept, and the whole block runs again.
    Whole,
    /// The same, and while it runs again it keeps no more than under [`BlockChoice::Cheap`].
    WholeCheap,
}

impl BlockChoice {
    /// Every choice, from the fastest to the one that needs the least memory.
    pub const ALL: [Self; 4] = [Self::Keep, Self::Cheap, Self::Whole, Self::WholeCheap];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Cheap => "cheap",
            Self::Whole => "whole",
            Self::WholeCheap => "whole, cheaply",
        }
    }

    /// Choices in short: runs of equal ones in the order of the blocks, each as its length and letters, as in `3w 2c 7k`.
    pub fn short(choices: &[Self]) -> String {
        let runs = choices.chunk_by(|a, b| a == b);
        let runs = runs.filter_map(|run| Some(format!("{}{}", run.len(), run.first()?.letters())));
        runs.collect::<Vec<_>>().join(" ")
    }

    /// Whether the block runs again as a whole.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Whole | Self::WholeCheap)
    }

    /// The numbers of the blocks that run again as a whole.
    pub fn whole(choices: &[Self]) -> Vec<u32> {
        (0..).zip(choices).filter(|(_, choice)| choice.is_whole()).map(|(i, _)| i).collect()
    }

    /// The name in a plan's short form.
    pub const fn letters(self) -> &'static str {
        match self {
            Self::Keep => "k",
            Self::Cheap => "c",
            Self::Whole => "w",
            Self::WholeCheap => "wc",
        }
    }
}

/// What the planned strategy chose for a trial, and what it expected of that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Per block.
    pub blocks: Vec<BlockChoice>,
    /// The peak that the plan was to stay below, bytes: the budget less its margin.
    pub limit_bytes: u64,
    /// The peak of a training step that it expects, bytes.
    pub predicted_peak_bytes: u64,
    /// What was measured of it in a step of trial, bytes.
    pub measured_peak_bytes: u64,
    /// Seconds per step that it expects running blocks again to cost.
    pub recompute_seconds: f64,
    /// Seconds of forward and backward of all blocks when everything is kept.
    pub blocks_seconds: f64,
    /// Whether a first plan missed its prediction and this is the second one.
    pub replanned: bool,
}

impl MemoryPlan {
    /// The choices in short; see [`BlockChoice::short`].
    pub fn short(&self) -> String {
        BlockChoice::short(&self.blocks)
    }

    /// By how much the peak that was measured is above the predicted one, as a share of that; negative where it is
    /// below.
    pub fn miss(&self) -> Option<f64> {
        let miss = self.measured_peak_bytes as f64 / self.predicted_peak_bytes as f64 - 1.0;
        miss.is_finite().then_some(miss)
    }

    /// What running blocks again is expected to cost, as a share of forward and backward of all blocks.
    pub fn recompute_share(&self) -> Option<f64> {
        let share = self.recompute_seconds / self.blocks_seconds;
        share.is_finite().then_some(share)
    }
}

/// Memory over one training step, in order of time. A window ends where the next begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryTrace {
    /// Which step, from 0.
    pub step: u32,
    /// How long the step was, milliseconds.
    pub milliseconds: f32,
    /// From one change of place to the next.
    pub windows: Vec<MemoryWindow>,
}

/// A part of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryWindow {
    /// What was at work.
    #[serde(flatten)]
    pub place: PeakPlace,
    /// When it began, milliseconds from the step's begin.
    pub at: f32,
    /// Bytes that tensors held at its begin.
    pub live: u64,
    /// Most bytes that they held in it.
    pub peak: u64,
}
