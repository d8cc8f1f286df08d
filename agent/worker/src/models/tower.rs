//! What encoders of images and texts are made of: something in front, and a stack of transformer blocks.

use tch::Tensor;

use crate::nn::{Builder, Ctx, Executor, Slot};

use super::transformer::{BlockNames, BlockShape, TransformerBlock};

/// A stack of blocks.
pub(crate) struct Stack(pub(crate) Vec<Slot>);

impl Stack {
    /// `depth` blocks called `0`, `1`, … below `b`.
    pub(crate) fn new(b: &Builder, depth: i64, names: &BlockNames, shape: &BlockShape) -> Self {
        if shape.heads < 1 || shape.width % shape.heads != 0 {
            b.problem(format!("a width of {} cannot be divided among {} attention heads", shape.width, shape.heads));
        }
        Self((0..depth).map(|i| b.block(&i.to_string(), |b| TransformerBlock::new(b, names, shape))).collect())
    }

    /// What `x` (batch, tokens, width) becomes behind all blocks but the last `leaving_out`.
    pub(crate) fn forward_without(&self, x: Tensor, leaving_out: usize, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let count = self.0.len().saturating_sub(leaving_out);
        executor.run(&self.0[..count], vec![x], ctx).swap_remove(0)
    }

    /// What `x` (batch, tokens, width) becomes behind all blocks.
    pub(crate) fn forward(&self, x: Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.forward_without(x, 0, ctx, executor)
    }
}

/// Rows of a map (batch, width, rows, columns), one behind the other: (batch, rows·columns, width).
pub(crate) fn tokens(map: &Tensor) -> Tensor {
    map.flatten(2, 3).transpose(1, 2)
}

/// `class` (any shape of `width` values) in front of `patches` (batch, patches, width).
pub(crate) fn with_class_token(class: &Tensor, patches: &Tensor) -> Tensor {
    let (batch, width) = (patches.size()[0], patches.size()[2]);
    let class = class.view([1, 1, width]).expand([batch, -1, -1], false).to_kind(patches.kind());
    Tensor::cat(&[class, patches.shallow_clone()], 1)
}

/// Divides by the Euclidean norm of the last dimension.
pub fn normalised(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12)
}
