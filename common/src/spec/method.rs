//! Fine-tuning methods and their hyper-parameters.

use serde::{Deserialize, Serialize};

use super::error::unknown;

/// A fine-tuning method, by the name that tables show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Method {
    /// Every parameter trains.
    Full,
    /// Low-rank adapters beside frozen linear layers (Hu et al., arXiv 2106.09685), and the head.
    Lora,
    /// Biases and the head train (Ben Zaken et al., arXiv 2106.10199).
    BitFit,
}

impl Method {
    /// Every method, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Full, Self::Lora, Self::BitFit];

    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::BitFit => "bitfit",
        }
    }

    /// All names, for messages.
    pub fn names() -> Vec<&'static str> {
        Self::ALL.map(Self::name).to_vec()
    }

    /// The protocol's learning rate (arXiv 2607.02158's public code): 1e-5 for full fine-tuning, 5e-4 for the others.
    pub const fn default_learning_rate(self) -> f64 {
        match self {
            Self::Full => 1e-5,
            Self::Lora | Self::BitFit => 5e-4,
        }
    }
}

impl TryFrom<String> for Method {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| unknown("method", &name, &Self::names()))
    }
}

impl From<Method> for &'static str {
    fn from(method: Method) -> Self {
        method.name()
    }
}

/// Hyper-parameters of the methods: the file's `[method.NAME]` sections.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MethodSpecs {
    /// `[method.lora]`.
    pub lora: LoraSpec,
}

/// `[method.lora]`. The defaults are the protocol's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSpec {
    /// Rank r of the update B·A.
    #[serde(deserialize_with = "positive")]
    pub rank: u32,
    /// The update is scaled by alpha / rank.
    pub alpha: f64,
    /// Dropout on the adapter's input, in [0, 1).
    #[serde(deserialize_with = "probability")]
    pub dropout: f64,
    /// Last parts of the names of the linear layers that get an adapter; none named means the backbone's own choice
    /// ([`super::Backbone::lora_targets`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: None }
    }
}

fn positive<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let n = i64::deserialize(deserializer)?;
    u32::try_from(n)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| serde::de::Error::custom(format!("expected a positive whole number, found {n}")))
}

fn probability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let p = f64::deserialize(deserializer)?;
    if (0.0..1.0).contains(&p) {
        Ok(p)
    } else {
        Err(serde::de::Error::custom(format!("expected a probability from 0 to below 1, found {p}")))
    }
}
