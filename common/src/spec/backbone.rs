//! Vision backbones, as far as planning needs to know them: those that are fine-tuned, and public models that are used as
//! they are. `agent/worker/src/models` has the rest.

use serde::{Deserialize, Serialize};

use super::error::unknown;
use super::{Foundation, Recipe};

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
    /// timm's `tiny_vit_5m_224`.
    TinyVit5m,
    /// timm's `tiny_vit_11m_224`.
    TinyVit11m,
    /// timm's `tiny_vit_21m_224`, the study's TinyViT.
    TinyVit21m,
    /// hustvl's Vim-Tiny with its class token in the middle.
    VimTiny,
    /// hustvl's Vim-Small with its class token in the middle, the study's Vim-Small.
    VimSmall,
    /// NVIDIA's MambaVision-T.
    MambaVisionT,
    /// A model that is not trained.
    Foundation(Foundation),
}

impl Backbone {
    /// Those that are fine-tuned, in the order of tables.
    pub const TRAINED: [Self; 9] = [
        Self::VitMicro,
        Self::VitTinyPatch16,
        Self::VitSmallPatch16,
        Self::TinyVit5m,
        Self::TinyVit11m,
        Self::TinyVit21m,
        Self::VimTiny,
        Self::VimSmall,
        Self::MambaVisionT,
    ];

    /// Every backbone, in the order of tables.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::TRAINED.into_iter().chain(Foundation::ALL.map(Self::Foundation))
    }

    /// The model that is not trained, if it is one.
    pub const fn foundation(self) -> Option<Foundation> {
        match self {
            Self::Foundation(foundation) => Some(foundation),
            _ => None,
        }
    }

    /// The public name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VitMicro => "vit_micro",
            Self::VitTinyPatch16 => "vit_tiny_patch16_224",
            Self::VitSmallPatch16 => "vit_small_patch16_224",
            Self::TinyVit5m => "tiny_vit_5m_224",
            Self::TinyVit11m => "tiny_vit_11m_224",
            Self::TinyVit21m => "tiny_vit_21m_224",
            Self::VimTiny => "vim_tiny_patch16_224",
            Self::VimSmall => "vim_small_patch16_224",
            Self::MambaVisionT => "mamba_vision_T",
            Self::Foundation(foundation) => foundation.name(),
        }
    }

    /// All names, for messages.
    pub fn names() -> Vec<&'static str> {
        Self::all().map(Self::name).collect()
    }

    /// Side of the square input in pixels.
    pub const fn image_size(self) -> u32 {
        match self {
            Self::VitMicro => 64,
            Self::Foundation(foundation) => foundation.image_size(),
            _ => 224,
        }
    }

    /// What an input's side must be a multiple of: the side of a patch, or what halving the map again and again divides
    /// by.
    pub const fn size_step(self) -> u32 {
        match self {
            Self::VitMicro => 8,
            Self::VitTinyPatch16 | Self::VitSmallPatch16 | Self::VimTiny | Self::VimSmall => 16,
            Self::TinyVit5m | Self::TinyVit11m | Self::TinyVit21m | Self::MambaVisionT => 32,
            Self::Foundation(foundation) => foundation.patch(),
        }
    }

    /// The windows that attention is confined to: the stage's name in checkpoints, what the input's side is divided by
    /// to give the map's, and the window's side in pixels of the map.
    pub const fn windows(self) -> &'static [(&'static str, u32, u32)] {
        match self {
            Self::VitMicro
            | Self::VitTinyPatch16
            | Self::VitSmallPatch16
            | Self::VimTiny
            | Self::VimSmall
            | Self::Foundation(_) => &[],
            Self::TinyVit5m | Self::TinyVit11m | Self::TinyVit21m => {
                &[("stages.1", 8, 7), ("stages.2", 16, 14), ("stages.3", 32, 7)]
            }
            Self::MambaVisionT => &[("levels.2", 16, 14), ("levels.3", 32, 7)],
        }
    }

    /// The protocol's batch for training.
    pub const fn default_batch(self) -> u32 {
        match self {
            Self::MambaVisionT => 16,
            _ => 32,
        }
    }

    /// Ends of the names of the linear layers that an adapter can sit on.
    pub const fn linear_layers(self) -> &'static [&'static str] {
        match self {
            Self::VimTiny | Self::VimSmall => &[
                "mixer.in_proj",
                "mixer.x_proj",
                "mixer.dt_proj",
                "mixer.x_proj_b",
                "mixer.dt_proj_b",
                "mixer.out_proj",
            ],
            Self::MambaVisionT => &[
                "mixer.in_proj",
                "mixer.x_proj",
                "mixer.dt_proj",
                "mixer.out_proj",
                "mixer.qkv",
                "mixer.proj",
                "mlp.fc1",
                "mlp.fc2",
            ],
            Self::Foundation(_) => &[],
            _ => &["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"],
        }
    }

    /// The linear layers that LoRA and its kin adapt unless the campaign names others, as in the protocol. (Its list
    /// for Vim ends in `proj`, which names no linear layer but the convolution of the patches; that one gets no adapter
    /// here.)
    pub const fn lora_targets(self) -> &'static [&'static str] {
        match self {
            Self::VitMicro | Self::VitTinyPatch16 | Self::VitSmallPatch16 => &["qkv", "fc1", "fc2"],
            Self::TinyVit5m | Self::TinyVit11m | Self::TinyVit21m => &["qkv", "proj", "fc1", "fc2"],
            Self::VimTiny | Self::VimSmall => &["in_proj", "x_proj", "dt_proj", "out_proj"],
            Self::MambaVisionT => &["in_proj", "out_proj", "fc1", "fc2"],
            Self::Foundation(_) => &[],
        }
    }

    /// Dropout on the input of LoRA's and QLoRA's adapters unless the campaign says otherwise, as in the protocol.
    pub const fn lora_dropout(self) -> f64 {
        match self {
            Self::VimTiny | Self::VimSmall => 0.1,
            _ => 0.0,
        }
    }

    /// The preprocessing that belongs to the public weights, from timm's configurations of them or their authors'
    /// scripts.
    pub const fn recipe(self) -> Recipe {
        match self {
            Self::VitMicro => Recipe::PROTOCOL,
            Self::VitTinyPatch16 | Self::VitSmallPatch16 => Recipe::timm([0.5; 3], [0.5; 3], 0.9),
            Self::TinyVit5m | Self::TinyVit11m | Self::TinyVit21m => {
                Recipe::timm(Recipe::PROTOCOL.mean, Recipe::PROTOCOL.std, 0.95)
            }
            Self::VimTiny | Self::VimSmall => Recipe::timm(Recipe::PROTOCOL.mean, Recipe::PROTOCOL.std, 0.875),
            Self::MambaVisionT => Recipe::timm(Recipe::PROTOCOL.mean, Recipe::PROTOCOL.std, 1.0),
            Self::Foundation(foundation) => foundation.recipe(),
        }
    }
}

/// Whether `target` names the layer at `path`: it is the path, or an end of it that begins at a dot, as in HF PEFT.
pub fn is_target(target: &str, path: &str) -> bool {
    path.strip_suffix(target).is_some_and(|before| !target.is_empty() && (before.is_empty() || before.ends_with('.')))
}

impl TryFrom<String> for Backbone {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::all().find(|b| b.name() == name).ok_or_else(|| unknown("backbone", &name, &Self::names()))
    }
}

impl From<Backbone> for &'static str {
    fn from(backbone: Backbone) -> Self {
        backbone.name()
    }
}
