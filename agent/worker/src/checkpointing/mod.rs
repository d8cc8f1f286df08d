//! What backward keeps and what it computes again.
//!
//! A policy decides per block, in order, while forward runs; the executor carries that out. n models + m policies,
//! not n × m.

mod executor;
mod policy;
mod recompute;

pub use executor::CheckpointingExecutor;
pub use policy::{Decision, Policy, policy};
pub use recompute::recomputed;
