//! Policies: what happens to each block's activations.

use fleet_common::record::BlockChoice;
use tch::{Device, Tensor};

use crate::torch::memory::Memory;

/// Decides block by block while forward runs.
pub trait Policy {
    /// The choice for block `index`, which gets `xs`.
    fn choose(&mut self, index: usize, xs: &[Tensor]) -> BlockChoice;
}

/// The same for every block: nothing runs again, or everything does, as `torch.utils.checkpoint` over each block would
/// do it.
pub struct Uniform(pub BlockChoice);

impl Policy for Uniform {
    fn choose(&mut self, _index: usize, _xs: &[Tensor]) -> BlockChoice {
        self.0
    }
}

/// Activations are kept until so many bytes are in use; that block and all later ones of the pass are recomputed. The
/// rule of the study (arXiv 2607.02158): nothing is profiled, and nothing is learned from one step for the next.
pub struct Adaptive {
    memory: Memory,
    threshold: u64,
    reached: bool,
}

impl Adaptive {
    /// Recomputes once `threshold` bytes of `device` are in use.
    pub fn new(device: Device, threshold: u64) -> Self {
        Self { memory: Memory::of(device), threshold, reached: false }
    }
}

impl Policy for Adaptive {
    fn choose(&mut self, index: usize, _xs: &[Tensor]) -> BlockChoice {
        if index == 0 {
            self.reached = false;
        }
        // A figure that cannot be had is no reason to run out of memory.
        self.reached = self.reached || self.memory.stats().map_or(u64::MAX, |s| s.live) >= self.threshold;
        if self.reached { BlockChoice::Whole } else { BlockChoice::Keep }
    }
}

/// What was planned for each block.
pub struct Planned(pub Vec<BlockChoice>);

impl Policy for Planned {
    fn choose(&mut self, index: usize, _xs: &[Tensor]) -> BlockChoice {
        // A block that nobody planned for needs the least memory so.
        self.0.get(index).copied().unwrap_or(BlockChoice::WholeCheap)
    }
}
