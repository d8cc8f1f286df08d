//! Vision backbones that can be fine-tuned, as far as planning needs to know them; `agent/worker/src/models` has the rest.

use serde::{Deserialize, Serialize};

use super::error::unknown;

/// A backbone, by its public name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Backbone {
    /// A ViT of 1.2 million parameters for 64-pixel images: small enough to learn something on two CPU cores in a
    /// minute. Ours; no public weights exist.
    VitMicro,
    /// timm's `vit_tiny_patch16_224`.
    VitTinyPatch16,
    /// timm's `vit_small_patch16_224`, the study's ViT-Small.
    VitSmallPatch16,
}

impl Backbone {
    /// Every backbone, in the order of tables.
    pub const ALL: [Self; 3] = [Self::VitMicro, Self::VitTinyPatch16, Self::VitSmallPatch16];

    /// The public name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VitMicro => "vit_micro",
            Self::VitTinyPatch16 => "vit_tiny_patch16_224",
            Self::VitSmallPatch16 => "vit_small_patch16_224",
        }
    }

    /// All names, for messages.
    pub fn names() -> Vec<&'static str> {
        Self::ALL.map(Self::name).to_vec()
    }

    /// Side of the square input in pixels.
    pub const fn image_size(self) -> u32 {
        match self {
            Self::VitMicro => 64,
            Self::VitTinyPatch16 | Self::VitSmallPatch16 => 224,
        }
    }

    /// Side of a patch in pixels, of which an input holds a whole number.
    pub const fn patch_size(self) -> u32 {
        match self {
            Self::VitMicro => 8,
            Self::VitTinyPatch16 | Self::VitSmallPatch16 => 16,
        }
    }

    /// The protocol's batch for training.
    pub const fn default_batch(self) -> u32 {
        32
    }

    /// Last name parts of the linear layers that an adapter can sit on.
    pub const fn linear_layers(self) -> &'static [&'static str] {
        match self {
            Self::VitMicro | Self::VitTinyPatch16 | Self::VitSmallPatch16 => &["qkv", "proj", "fc1", "fc2"],
        }
    }

    /// The linear layers that LoRA adapts unless the campaign names others, as in the protocol.
    pub const fn lora_targets(self) -> &'static [&'static str] {
        match self {
            Self::VitMicro | Self::VitTinyPatch16 | Self::VitSmallPatch16 => &["qkv", "fc1", "fc2"],
        }
    }
}

impl TryFrom<String> for Backbone {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|b| b.name() == name).ok_or_else(|| unknown("backbone", &name, &Self::names()))
    }
}

impl From<Backbone> for &'static str {
    fn from(backbone: Backbone) -> Self {
        backbone.name()
    }
}
