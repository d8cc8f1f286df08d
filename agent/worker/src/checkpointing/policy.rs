//! Policies: which blocks keep their activations.

use fleet_common::spec::Checkpointing;

/// What to do with a block's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Keep what backward needs.
    Keep,
    /// Keep the block's inputs only, and run it again in backward.
    Recompute,
}

/// Decides block by block while forward runs.
pub trait Policy {
    /// The decision for block `index` of `count`.
    fn decide(&mut self, index: usize, count: usize) -> Decision;
}

/// Everything is kept.
struct KeepAll;

impl Policy for KeepAll {
    fn decide(&mut self, _index: usize, _count: usize) -> Decision {
        Decision::Keep
    }
}

/// Every block is recomputed, as `torch.utils.checkpoint` over each block would.
struct RecomputeAll;

impl Policy for RecomputeAll {
    fn decide(&mut self, _index: usize, _count: usize) -> Decision {
        Decision::Recompute
    }
}

/// The policy that settings name.
pub fn policy(checkpointing: Checkpointing) -> Box<dyn Policy> {
    match checkpointing {
        Checkpointing::None => Box::new(KeepAll),
        Checkpointing::Static => Box::new(RecomputeAll),
    }
}
