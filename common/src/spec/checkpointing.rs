//! What backward keeps and what it computes again.

use serde::{Deserialize, Serialize};

use super::error::unknown;

/// A checkpointing strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Checkpointing {
    /// Every activation is kept.
    None,
    /// Every block keeps only its input and runs its forward again in backward.
    Static,
    /// The study's: activations are kept until the memory in use reaches a share of the budget; the blocks from there
    /// on run again. Decided anew in each step.
    Adaptive,
    /// One step is profiled; then the blocks keep all, run their cheap parts again, or run again as a whole, so that
    /// the peak stays below the budget and the least time is lost.
    Planned,
}

impl Checkpointing {
    /// Every strategy, in the order of tables.
    pub const ALL: [Self; 4] = [Self::None, Self::Static, Self::Adaptive, Self::Planned];

    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Static => "static",
            Self::Adaptive => "adaptive",
            Self::Planned => "planned",
        }
    }

    /// Whether the strategy cannot do without a budget.
    pub const fn needs_budget(self) -> bool {
        matches!(self, Self::Adaptive | Self::Planned)
    }
}

impl TryFrom<String> for Checkpointing {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| unknown("checkpointing strategy", &name, &Self::ALL.map(Self::name)))
    }
}

impl From<Checkpointing> for &'static str {
    fn from(checkpointing: Checkpointing) -> Self {
        checkpointing.name()
    }
}

/// What the strategies can be told: the file's `[checkpointing.NAME]` sections.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointingSpecs {
    /// `[checkpointing.adaptive]`.
    pub adaptive: AdaptiveSpec,
    /// `[checkpointing.planned]`.
    pub planned: PlannedSpec,
}

/// `[checkpointing.adaptive]`. The default is the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveSpec {
    /// Share of the budget from which on blocks run again, in (0, 1].
    #[serde(deserialize_with = "share")]
    pub ratio: f64,
}

impl Default for AdaptiveSpec {
    fn default() -> Self {
        Self { ratio: 0.5 }
    }
}

/// `[checkpointing.planned]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlannedSpec {
    /// Share of the budget that the plan leaves free, in [0, 0.5]: for what an allocator loses between blocks, which a
    /// plan cannot know.
    #[serde(deserialize_with = "margin")]
    pub margin: f64,
}

impl Default for PlannedSpec {
    fn default() -> Self {
        Self { margin: 0.02 }
    }
}

fn margin<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let margin = f64::deserialize(deserializer)?;
    if (0.0..=0.5).contains(&margin) {
        Ok(margin)
    } else {
        Err(serde::de::Error::custom(format!("expected a number from 0 to 0.5, found {margin}")))
    }
}

fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if ratio > 0.0 && ratio <= 1.0 {
        Ok(ratio)
    } else {
        Err(serde::de::Error::custom(format!("expected a number above 0 and at most 1, found {ratio}")))
    }
}
