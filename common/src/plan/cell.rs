//! A cell's settings, fully resolved, and its identity.

use serde::{Deserialize, Serialize};

use super::{DatasetIdentity, MethodSettings, Resolution};
use crate::canonical;
use crate::id::CellId;
use crate::spec::{
    Backbone, BatchNorm, BudgetScope, Campaign, Checkpointing, DatasetName, Evaluate, Method, Precision, Preprocessing,
    Sampling, Schedule, Storage,
};

/// The version of this definition. It changes whenever the same settings would mean another computation, so that old
/// and new records are never taken for repeats of each other.
const DEFINITION: u32 = 2;

/// Everything that decides what a trial computes. Hardware is not here: nobody knows it at planning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSettings {
    /// Version of this definition.
    pub definition: u32,
    /// Method with its hyper-parameters.
    pub method: MethodSettings,
    /// Backbone.
    pub backbone: Backbone,
    /// Side of the square input, pixels.
    pub image_size: u32,
    /// Checkpointing strategy.
    pub checkpointing: Checkpointing,
    /// Share of the budget from which on the adaptive strategy runs blocks again; `None` under any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive_ratio: Option<f64>,
    /// Share of the budget that the planned strategy leaves free; `None` under any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_margin: Option<f64>,
    /// Data.
    pub dataset: DatasetRef,
    /// Initial weights.
    pub weights: WeightsRef,
    /// Seed of everything random: fresh weights, sampling, augmentation, dropout.
    pub seed: u64,
    /// Memory cap in bytes; `None` is no cap.
    pub budget_bytes: Option<u64>,
    /// What the cap covers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget_scope: BudgetScope,
    /// Training; `None` where nothing is fine-tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSettings>,
    /// Evaluation.
    pub evaluate: Evaluate,
}

/// Data, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRef {
    /// What tables call it.
    pub name: String,
    /// SHA-256 over the content that the reader uses.
    pub fingerprint: String,
    /// Number of classes: the size of the head.
    pub classes: u32,
}

/// Initial weights, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase", deny_unknown_fields)]
pub enum WeightsRef {
    /// Fresh, from the seed, as the reference initialises them.
    Scratch,
    /// A file with this SHA-256.
    File {
        /// Of the whole file, hexadecimal.
        sha256: String,
    },
    /// The folder of a published model.
    Folder {
        /// Of its files' hashes and names, hexadecimal; see `fleet_checkpoint::ModelFolder`.
        sha256: String,
    },
}

impl WeightsRef {
    /// The hash, where there are weights.
    pub fn sha256(&self) -> Option<&str> {
        match self {
            Self::Scratch => None,
            Self::File { sha256 } | Self::Folder { sha256 } => Some(sha256),
        }
    }
}

/// `[train]`, resolved for one backbone and method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Optimiser steps.
    pub steps: u32,
    /// First steps outside the timed window.
    pub warm_up_steps: u32,
    /// Samples per step.
    pub batch: u32,
    /// Learning rate, before its schedule.
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// How samples are drawn.
    pub sampling: Sampling,
    /// Random flips and crops.
    pub augment: bool,
    /// Parts in which a batch goes through the model. What came after the first version of this form is left out where
    /// it says nothing, so that cells keep their identity.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub micro_batches: u32,
    /// How the learning rate changes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Steps over which the learning rate rises first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ramp_steps: u32,
    /// Largest norm of the gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// How images become inputs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub preprocessing: Preprocessing,
    /// In what the large products compute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// Whether the statistics of batch norms move.
    #[serde(default, skip_serializing_if = "is_default")]
    pub batch_norm: BatchNorm,
}

const fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_one(n: &u32) -> bool {
    *n == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl CellSettings {
    /// Bytes in use from which on the adaptive strategy runs blocks again, where tensors may hold `cap`; `None` under
    /// any other.
    pub fn adaptive_threshold(&self, cap: u64) -> Option<u64> {
        Some((cap as f64 * self.adaptive_ratio?) as u64)
    }

    /// The peak that the planned strategy aims for, bytes, where tensors may hold `cap`; `None` under any other.
    pub fn planned_limit(&self, cap: u64) -> Option<u64> {
        Some((cap as f64 * (1.0 - self.planned_margin?)) as u64)
    }

    /// The cell's identity: the first half of the SHA-256 of the canonical JSON. 128 bits are plenty against chance,
    /// and nobody gains by forging one.
    pub fn id(&self) -> CellId {
        let hash = canonical::sha256_hex(canonical::json(self).as_bytes());
        hash[..32].parse().expect("32 hexadecimal digits")
    }
}

/// A point of the matrix, before its seed.
pub(super) struct Combination<'a> {
    pub method: Method,
    pub backbone: Backbone,
    pub checkpointing: Checkpointing,
    pub dataset: &'a DatasetName,
}

/// The settings of a combination (with seed 0), or why it cannot run.
pub(super) fn resolve(
    campaign: &Campaign,
    resolution: &Resolution,
    combination: &Combination<'_>,
) -> Result<CellSettings, String> {
    let Combination { method, backbone, checkpointing, dataset } = *combination;
    let identity: &DatasetIdentity = match resolution.datasets.get(dataset) {
        Some(found) => found.as_ref().map_err(Clone::clone)?,
        None => return Err(format!("the data set {} was not looked up", dataset.label())),
    };
    let settings = MethodSettings::resolve(method, backbone, dataset, &campaign.method)?;
    let weights = match (resolution.weights.get(&backbone), backbone.foundation()) {
        (Some(sha256), None) => WeightsRef::File { sha256: sha256.clone() },
        (None, None) => WeightsRef::Scratch,
        (Some(sha256), Some(_)) => WeightsRef::Folder { sha256: sha256.clone() },
        (None, Some(_)) => {
            return Err(format!(
                "{0} is used as it is published, and its files are not here: put them into the folder {0}/ in the folder of \
                 the weights. `fleet weights list` says where they come from",
                backbone.name()
            ));
        }
    };
    let trains = method.trains();
    let checkpointing = if trains {
        checkpointing
    } else if campaign.matrix.checkpointing.values().first() == Some(&checkpointing) {
        Checkpointing::None
    } else {
        return Err("nothing is trained, so checkpointing changes nothing; it runs once".to_owned());
    };
    let (adaptive, planned) = (checkpointing == Checkpointing::Adaptive, checkpointing == Checkpointing::Planned);
    if checkpointing.needs_budget() && campaign.budget.bytes().is_none() {
        return Err(format!(
            "{} checkpointing keeps as many activations as the budget allows, and the budget is unlimited; expected a \
             budget such as \"2GiB\"",
            checkpointing.name()
        ));
    }
    Ok(CellSettings {
        definition: DEFINITION,
        method: settings,
        backbone,
        image_size: if trains { campaign.image_size(backbone) } else { backbone.image_size() },
        checkpointing,
        adaptive_ratio: adaptive.then_some(campaign.checkpointing.adaptive.ratio),
        planned_margin: planned.then_some(campaign.checkpointing.planned.margin),
        dataset: DatasetRef {
            name: dataset.label().to_owned(),
            fingerprint: identity.fingerprint.clone(),
            classes: identity.classes,
        },
        weights,
        seed: 0,
        budget_bytes: campaign.budget.bytes(),
        // Where nothing is capped it would only give the same computation another name.
        budget_scope: campaign.budget.bytes().map_or_else(BudgetScope::default, |_| campaign.budget_scope),
        train: trains.then(|| TrainSettings {
            steps: campaign.train.steps,
            warm_up_steps: campaign.train.warm_up_steps,
            batch: campaign.batch(backbone),
            learning_rate: campaign.learning_rate(method),
            weight_decay: campaign.train.weight_decay,
            sampling: campaign.train.sampling,
            augment: campaign.train.augment,
            micro_batches: campaign.train.micro_batches,
            schedule: campaign.train.schedule,
            ramp_steps: campaign.train.ramp_steps,
            clip_norm: campaign.train.clip_norm,
            preprocessing: campaign.train.preprocessing,
            precision: campaign.train.precision,
            batch_norm: campaign.train.batch_norm,
        }),
        evaluate: match trains {
            true => Evaluate { weights: Storage::default(), ..campaign.evaluate.clone() },
            false => campaign.evaluate.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::LoraSettings;

    fn lora(alpha: f64, targets: &[&str]) -> MethodSettings {
        let targets = targets.iter().map(|t| (*t).to_owned()).collect();
        MethodSettings::Lora(LoraSettings { rank: 8, alpha, dropout: 0.0, targets, rslora: false })
    }

    fn settings() -> CellSettings {
        CellSettings {
            definition: DEFINITION,
            method: lora(16.0, &["fc1", "qkv"]),
            backbone: Backbone::VitMicro,
            image_size: 64,
            checkpointing: Checkpointing::Static,
            adaptive_ratio: None,
            planned_margin: None,
            dataset: DatasetRef { name: "textures".into(), fingerprint: "0".repeat(64), classes: 8 },
            weights: WeightsRef::Scratch,
            seed: 7,
            budget_bytes: Some(2 << 30),
            budget_scope: BudgetScope::Allocator,
            train: Some(TrainSettings {
                steps: 120,
                warm_up_steps: 2,
                batch: 32,
                learning_rate: 5e-3,
                weight_decay: 0.05,
                sampling: Sampling::Replacement,
                augment: true,
                micro_batches: 1,
                schedule: Schedule::Constant,
                ramp_steps: 0,
                clip_norm: None,
                preprocessing: Preprocessing::Protocol,
                precision: Precision::Fp32,
                batch_norm: BatchNorm::Moving,
            }),
            evaluate: Evaluate::default(),
        }
    }

    /// Pins the canonical form and the id. If this fails, records made before the change no longer belong to the
    /// cells that the same campaign file asks for: raise [`DEFINITION`] and bless the new text on purpose.
    #[test]
    fn golden_identity() {
        let settings = settings();
        assert_eq!(
            canonical::json(&settings),
            concat!(
                r#"{"backbone":"vit_micro","budget_bytes":2147483648,"checkpointing":"static","#,
                r#""dataset":{"classes":8,"fingerprint":"0000000000000000000000000000000000000000000000000000000000000000","name":"textures"},"#,
                r#""definition":2,"evaluate":{"batch":64},"image_size":64,"#,
                r#""method":{"alpha":16.0,"dropout":0.0,"name":"lora","rank":8,"targets":["fc1","qkv"]},"seed":7,"#,
                r#""train":{"augment":true,"batch":32,"learning_rate":0.005,"sampling":"replacement","steps":120,"warm_up_steps":2,"weight_decay":0.05},"#,
                r#""weights":{"from":"scratch"}}"#
            )
        );
        assert_eq!(settings.id().as_str(), "2966df4a2f91ecbd2e99307fb5653bc0");
    }

    proptest! {
        /// Whatever the numbers: read again from its text, a cell is the same cell.
        #[test]
        fn settings_survive_the_wire(rate in 1e-9f64..1.0, decay in 0f64..1.0, alpha in 1e-3f64..1e3) {
            let mut settings = settings();
            let train = settings.train.as_mut().expect("it trains");
            train.learning_rate = rate;
            train.weight_decay = decay;
            settings.method = lora(alpha, &["qkv"]);
            let back: CellSettings = serde_json::from_str(&canonical::json(&settings)).expect("our own JSON");
            prop_assert_eq!(back.id(), settings.id());
            prop_assert_eq!(back, settings);
        }
    }
}
