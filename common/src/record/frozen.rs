//! What a record tells of a model that was not trained.

use serde::{Deserialize, Serialize};

/// How such a model classified.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Frozen {
    /// Images that went through it at once: as many as the settings ask for, or as fitted the budget.
    pub batch: u32,
    /// Side of the square pictures that it saw, pixels: its folder's processor makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u32>,
    /// Training images that were looked at; their cost is that of the phase "prepare".
    #[serde(default, skip_serializing_if = "is_zero")]
    pub support_images: u64,
    /// Descriptions of classes that were encoded, in the same phase.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub texts: u64,
    /// What was answered, the most frequent first: where it answers in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// Images whose answers are not among those, because there were too many different ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_answers: u64,
    /// The probe that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeChoice>,
}

/// Different answers that a record keeps.
pub const MOST_ANSWERS: usize = 500;

/// An answer in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// As it was given, cut to 200 characters.
    pub text: String,
    /// The class that it means by the rule of [`crate::answer`]; `None` counts as wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<u32>,
    /// That class's name in words; absent in records of versions that kept its number alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// How often it was given.
    pub times: u64,
    /// How often it was right.
    pub right: u64,
}

/// Which of the probes that were trained counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProbeChoice {
    /// Its learning rate, per 256 images.
    pub learning_rate: f64,
    /// Its accuracy on the training images that were held back, which chose it.
    pub held_back_percent: f64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}
