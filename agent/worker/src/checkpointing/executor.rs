//! Runs blocks under a policy.

use std::cell::RefCell;

use fleet_common::spec::Checkpointing;
use tch::{Device, Tensor};

use super::{Decision, Policy, policy, recomputed};
use crate::nn::{Ctx, Executor, Slot};
use crate::torch::memory::Place;

/// The executor of a trial: asks the policy per block and tells the allocator which block is at work.
pub struct CheckpointingExecutor {
    policy: RefCell<Box<dyn Policy>>,
    recomputed: RefCell<Vec<u32>>,
}

impl CheckpointingExecutor {
    /// An executor for a strategy that needs to know nothing else.
    pub fn new(checkpointing: Checkpointing) -> Self {
        Self::with(policy(checkpointing, Device::Cpu, None))
    }

    /// An executor for a policy.
    pub fn with(policy: Box<dyn Policy>) -> Self {
        Self { policy: RefCell::new(policy), recomputed: RefCell::default() }
    }

    /// Which blocks the latest training pass recomputes.
    pub fn recomputed_blocks(&self) -> Vec<u32> {
        self.recomputed.borrow().clone()
    }
}

impl Executor for CheckpointingExecutor {
    fn run(&self, blocks: &[Slot], mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        // Without backward nothing is kept anyway, and there is nothing to decide.
        let deciding = ctx.train && !ctx.recomputing;
        if deciding {
            self.recomputed.borrow_mut().clear();
        }
        let phase = Place::current();
        for (index, slot) in blocks.iter().enumerate() {
            phase.block(index).enter();
            let ctx = Ctx { seed: ctx.seed.branch(index as u64), ..*ctx };
            if ctx.train {
                ctx.seed.apply();
            }
            let decision = if deciding { self.policy.borrow_mut().decide(index, blocks.len()) } else { Decision::Keep };
            xs = match decision {
                Decision::Keep => slot.forward(&xs, &ctx),
                Decision::Recompute => {
                    self.recomputed.borrow_mut().push(index as u32);
                    recomputed(slot, index, xs, &ctx)
                }
            };
        }
        phase.enter();
        xs
    }
}
