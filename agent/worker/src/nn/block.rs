//! Blocks: the units that an executor runs, and that checkpointing keeps or recomputes.

use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;

use super::Ctx;

/// A part of a model that maps tensors to tensors.
///
/// Several tensors, because some architectures carry more than one along (Vim: hidden state and residual). Owned and
/// `Send`, because backward may run it again after the forward call has returned, and on CUDA on another thread.
pub trait Block: Send {
    /// The block's outputs; a function of `xs`, of the block's parameters, and of `ctx`. A block that is done with an input
    /// may let it go.
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor>;

    /// Whether a pass in training draws random numbers. Asked of parts alone: a block's generator is seeded anyway.
    fn draws(&self) -> bool {
        false
    }
}

/// A block in its place in the model.
///
/// The mutex is never contended: forward has returned before backward runs the block again. It is there because a
/// tch tensor may move between threads but not be shared by them, and a saved graph needs to own what it will run.
#[derive(Clone)]
pub struct Slot {
    name: Arc<str>,
    block: Arc<Mutex<Box<dyn Block>>>,
    trainable: Arc<Mutex<Vec<Tensor>>>,
}

impl Slot {
    pub(super) fn new(name: &str, block: Box<dyn Block>, trainable: Vec<Tensor>) -> Self {
        Self { name: name.into(), block: Arc::new(Mutex::new(block)), trainable: Arc::new(Mutex::new(trainable)) }
    }

    /// The block's path in the model, such as `blocks.3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the block.
    pub fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner).forward(xs, ctx)
    }

    pub(super) fn draws(&self) -> bool {
        self.block.lock().unwrap_or_else(PoisonError::into_inner).draws()
    }

    /// The block's parameters that train, adapters included.
    pub fn trainable(&self) -> Vec<Tensor> {
        self.trainable.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Tensor::shallow_clone).collect()
    }
}

/// Runs a model's blocks in order; a checkpointing policy is one.
pub trait Executor {
    /// Feeds `xs` through `blocks`.
    fn run(&self, blocks: &[Slot], xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor>;
}
