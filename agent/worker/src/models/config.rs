//! Sizes of published models from their configuration files. Publishers leave out what equals their class's default, so
//! each reader carries those of transformers' and open_clip's classes.

use serde_json::Value;

use super::clip::{ClipTextConfig, ClipVisionConfig};
use super::decoder::{DecoderConfig, Family};
use super::dinov2::Dinov2Config;
use super::mobilevlm::{MobileVlmConfig, Projector};
use super::paligemma::PaliGemmaConfig;
use super::siglip::{SiglipTextConfig, SiglipVisionConfig};
use super::smolvlm::SmolVlmConfig;
use crate::nn::Activation;

/// Sizes of a model of images and texts in one space.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// The encoder of images.
    pub vision: ClipVisionConfig,
    /// The encoder of texts.
    pub text: ClipTextConfig,
    /// Width of an embedding.
    pub embedding: i64,
}

/// Sizes of a SigLIP.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipConfig {
    /// The encoder of images.
    pub vision: SiglipVisionConfig,
    /// The encoder of texts.
    pub text: SiglipTextConfig,
}

/// A size; one of 0 would be divided by, and fits no weights either.
fn int(config: &Value, key: &str, default: i64) -> i64 {
    config[key].as_i64().map_or(default, |n| n.max(1))
}

fn float(config: &Value, key: &str, default: f64) -> f64 {
    config[key].as_f64().unwrap_or(default)
}

/// An activation by the name that transformers gives it.
///
/// # Errors
/// It is another than these models have.
pub fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "quick_gelu" => Ok(Activation::QuickGelu),
        other => Err(format!("the activation \"{other}\" is none of gelu, gelu_pytorch_tanh and quick_gelu")),
    }
}

/// transformers' `Dinov2Config`.
pub fn dinov2(config: &Value) -> Dinov2Config {
    let width = int(config, "hidden_size", 768);
    Dinov2Config {
        image_size: int(config, "image_size", 224),
        patch_size: int(config, "patch_size", 14),
        width,
        depth: int(config, "num_hidden_layers", 12),
        heads: int(config, "num_attention_heads", 12),
        hidden: (width as f64 * float(config, "mlp_ratio", 4.0)) as i64,
        norm_eps: float(config, "layer_norm_eps", 1e-6),
    }
}

/// open_clip's `model_cfg`; what is not said is ViT-B-32's.
pub fn open_clip(config: &Value) -> ClipConfig {
    let (vision, text) = (&config["vision_cfg"], &config["text_cfg"]);
    let activation =
        if config["quick_gelu"].as_bool() == Some(true) { Activation::QuickGelu } else { Activation::Gelu };
    let norm_eps = |tower: &Value| float(&tower["norm_kwargs"], "eps", float(config, "norm_eps", 1e-5));
    let (width, text_width) = (int(vision, "width", 768), int(text, "width", 512));
    ClipConfig {
        vision: ClipVisionConfig {
            image_size: int(vision, "image_size", 224),
            patch_size: int(vision, "patch_size", 32),
            width,
            depth: int(vision, "layers", 12),
            heads: width / int(vision, "head_width", 64).max(1),
            hidden: (width as f64 * float(vision, "mlp_ratio", 4.0)) as i64,
            norm_eps: norm_eps(vision),
            activation,
        },
        text: ClipTextConfig {
            context: int(text, "context_length", 77),
            vocabulary: int(text, "vocab_size", 49408),
            width: text_width,
            depth: int(text, "layers", 12),
            heads: int(text, "heads", 8),
            hidden: (text_width as f64 * float(text, "mlp_ratio", 4.0)) as i64,
            norm_eps: norm_eps(text),
            activation,
        },
        embedding: int(config, "embed_dim", 512),
    }
}

/// transformers' `CLIPVisionConfig`; what is not said is ViT-B-32's.
///
/// # Errors
/// See [`activation`].
pub fn clip_vision(config: &Value) -> Result<ClipVisionConfig, String> {
    let width = int(config, "hidden_size", 768);
    Ok(ClipVisionConfig {
        image_size: int(config, "image_size", 224),
        patch_size: int(config, "patch_size", 32),
        width,
        depth: int(config, "num_hidden_layers", 12),
        heads: int(config, "num_attention_heads", 12),
        hidden: int(config, "intermediate_size", 3072),
        norm_eps: float(config, "layer_norm_eps", 1e-5),
        activation: activation(config["hidden_act"].as_str().unwrap_or("quick_gelu"))?,
    })
}

/// transformers' `CLIPConfig`.
///
/// # Errors
/// See [`activation`].
pub fn clip(config: &Value) -> Result<ClipConfig, String> {
    let text = &config["text_config"];
    Ok(ClipConfig {
        vision: clip_vision(&config["vision_config"])?,
        text: ClipTextConfig {
            context: int(text, "max_position_embeddings", 77),
            vocabulary: int(text, "vocab_size", 49408),
            width: int(text, "hidden_size", 512),
            depth: int(text, "num_hidden_layers", 12),
            heads: int(text, "num_attention_heads", 8),
            hidden: int(text, "intermediate_size", 2048),
            norm_eps: float(text, "layer_norm_eps", 1e-5),
            activation: activation(text["hidden_act"].as_str().unwrap_or("quick_gelu"))?,
        },
        embedding: int(config, "projection_dim", 512),
    })
}

/// transformers' `SiglipVisionConfig`.
pub fn siglip_vision(config: &Value) -> SiglipVisionConfig {
    SiglipVisionConfig {
        image_size: int(config, "image_size", 224),
        patch_size: int(config, "patch_size", 16),
        width: int(config, "hidden_size", 768),
        depth: int(config, "num_hidden_layers", 12),
        heads: int(config, "num_attention_heads", 12),
        hidden: int(config, "intermediate_size", 3072),
        norm_eps: float(config, "layer_norm_eps", 1e-6),
    }
}

/// transformers' `SiglipConfig`.
pub fn siglip(config: &Value) -> SiglipConfig {
    let (vision, text) = (siglip_vision(&config["vision_config"]), &config["text_config"]);
    SiglipConfig {
        text: SiglipTextConfig {
            context: int(text, "max_position_embeddings", 64),
            vocabulary: int(text, "vocab_size", 32000),
            width: int(text, "hidden_size", 768),
            depth: int(text, "num_hidden_layers", 12),
            heads: int(text, "num_attention_heads", 12),
            hidden: int(text, "intermediate_size", 3072),
            norm_eps: float(text, "layer_norm_eps", 1e-6),
            embedding: int(text, "projection_size", vision.width),
        },
        vision,
    }
}

/// transformers' `LlamaConfig` and `GemmaConfig`.
fn decoder(config: &Value, family: Family) -> DecoderConfig {
    let [vocabulary, width, hidden, depth, heads] = match family {
        Family::Llama => [32_000, 4096, 11_008, 32, 32],
        Family::Gemma => [256_000, 3072, 24_576, 28, 16],
    };
    let (width, heads) = (int(config, "hidden_size", width), int(config, "num_attention_heads", heads));
    let (kv_heads, head) = match family {
        Family::Llama => (heads, width / heads),
        Family::Gemma => (16, 256),
    };
    DecoderConfig {
        vocabulary: int(config, "vocab_size", vocabulary),
        width,
        depth: int(config, "num_hidden_layers", depth),
        heads,
        kv_heads: int(config, "num_key_value_heads", kv_heads),
        head: int(config, "head_dim", head),
        hidden: int(config, "intermediate_size", hidden),
        norm_eps: float(config, "rms_norm_eps", 1e-6),
        // transformers writes it below `rope_parameters` since its version 5.
        rope_theta: float(&config["rope_parameters"], "rope_theta", float(config, "rope_theta", 1e4)),
        family,
    }
}

/// transformers' `Idefics3Config`, whose encoder of images has other defaults than SigLIP's.
pub fn smolvlm(config: &Value) -> SmolVlmConfig {
    let vision = &config["vision_config"];
    SmolVlmConfig {
        vision: SiglipVisionConfig {
            patch_size: int(vision, "patch_size", 32),
            width: int(vision, "hidden_size", 1152),
            heads: int(vision, "num_attention_heads", 16),
            ..siglip_vision(vision)
        },
        text: decoder(&config["text_config"], Family::Llama),
        shuffle: int(config, "scale_factor", 2),
    }
}

/// transformers' `PaliGemmaConfig`.
pub fn paligemma(config: &Value) -> PaliGemmaConfig {
    PaliGemmaConfig {
        vision: siglip_vision(&config["vision_config"]),
        text: decoder(&config["text_config"], Family::Gemma),
    }
}

/// MobileVLM's: a `LlamaConfig` (`text`) with the encoder of images beside it.
///
/// # Errors
/// See [`activation`].
pub fn mobilevlm(text: &Value, vision: &Value, projector: Projector) -> Result<MobileVlmConfig, String> {
    let large = ClipVisionConfig {
        image_size: int(vision, "image_size", 336),
        patch_size: int(vision, "patch_size", 14),
        width: int(vision, "hidden_size", 1024),
        depth: int(vision, "num_hidden_layers", 24),
        heads: int(vision, "num_attention_heads", 16),
        hidden: int(vision, "intermediate_size", 4096),
        norm_eps: float(vision, "layer_norm_eps", 1e-5),
        activation: activation(vision["hidden_act"].as_str().unwrap_or("quick_gelu"))?,
    };
    Ok(MobileVlmConfig { vision: large, text: decoder(text, Family::Llama), projector })
}
