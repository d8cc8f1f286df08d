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
}

impl Checkpointing {
    /// Every strategy, in the order of tables.
    pub const ALL: [Self; 2] = [Self::None, Self::Static];

    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Static => "static",
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
