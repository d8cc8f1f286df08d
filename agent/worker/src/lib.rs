//! One process per trial, and the only crate that links libtorch.
//!
//! | module | what it holds |
//! |---|---|
//! | [`torch`] | the libtorch extension: custom autograd, allocator cap and statistics, CUDA loading, optimiser |
//! | [`nn`] | the layer builder: naming, loading, freezing, adapters; blocks |
//! | [`models`] | architectures, one file each |
//! | [`peft`] | fine-tuning methods, one folder each |
//! | [`checkpointing`] | recompute policies and the executor |
//! | [`data`] | data sets → batches |
//! | [`train`] | a trial from its job to its end |

pub mod checkpointing;
pub mod data;
pub mod models;
pub mod nn;
pub mod peft;
pub mod torch;
pub mod train;
