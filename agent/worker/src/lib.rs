//! One process per trial, and the only crate that links libtorch.
//!
//! | module | what it holds |
//! |---|---|
//! | [`torch`] | the libtorch extension: custom autograd, allocator cap and statistics, CUDA loading, optimiser |

pub mod torch;
