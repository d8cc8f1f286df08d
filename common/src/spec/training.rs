//! How a trial trains and how it is evaluated: the file's `[train]` and `[evaluate]`.

use serde::{Deserialize, Serialize};

use super::PerName;

/// `[train]`. The defaults are the study's protocol (arXiv 2607.02158's public code), except that its "10 epochs" are
/// named for what they are: 7,820 steps on samples drawn with replacement.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u32,
    /// The first steps, which train like all others but lie outside the timed and metered window: caches fill, the
    /// allocator settles, kernels are chosen.
    pub warm_up_steps: u32,
    /// Samples per step, for all backbones or per backbone.
    pub batch: Option<PerName<u32>>,
    /// Learning rate, for all methods or per method.
    pub learning_rate: Option<PerName<f64>>,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// How the samples of a step are drawn.
    pub sampling: Sampling,
    /// Random flips and crops, as the data set's protocol has them.
    pub augment: bool,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: 7820,
            warm_up_steps: 2,
            batch: None,
            learning_rate: None,
            weight_decay: 0.05,
            sampling: Sampling::Replacement,
            augment: true,
        }
    }
}

/// How the samples of a step are drawn from the training set; a function of the seed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Independently, with replacement, as in the study.
    Replacement,
    /// In a new random order each epoch, every sample once.
    Shuffle,
}

/// `[evaluate]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// Images per forward pass.
    pub batch: u32,
    /// Evaluate at most this many test images, spread evenly over the test set; all of them when absent. A record
    /// says how many it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self { batch: 64, limit: None }
    }
}
