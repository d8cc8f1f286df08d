//! One process per trial, and the only crate that links libtorch.
//!
//! | module | what it holds |
//! |---|---|
//! | [`torch`] | the libtorch extension: custom autograd, allocator cap and statistics, CUDA loading, optimiser |
//! | [`nn`] | the layer builder: naming, loading, freezing, adapters; blocks |
//! | [`models`] | architectures, one file each |
//! | [`peft`] | fine-tuning methods, one folder each |
//! | [`frozen`] | classifying by features of models that are not trained |
//! | [`quant`] | frozen weights in 4 bits |
//! | [`checkpointing`] | recompute policies and the executor |
//! | [`scan`] | the selective scan of Mamba and its convolution |
//! | [`data`] | data sets → batches |
//! | [`train`] | a trial from its job to its end |
//! | [`verify`] | references of other implementations through ours |

pub mod checkpointing;
pub mod data;
pub mod frozen;
pub mod load;
pub mod models;
pub mod nn;
pub mod peft;
pub mod quant;
pub mod scan;
pub mod torch;
pub mod train;
pub mod verify;
