//! Runs blocks under a policy.

use std::cell::RefCell;

use fleet_common::record::BlockChoice;
use tch::Tensor;

use super::mark::marked;
use super::policy::{Policy, Uniform};
use crate::nn::{Ctx, Executor, Slot, recomputed};
use crate::torch::memory::Place;

/// The executor of a trial: asks the policy per block and tells the allocator which block is at work.
pub struct CheckpointingExecutor {
    policy: RefCell<Box<dyn Policy>>,
    choices: RefCell<Vec<BlockChoice>>,
}

impl CheckpointingExecutor {
    /// An executor for a policy.
    pub fn with(policy: Box<dyn Policy>) -> Self {
        Self { policy: RefCell::new(policy), choices: RefCell::default() }
    }

    /// An executor that makes the same choice for every block.
    pub fn uniform(choice: BlockChoice) -> Self {
        Self::with(Box::new(Uniform(choice)))
    }

    /// Goes on under another policy.
    pub fn set(&self, policy: Box<dyn Policy>) {
        *self.policy.borrow_mut() = policy;
    }

    /// What the latest training pass chose for each block.
    pub fn choices(&self) -> Vec<BlockChoice> {
        self.choices.borrow().clone()
    }

    /// Which blocks the latest training pass runs again as a whole.
    pub fn recomputed_blocks(&self) -> Vec<u32> {
        BlockChoice::whole(&self.choices.borrow())
    }
}

impl Executor for CheckpointingExecutor {
    fn run(&self, blocks: &[Slot], mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        // Without backward nothing is kept anyway, and there is nothing to decide.
        let deciding = ctx.train && !ctx.recomputing;
        if deciding {
            self.choices.borrow_mut().clear();
            xs = marked(xs, Place::phase("backward"));
        }
        let phase = Place::current();
        for (index, slot) in blocks.iter().enumerate() {
            phase.block(index).enter();
            let ctx = Ctx { seed: ctx.seed.branch(index as u64), ..*ctx };
            if ctx.train {
                ctx.seed.apply();
            }
            xs = if deciding {
                let choice = self.policy.borrow_mut().choose(index, &xs);
                self.choices.borrow_mut().push(choice);
                run(slot, index, xs, &ctx, choice)
            } else {
                slot.forward(xs, &ctx)
            };
        }
        phase.enter();
        xs
    }
}

/// Runs a block, number `index`, as was chosen.
pub(super) fn run(slot: &Slot, index: usize, xs: Vec<Tensor>, ctx: &Ctx, choice: BlockChoice) -> Vec<Tensor> {
    match choice {
        BlockChoice::Keep | BlockChoice::Cheap => {
            let ctx = Ctx { cheap: choice == BlockChoice::Cheap, ..*ctx };
            marked(slot.forward(xs, &ctx), Place::phase("backward").block(index))
        }
        BlockChoice::Whole | BlockChoice::WholeCheap => recomputed(slot, xs, ctx, choice == BlockChoice::WholeCheap),
    }
}
