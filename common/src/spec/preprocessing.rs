//! How an image becomes a model's input.

use serde::{Deserialize, Serialize};

/// Whose preprocessing a trial uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preprocessing {
    /// The study's, the same for all backbones: bilinear, ImageNet's mean and deviation, the data set's own crops.
    #[default]
    Protocol,
    /// What the initial weights were trained with: their mean and deviation, interpolation, and crop for evaluation.
    Weights,
}

impl Preprocessing {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Weights => "weights",
        }
    }
}

/// How pixels between pixels are found. Reducing filters: their support grows with the reduction, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
    /// Lanczos' window of three lobes.
    Lanczos,
}

impl Interpolation {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }
}

/// The numbers of a preprocessing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Mean of red, green and blue that is subtracted, of values in [0, 1].
    pub mean: [f64; 3],
    /// Deviation of red, green and blue that is divided by.
    pub std: [f64; 3],
    /// How images are resampled.
    pub interpolation: Interpolation,
    /// For evaluation: the shorter side becomes ⌊input side / crop_share⌋, then the centre is cut out. `None` is the
    /// data set's protocol.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub crop_share: Option<f64>,
}

impl Recipe {
    /// The study's, for all backbones.
    pub const PROTOCOL: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        interpolation: Interpolation::Bilinear,
        crop_share: None,
    };

    /// OpenAI's CLIP, as OpenCLIP keeps it.
    pub const CLIP: Self =
        Self::timm([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11], 1.0);

    /// SigLIP's: values from -1 to 1.
    pub const HALVES: Self = Self::timm([0.5; 3], [0.5; 3], 1.0);

    /// Idefics3's and SmolVLM's.
    pub const TILES: Self = Self { interpolation: Interpolation::Lanczos, ..Self::HALVES };

    /// What timm records with a checkpoint: bicubic, and these.
    pub(super) const fn timm(mean: [f64; 3], std: [f64; 3], crop_share: f64) -> Self {
        Self { mean, std, interpolation: Interpolation::Bicubic, crop_share: Some(crop_share) }
    }
}
