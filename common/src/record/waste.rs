//! Energy that is in no record.

use serde::{Deserialize, Serialize};

use super::Energy;
use crate::id::{AgentId, Attempt, HardwareClass, TrialId};

/// What an attempt took and nobody's figures hold: it was interrupted, it crashed, or another attempt's record counts.
/// Useful energy is what records tell; this is the rest of what a campaign cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waste {
    /// The trial.
    pub trial: TrialId,
    /// The attempt; each is told of once.
    pub attempt: Attempt,
    /// Where.
    pub agent: AgentId,
    /// On what.
    pub hardware: HardwareClass,
    /// How much, of the device.
    pub energy: Energy,
    /// Over how long, seconds.
    pub seconds: f64,
    /// Why, in words.
    pub reason: String,
}

impl Waste {
    /// Reads the document.
    ///
    /// # Errors
    /// It is not one, or its figures are no energy; in words.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let waste: Self = serde_json::from_slice(text).map_err(|e| format!("not an account of wasted energy: {e}"))?;
        if waste.energy.joules.is_finite() && waste.energy.joules >= 0.0 && waste.seconds >= 0.0 {
            Ok(waste)
        } else {
            Err(format!("expected wasted joules and seconds of 0 or more, found {} J", waste.energy.joules))
        }
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("our own types are JSON")
    }
}
