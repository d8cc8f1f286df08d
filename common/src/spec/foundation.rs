//! Public models that are not trained here: they classify as they are, or by their features.

use super::Recipe;

/// A model that is used as its authors published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Foundation {
    /// OpenCLIP's ViT-B-32.
    OpenClipB32,
    /// OpenCLIP's ViT-B-16.
    OpenClipB16,
    /// OpenCLIP's ViT-L-14, the study's.
    OpenClipL14,
    /// SigLIP's base model for 224 pixels.
    SiglipBase,
    /// SigLIP's large model for 384 pixels, the study's.
    SiglipLarge,
    /// DINOv2's ViT-S/14.
    Dinov2Small,
    /// DINOv2's ViT-B/14.
    Dinov2Base,
    /// DINOv2's ViT-L/14, the study's.
    Dinov2Large,
    /// SmolVLM-256M-Instruct.
    SmolVlm256m,
    /// SmolVLM-500M-Instruct.
    SmolVlm500m,
    /// PaliGemma 3B for 224 pixels.
    PaliGemma3b,
    /// MobileVLM 1.7B.
    MobileVlm,
    /// MobileVLM V2 1.7B.
    MobileVlmV2,
}

/// What a model that is not trained gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// Embeddings of images and of texts in one space.
    Embeddings,
    /// Features of images.
    Features,
    /// Answers in words.
    Answers,
}

impl Foundation {
    /// Every one, in the order of tables.
    pub const ALL: [Self; 13] = [
        Self::OpenClipB32,
        Self::OpenClipB16,
        Self::OpenClipL14,
        Self::SiglipBase,
        Self::SiglipLarge,
        Self::Dinov2Small,
        Self::Dinov2Base,
        Self::Dinov2Large,
        Self::SmolVlm256m,
        Self::SmolVlm500m,
        Self::PaliGemma3b,
        Self::MobileVlm,
        Self::MobileVlmV2,
    ];

    /// The name in files and tables; also that of the folder of its weights.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenClipB32 => "openclip_vit_b_32",
            Self::OpenClipB16 => "openclip_vit_b_16",
            Self::OpenClipL14 => "openclip_vit_l_14",
            Self::SiglipBase => "siglip_base_patch16_224",
            Self::SiglipLarge => "siglip_large_patch16_384",
            Self::Dinov2Small => "dinov2_small",
            Self::Dinov2Base => "dinov2_base",
            Self::Dinov2Large => "dinov2_large",
            Self::SmolVlm256m => "smolvlm_256m",
            Self::SmolVlm500m => "smolvlm_500m",
            Self::PaliGemma3b => "paligemma_3b_224",
            Self::MobileVlm => "mobilevlm_1_7b",
            Self::MobileVlmV2 => "mobilevlm_v2_1_7b",
        }
    }

    /// What it gives.
    pub const fn gives(self) -> Gives {
        match self {
            Self::OpenClipB32 | Self::OpenClipB16 | Self::OpenClipL14 | Self::SiglipBase | Self::SiglipLarge => {
                Gives::Embeddings
            }
            Self::Dinov2Small | Self::Dinov2Base | Self::Dinov2Large => Gives::Features,
            Self::SmolVlm256m | Self::SmolVlm500m | Self::PaliGemma3b | Self::MobileVlm | Self::MobileVlmV2 => {
                Gives::Answers
            }
        }
    }

    /// Side of the square pictures that the public model sees, pixels.
    pub const fn image_size(self) -> u32 {
        match self {
            Self::SiglipLarge => 384,
            Self::SmolVlm256m | Self::SmolVlm500m => 512,
            Self::MobileVlm | Self::MobileVlmV2 => 336,
            _ => 224,
        }
    }

    /// Side of a patch, pixels.
    pub const fn patch(self) -> u32 {
        match self {
            Self::OpenClipB32 => 32,
            Self::OpenClipB16 | Self::SiglipBase | Self::SiglipLarge | Self::SmolVlm256m | Self::SmolVlm500m => 16,
            _ => 14,
        }
    }

    /// Parameters of the public model, in millions: what placing a trial begins with. (design/models.md's counts, and
    /// the authors' papers.)
    pub const fn millions(self) -> f64 {
        match self {
            Self::OpenClipB32 => 151.3,
            Self::OpenClipB16 => 149.6,
            Self::OpenClipL14 => 427.6,
            Self::SiglipBase => 203.2,
            Self::SiglipLarge => 652.5,
            Self::Dinov2Small => 22.1,
            Self::Dinov2Base => 86.6,
            Self::Dinov2Large => 304.4,
            Self::SmolVlm256m => 256.5,
            Self::SmolVlm500m => 507.5,
            Self::PaliGemma3b => 2923.5,
            Self::MobileVlm | Self::MobileVlmV2 => 1700.0,
        }
    }

    /// Multiply-accumulates for one image, in billions, about: tokens of an image times the parameters that they pass
    /// through. What timing a trial begins with; a record tells what was counted.
    pub const fn gmacs(self) -> f64 {
        match self {
            Self::OpenClipB32 => 4.4,
            Self::OpenClipB16 | Self::SiglipBase => 17.6,
            Self::OpenClipL14 | Self::Dinov2Large => 81.0,
            Self::SiglipLarge => 191.0,
            Self::Dinov2Small => 6.1,
            Self::Dinov2Base => 23.3,
            Self::SmolVlm256m => 120.0,
            Self::SmolVlm500m => 150.0,
            Self::PaliGemma3b => 900.0,
            Self::MobileVlm | Self::MobileVlmV2 => 500.0,
        }
    }

    /// The preprocessing of the public model, where its folder does not say another.
    pub const fn recipe(self) -> Recipe {
        match self {
            Self::OpenClipB32 | Self::OpenClipB16 | Self::OpenClipL14 | Self::MobileVlm | Self::MobileVlmV2 => {
                Recipe::CLIP
            }
            // To a square, whatever the aspect was.
            Self::SiglipBase | Self::SiglipLarge | Self::PaliGemma3b => Recipe { crop_share: None, ..Recipe::HALVES },
            Self::Dinov2Small | Self::Dinov2Base | Self::Dinov2Large => {
                Recipe::timm(Recipe::PROTOCOL.mean, Recipe::PROTOCOL.std, 0.875)
            }
            Self::SmolVlm256m | Self::SmolVlm500m => Recipe::TILES,
        }
    }
}
