//! What to expect of a cell's memory: what finished trials measured where there are any, else the estimate, corrected by how
//! far it was off for the same backbone and method.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Estimate, estimate};
use crate::plan::CellSettings;
use crate::record::{OutcomeClass, Record};
use crate::spec::{Backbone, Checkpointing, Method, Precision};
use crate::units::Bytes;
use crate::worker::Phase;

/// What a cell's training step is expected to need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The most that tensors will hold, bytes.
    pub peak_bytes: u64,
    /// Where the figure comes from.
    pub basis: Basis,
}

/// Where an expected peak comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Basis {
    /// The largest peak of finished trials of the same model and step.
    Measured {
        /// How many they are.
        trials: usize,
    },
    /// The estimate, times the median of measured over estimated peaks.
    Corrected {
        /// How many trials of the same backbone and method that is the median of.
        trials: usize,
        /// The median.
        ratio: f64,
    },
    /// The estimate as it is.
    Estimated,
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Measured { .. } => f.write_str("measured"),
            Self::Corrected { trials: 1, .. } => f.write_str("estimated, corrected by 1 trial"),
            Self::Corrected { trials, .. } => write!(f, "estimated, corrected by {trials} trials"),
            Self::Estimated => f.write_str("estimated"),
        }
    }
}

/// Why a cell will not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "exceeds", rename_all = "snake_case")]
pub enum Shortage {
    /// It needs more than its budget.
    Budget {
        /// The budget, bytes.
        budget_bytes: u64,
    },
    /// It needs more than any known device has.
    Devices {
        /// The memory of the largest, bytes.
        largest_bytes: u64,
    },
}

impl Expected {
    /// Why a cell with this budget will not fit, if it will not. `devices` are the memories of those that are known, bytes.
    pub fn shortage(&self, budget: Option<u64>, devices: &[u64]) -> Option<Shortage> {
        let over = |limit: &u64| self.peak_bytes > *limit;
        if let Some(budget_bytes) = budget.filter(over) {
            return Some(Shortage::Budget { budget_bytes });
        }
        let largest_bytes = devices.iter().copied().max().filter(over)?;
        Some(Shortage::Devices { largest_bytes })
    }

    /// The shortage in words.
    pub fn describe(&self, shortage: Shortage) -> String {
        let (limit, of_what) = match shortage {
            Shortage::Budget { budget_bytes } => (budget_bytes, ""),
            Shortage::Devices { largest_bytes } => (largest_bytes, " that the largest device has"),
        };
        format!("needs about {} of {}{of_what}", Bytes(self.peak_bytes), Bytes(limit))
    }
}

/// What finished trials have measured.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Peaks by what a step is.
    measured: Vec<(Step, u64)>,
    /// Measured over estimated, ascending, by backbone and method.
    ratios: BTreeMap<(Backbone, Method), Vec<f64>>,
}

/// What decides a step's memory, as far as settings say it. Seeds, data and rates do not; the number of classes hardly.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    backbone: Backbone,
    method: crate::plan::MethodSettings,
    checkpointing: Checkpointing,
    /// Where the strategy looks at it.
    limits: [Option<u64>; 2],
    /// Batch, parts in which it goes through the model, precision.
    train: Option<(u32, u32, Precision)>,
    image_size: u32,
}

impl Step {
    fn of(settings: &CellSettings) -> Self {
        Self {
            backbone: settings.backbone,
            method: settings.method.clone(),
            checkpointing: settings.checkpointing,
            limits: [
                settings.budget_bytes.and_then(|b| settings.adaptive_threshold(b)),
                super::planned_limit(settings),
            ],
            train: settings.train.as_ref().map(|train| (train.batch, train.micro_batches, train.precision)),
            image_size: settings.image_size,
        }
    }
}

impl History {
    /// What these records tell. Only completed trials count: the others were cut short.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut history = Self::default();
        let mut known: Vec<(Step, u64)> = Vec::new();
        for record in records.into_iter().filter(|r| r.outcome.kind() == OutcomeClass::Completed) {
            let phases = match record.settings.train {
                Some(_) => [Phase::WarmUp, Phase::Train],
                None => [Phase::Prepare, Phase::Evaluate],
            };
            let peak = phases.iter().filter_map(|phase| record.worker_phase(*phase)).map(|p| p.peak_bytes).max();
            let Some(peak) = peak.filter(|peak| *peak > 0) else { continue };
            let step = Step::of(&record.settings);
            let estimated = match known.iter().find(|(other, _)| *other == step) {
                Some((_, estimated)) => *estimated,
                None => {
                    let estimated = estimate(&record.settings).peak_bytes;
                    known.push((step.clone(), estimated));
                    estimated
                }
            };
            let key = (step.backbone, step.method.method());
            history.ratios.entry(key).or_default().push(peak as f64 / estimated.max(1) as f64);
            history.measured.push((step, peak));
        }
        history.ratios.values_mut().for_each(|ratios| ratios.sort_by(f64::total_cmp));
        history
    }

    /// What to expect of a cell with this estimate.
    pub fn expect(&self, settings: &CellSettings, estimate: &Estimate) -> Expected {
        let step = Step::of(settings);
        let peaks: Vec<u64> = self.measured.iter().filter(|(other, _)| *other == step).map(|(_, peak)| *peak).collect();
        if let Some(peak_bytes) = peaks.iter().copied().max() {
            return Expected { peak_bytes, basis: Basis::Measured { trials: peaks.len() } };
        }
        let ratios = self.ratios.get(&(settings.backbone, settings.method.method())).map_or(&[][..], Vec::as_slice);
        let Some(ratio) = median(ratios) else {
            return Expected { peak_bytes: estimate.peak_bytes, basis: Basis::Estimated };
        };
        let scaled = |bytes: u64| (bytes as f64 * ratio).round() as u64;
        let peak_bytes = match settings.checkpointing {
            // It keeps as much as fits below its limit, whatever the estimate is off by.
            Checkpointing::Planned => {
                let most = super::planned_limit(settings).unwrap_or(u64::MAX);
                scaled(estimate.peak_none_bytes).min(most).max(scaled(estimate.least_bytes))
            }
            Checkpointing::None | Checkpointing::Static | Checkpointing::Adaptive => scaled(estimate.peak_bytes),
        };
        Expected { peak_bytes, basis: Basis::Corrected { trials: ratios.len(), ratio } }
    }
}

/// The middle of ascending values; of an even number, the mean of the two in the middle.
fn median(ascending: &[f64]) -> Option<f64> {
    let n = ascending.len();
    let upper = *ascending.get(n / 2)?;
    Some(if n.is_multiple_of(2) { (ascending[n / 2 - 1] + upper) / 2.0 } else { upper })
}
