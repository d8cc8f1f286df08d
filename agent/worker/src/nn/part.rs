//! Parts of a block that are cheap to run again.
//!
//! A part is what lies between two large products: a norm, an activation, an expansion, together with the product that
//! reads its result. Run in the ordinary way, backward keeps the product's input; run cheaply, it keeps the part's
//! input alone, and computes the product's input again but not the product (see [`Ctx::values`]).

use tch::Tensor;

use super::recompute::recomputed;
use super::{Ctx, Slot};
use crate::torch::GradMode;

/// A part of a block, of one tensor to one tensor.
pub struct Part {
    slot: Slot,
    label: Box<str>,
    draws: bool,
}

impl Part {
    pub(super) fn new(slot: Slot, label: &str) -> Self {
        let draws = slot.draws();
        Self { slot, label: label.into(), draws }
    }

    /// Whether it has parameters that train.
    pub fn trains(&self) -> bool {
        !self.slot.trainable().is_empty()
    }

    /// The part's output for `x`, which it lets go of as soon as it can.
    pub fn forward(&self, x: Tensor, ctx: &Ctx) -> Tensor {
        self.forward_last(x, &Ctx { values: true, ..*ctx })
    }

    /// The same for a part whose output is only added to something else, or is the block's: where the block runs again
    /// for backward's sake, the values of the last product are not computed.
    pub fn forward_last(&self, x: Tensor, ctx: &Ctx) -> Tensor {
        let mut ctx = *ctx;
        // A part that draws has a place of its own in the tree of randomness, so that it can run again without what
        // came before it in the block.
        if ctx.train && self.draws {
            ctx.seed = ctx.seed.named(&self.label);
            ctx.seed.apply();
        }
        if ctx.train && ctx.cheap && GradMode::is_on() {
            recomputed(&self.slot, vec![x], &ctx, false).swap_remove(0)
        } else {
            self.slot.forward(vec![x], &ctx).swap_remove(0)
        }
    }
}
