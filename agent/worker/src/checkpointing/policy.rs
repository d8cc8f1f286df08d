//! Policies: which blocks keep their activations.

use fleet_common::spec::Checkpointing;
use tch::Device;

use crate::torch::memory::Memory;

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

/// Activations are kept until so many bytes are in use; that block and all later ones of the pass are recomputed. The rule of
/// the study (arXiv 2607.02158): nothing is profiled, and nothing is learned from one step for the next.
struct Adaptive {
    memory: Memory,
    threshold: u64,
    reached: bool,
}

impl Policy for Adaptive {
    fn decide(&mut self, index: usize, _count: usize) -> Decision {
        if index == 0 {
            self.reached = false;
        }
        // A figure that cannot be had is no reason to run out of memory.
        self.reached = self.reached || self.memory.stats().map_or(u64::MAX, |s| s.live) >= self.threshold;
        if self.reached { Decision::Recompute } else { Decision::Keep }
    }
}

/// The policy that settings name. The adaptive one looks at `device`, and never recomputes without a `threshold`.
pub fn policy(checkpointing: Checkpointing, device: Device, threshold: Option<u64>) -> Box<dyn Policy> {
    match checkpointing {
        Checkpointing::None => Box::new(KeepAll),
        Checkpointing::Static => Box::new(RecomputeAll),
        Checkpointing::Adaptive => {
            let threshold = threshold.unwrap_or(u64::MAX);
            Box::new(Adaptive { memory: Memory::of(device), threshold, reached: false })
        }
    }
}
