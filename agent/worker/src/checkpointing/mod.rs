//! What backward keeps and what it computes again.
//!
//! A policy chooses per block, in order, while forward runs; the executor carries that out. n models + m policies,
//! not n × m.

mod executor;
mod isolate;
mod mark;
mod policy;
pub mod profile;

pub use executor::CheckpointingExecutor;
pub use policy::{Adaptive, Planned, Policy, Uniform};
