//! The selective scan of state-space models (Gu & Dao, arXiv 2312.00752).

pub mod cuda;

use tch::Tensor;

/// One scan over a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Input, (batch, length, channels).
    pub x: &'a Tensor,
    /// Step widths before bias and softplus, (batch, length, channels).
    pub delta: &'a Tensor,
    /// Decay rates, (channels, states), negative.
    pub a: &'a Tensor,
    /// What enters the state, (batch, length, states).
    pub b: &'a Tensor,
    /// What is read from it, (batch, length, states).
    pub c: &'a Tensor,
    /// The direct way, (channels).
    pub d: &'a Tensor,
    /// Bias of the step widths, (channels).
    pub bias: &'a Tensor,
    /// Whether time runs from the last token to the first.
    pub reverse: bool,
}
