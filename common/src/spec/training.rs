//! How a trial trains and how it is evaluated: the file's `[train]` and `[evaluate]`.

use serde::{Deserialize, Serialize};

use super::{PerName, Preprocessing};

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
    /// Equal parts in which a batch goes through the model, one after another; their gradients are added up. Less
    /// memory for the same step.
    pub micro_batches: u32,
    /// Side of the square input in pixels, for all backbones or per backbone; each backbone's own when absent.
    pub image_size: Option<PerName<u32>>,
    /// Learning rate, for all methods or per method.
    pub learning_rate: Option<PerName<f64>>,
    /// How the learning rate changes over the steps.
    pub schedule: Schedule,
    /// The learning rate rises linearly over this many steps first.
    pub ramp_steps: u32,
    /// The gradient is scaled down to this norm where it is larger, over all parameters that train.
    pub clip_norm: Option<f64>,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// How the samples of a step are drawn.
    pub sampling: Sampling,
    /// Random flips and crops, as the data set's protocol has them.
    pub augment: bool,
    /// How images become inputs: as the study does it, or as belongs to the initial weights.
    pub preprocessing: Preprocessing,
    /// In what matrix products, convolutions and attention compute.
    pub precision: Precision,
    /// Whether the statistics of batch norms move while training.
    pub batch_norm: BatchNorm,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: 7820,
            warm_up_steps: 2,
            batch: None,
            micro_batches: 1,
            image_size: None,
            learning_rate: None,
            schedule: Schedule::Constant,
            ramp_steps: 0,
            clip_norm: None,
            weight_decay: 0.05,
            sampling: Sampling::Replacement,
            augment: true,
            preprocessing: Preprocessing::Protocol,
            precision: Precision::Fp32,
            batch_norm: BatchNorm::Moving,
        }
    }
}

/// In what matrix products, convolutions and attention compute. Parameters, their optimiser state, layer norms and the
/// loss are in fp32 in every case, and so is what goes from block to block of a ViT; of a TinyViT it is what its
/// convolutions give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE 754 single precision, as in the study.
    #[default]
    Fp32,
    /// bfloat16 inputs and results, as PyTorch's autocast chooses them.
    Bf16,
}

impl Precision {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }
}

/// What batch norms normalise with while training. Evaluation always uses the running statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorm {
    /// The batch's statistics, which move the running ones, under every method: what PyTorch and HF PEFT do to a model
    /// in training mode, also where the norm's own parameters are frozen.
    #[default]
    Moving,
    /// The running statistics of the initial weights, which stay.
    Frozen,
}

impl BatchNorm {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Frozen => "frozen",
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

/// How the learning rate changes over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays, as in the study.
    #[default]
    Constant,
    /// It falls to zero along half a cosine (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
    Cosine,
}

impl Schedule {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Cosine => "cosine",
        }
    }

    /// The share of the learning rate at `step`, from 0, of `steps`, of which the first `ramp` rise linearly:
    /// (step + 1) / ramp, and from there 1, or (1 + cos(π · (step − ramp) / (steps − ramp))) / 2.
    pub fn factor(self, step: u32, steps: u32, ramp: u32) -> f64 {
        if step < ramp {
            return f64::from(step + 1) / f64::from(ramp);
        }
        match self {
            Self::Constant => 1.0,
            Self::Cosine => {
                let progress = f64::from(step - ramp) / f64::from((steps - ramp).max(1));
                (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
            }
        }
    }
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
    /// In what a model that is not trained keeps its weights; nothing to those that are.
    #[serde(skip_serializing_if = "Storage::is_default")]
    pub weights: Storage,
}

/// In what a model that is not trained keeps its weights, and computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// IEEE 754 single precision.
    #[default]
    Fp32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 half precision: more digits than bfloat16, and no number above 65,504.
    Fp16,
    /// Linear layers but the last in four bits (NF4, blocks of 64), unpacked for each product; all else as bfloat16.
    Nf4,
}

impl Storage {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Nf4 => "nf4",
        }
    }

    /// Bytes of a weight, about.
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Fp32 => 4.0,
            Self::Bf16 | Self::Fp16 => 2.0,
            Self::Nf4 => 0.7,
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Evaluate {
    fn default() -> Self {
        Self { batch: 64, limit: None, weights: Storage::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls_as_the_formulas_say() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(Schedule::Constant.factor(0, 10, 0), 1.0);
        near(Schedule::Constant.factor(9, 10, 0), 1.0);
        near(Schedule::Constant.factor(1, 10, 4), 0.5);
        near(Schedule::Cosine.factor(3, 104, 4), 1.0);
        near(Schedule::Cosine.factor(4, 104, 4), 1.0);
        near(Schedule::Cosine.factor(54, 104, 4), 0.5);
        near(Schedule::Cosine.factor(29, 104, 4), (1.0 + 0.5f64.sqrt()) / 2.0);
        assert!(Schedule::Cosine.factor(103, 104, 4) > 0.0, "the last step still learns");
    }
}
