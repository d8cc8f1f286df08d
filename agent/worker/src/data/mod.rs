//! Data sets → batches: which samples, transformed how, decoded ahead of time.
//!
//! Layouts and decoding are `fleet-dataset`'s. Everything random here is a function of the trial's seed, the step and
//! the place in the batch; the number of threads changes nothing.

mod loader;
pub mod processor;
mod resample;
mod sampler;
mod transform;

pub use loader::{Batch, Loader, Pixels};
pub use sampler::{Sampler, evaluation_batches};
pub use transform::Transform;
