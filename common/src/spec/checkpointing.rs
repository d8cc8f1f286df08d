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
    /// The study's: activations are kept until the memory in use reaches a share of the budget; the blocks from there on run
    /// again. Decided anew in each step.
    Adaptive,
}

impl Checkpointing {
    /// Every strategy, in the order of tables.
    pub const ALL: [Self; 3] = [Self::None, Self::Static, Self::Adaptive];

    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Static => "static",
            Self::Adaptive => "adaptive",
        }
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

fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if ratio > 0.0 && ratio <= 1.0 {
        Ok(ratio)
    } else {
        Err(serde::de::Error::custom(format!("expected a number above 0 and at most 1, found {ratio}")))
    }
}
