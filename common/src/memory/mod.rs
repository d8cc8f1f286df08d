//! How much memory a training step will need, before anything runs.
//!
//! The model of a cell is built from tensors that have a size and no values, and a step runs on them: forward, backward and
//! what a strategy runs again. Each operation makes, keeps and frees what libtorch's CPU operators and the worker's own
//! functions make, keep and free. So what autograd keeps per block, the transient of a block's backward, and the peak all
//! come from one description of each architecture, and parameters are counted on the way.

mod block;
mod build;
mod expect;
mod frozen;
mod graph;
mod layers;
mod mamba_vision;
mod model;
mod ops;
mod step;
mod tape;
#[cfg(test)]
mod tests;
mod tiny_vit;
mod vim;
mod vit;
mod windows;

pub use expect::{Basis, Expected, History, Shortage};
use serde::{Deserialize, Serialize};

use crate::plan::CellSettings;
use crate::spec::{Backbone, Checkpointing};
use step::{How, step};

/// What a training step of a cell needs, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// Parameters of the model, adapters and head included.
    pub parameters: u64,
    /// Of them, those that train.
    pub trainable: u64,
    /// What stays from step to step: weights as they are kept, running statistics, the optimiser's and the method's state.
    pub persistent_bytes: u64,
    /// Gradients of what trains.
    pub gradient_bytes: u64,
    /// The blocks in the order in which they run.
    pub blocks: Vec<BlockEstimate>,
    /// The most that tensors hold in a step under the cell's strategy.
    pub peak_bytes: u64,
    /// The same where every activation is kept.
    pub peak_none_bytes: u64,
    /// The least that any strategy comes to: every block runs again, and keeps no results of norms and activations while it
    /// does.
    pub least_bytes: u64,
}

/// What a block needs, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEstimate {
    /// Its path in the model, such as `blocks.3`.
    pub name: String,
    /// What stays from its forward to its backward where all that backward needs is kept.
    pub kept_bytes: u64,
    /// What its backward needs beyond what was there, where the block runs again.
    pub backward_bytes: u64,
}

/// The peak that the planned strategy aims for, where the budget is for tensors alone.
fn planned_limit(settings: &CellSettings) -> Option<u64> {
    settings.budget_bytes.and_then(|budget| settings.planned_limit(budget))
}

/// Estimates a cell's training step, or what a model that is not trained needs to classify.
pub fn estimate(settings: &CellSettings) -> Estimate {
    let train = match (settings.backbone, &settings.train) {
        (Backbone::Foundation(foundation), _) => return frozen::estimate(foundation, settings.evaluate.weights),
        (_, Some(train)) => train,
        (_, None) => return Estimate::default(),
    };
    let step = |how| step(settings, train, how);
    let (keep, again) = (step(How::Keep), step(How::Again));
    let least = again.peak.min(step(How::AgainCheaply).peak).min(keep.peak);
    let peak = match settings.checkpointing {
        Checkpointing::None => keep.peak,
        Checkpointing::Static => again.peak,
        Checkpointing::Adaptive => match settings.budget_bytes.and_then(|budget| settings.adaptive_threshold(budget)) {
            Some(threshold) => step(How::AgainFrom(threshold)).peak,
            None => keep.peak,
        },
        // As much is kept as fits below the limit; if nothing fits, the least is needed.
        Checkpointing::Planned => keep.peak.min(planned_limit(settings).unwrap_or(u64::MAX)).max(least),
    };
    let blocks = keep.blocks.iter().zip(again.blocks).map(|(kept, again)| BlockEstimate {
        name: kept.name.clone(),
        kept_bytes: kept.kept,
        backward_bytes: again.backward,
    });
    Estimate {
        parameters: keep.parameters,
        trainable: keep.trainable,
        persistent_bytes: keep.persistent,
        gradient_bytes: keep.gradients,
        blocks: blocks.collect(),
        peak_bytes: peak,
        peak_none_bytes: keep.peak,
        least_bytes: least,
    }
}
