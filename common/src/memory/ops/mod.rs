//! Operations on tensors without values: what each makes, keeps for backward, and needs for a moment, as libtorch's CPU
//! operators and the worker's own functions do.

mod attention;
mod conv;
mod linear;
mod norm;
mod pointwise;
mod scan;
mod shape;

pub(super) use attention::{attention, attention_with_trained_bias, thirds};
pub(super) use conv::{ConvSizes, batch_norm, conv};
pub(super) use linear::{linear, linear_without_value, packed_linear};
pub(super) use norm::{layer_norm, rms_norm};
pub(super) use pointwise::{add, cast, dropout, exp, gelu, masked, negated, relu, scaled};
pub(super) use scan::{Pass, conv_silu, selective_scan};
pub(super) use shape::{cat, copied, copied_back, copied_part, mean, part, split};
