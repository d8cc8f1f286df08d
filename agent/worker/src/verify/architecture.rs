//! The models that references are of.

use std::rc::Rc;

use anyhow::{Context as _, anyhow};
use fleet_common::spec::Backbone;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::VerifyError;
use super::folder::Folder;
use crate::models::Model;
use crate::models::mamba::step_rank;
use crate::models::mamba_vision::{MambaVision, MambaVisionConfig};
use crate::models::tiny_vit::{TinyVit, TinyVitConfig};
use crate::models::vim::{Vim, VimConfig};
use crate::models::vit::{Vit, VitConfig};
use crate::nn::{Builder, Params, Seed, Weights};
use crate::peft::Method;

/// An architecture in the folder's configuration.
#[derive(Debug, Clone)]
pub(super) enum Architecture {
    Vit(VitConfig),
    TinyVit(TinyVitConfig),
    Vim(VimConfig),
    MambaVision(MambaVisionConfig),
}

/// A reference's model, in our implementation.
pub(super) struct Built {
    pub(super) model: Box<dyn Model>,
    pub(super) params: Params,
}

impl Architecture {
    /// The architecture that the configuration describes, by its arguments or by a preset.
    pub(super) fn of(folder: &Folder) -> Result<Self, VerifyError> {
        let classes = folder.int("num_classes")?;
        let preset = match folder.config["preset"].as_str() {
            // The published classes' shorter names.
            Some("vim_tiny") => Some(Backbone::VimTiny),
            Some("vim_small") => Some(Backbone::VimSmall),
            Some(name) => Some(Backbone::try_from(name.to_owned()).map_err(VerifyError::Unsupported)?),
            None => None,
        };
        match (folder.text("architecture")?, preset) {
            ("vit", Some(Backbone::VitTinyPatch16)) => Self::Vit(VitConfig::tiny_patch16_224(classes)).adjusted(folder),
            ("vit", Some(Backbone::VitSmallPatch16)) => {
                Self::Vit(VitConfig::small_patch16_224(classes)).adjusted(folder)
            }
            ("vit", None) => Ok(Self::Vit(VitConfig {
                image_size: folder.int("img_size")?,
                patch_size: folder.int("patch_size")?,
                width: folder.int("embed_dim")?,
                depth: folder.int("depth")?,
                heads: folder.int("num_heads")?,
                mlp_ratio: folder.number_or("mlp_ratio", 4.0)?,
                classes,
                norm_eps: folder.number_or("norm_eps", 1e-6)?,
            })),
            ("tiny_vit", Some(b @ (Backbone::TinyVit5m | Backbone::TinyVit11m | Backbone::TinyVit21m))) => {
                Self::TinyVit(TinyVitConfig::preset(b, classes)).adjusted(folder)
            }
            ("tiny_vit", None) => {
                let depths = folder.ints("depths")?.iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>();
                Ok(Self::TinyVit(TinyVitConfig {
                    widths: folder.ints("embed_dims")?,
                    depths: depths.context("depths in config.json").map_err(VerifyError::Broken)?,
                    heads: folder.ints("num_heads")?,
                    windows: folder.ints("window_sizes")?,
                    classes,
                    drop_path: folder.number_or("drop_path_rate", 0.0)?,
                    mlp_ratio: folder.number_or("mlp_ratio", 4.0)?,
                    expand_ratio: folder.number_or("mbconv_expand_ratio", 4.0)?,
                    local_kernel: folder.number_or("local_conv_size", 3.0)? as i64,
                }))
            }
            ("vim", Some(b @ (Backbone::VimTiny | Backbone::VimSmall))) => {
                Self::Vim(VimConfig::preset(b, classes)).adjusted(folder)
            }
            ("vim", None) => Self::vim(folder, classes),
            ("mambavision", Some(Backbone::MambaVisionT)) => {
                Self::MambaVision(MambaVisionConfig::tiny(classes)).adjusted(folder)
            }
            ("mambavision", None) => Self::mamba_vision(folder, classes),
            (other, preset) => Err(VerifyError::Unsupported(format!(
                "the architecture \"{other}\"{} cannot be verified; expected vit, tiny_vit, vim or mambavision",
                preset.map(|p| format!(" with the preset {}", p.name())).unwrap_or_default()
            ))),
        }
    }

    /// A preset with the image size and the drop path that the folder says; without a word there is no drop path.
    fn adjusted(mut self, folder: &Folder) -> Result<Self, VerifyError> {
        let (image_size, drop_path) = match &mut self {
            Self::Vit(config) => (Some(&mut config.image_size), None),
            Self::TinyVit(config) => (None, Some(&mut config.drop_path)),
            Self::Vim(config) => (Some(&mut config.image_size), Some(&mut config.drop_path)),
            Self::MambaVision(config) => (Some(&mut config.image_size), Some(&mut config.drop_path)),
        };
        if let Some(image_size) = image_size {
            *image_size = folder.number_or("size", *image_size as f64)? as i64;
        }
        if let Some(drop_path) = drop_path {
            *drop_path = folder.number_or("drop_path_rate", 0.0)?;
        }
        Ok(self)
    }

    /// By its arguments; what our Vim cannot be is an error.
    fn vim(folder: &Folder, classes: i64) -> Result<Self, VerifyError> {
        let fixed = [
            ("bimamba_type", json!("v2")),
            ("if_abs_pos_embed", json!(true)),
            ("if_cls_token", json!(true)),
            ("if_divide_out", json!(true)),
            ("if_rope", json!(false)),
            ("rms_norm", json!(true)),
            ("use_middle_cls_token", json!(true)),
        ];
        for (key, expected) in fixed {
            folder.expect(key, &expected)?;
        }
        let width = folder.int("embed_dim")?;
        let patch_size = folder.int("patch_size")?;
        Ok(Self::Vim(VimConfig {
            image_size: folder.int("img_size")?,
            patch_size,
            stride: folder.number_or("stride", patch_size as f64)? as i64,
            width,
            depth: folder.int("depth")?,
            states: folder.number_or("d_state", 16.0)? as i64,
            taps: folder.number_or("d_conv", 4.0)? as i64,
            expand: folder.number_or("expand", 2.0)? as i64,
            step_rank: folder.config["dt_rank"].as_i64().unwrap_or_else(|| step_rank(width)),
            classes,
            norm_eps: folder.number_or("norm_eps", 1e-5)?,
            drop_path: folder.number_or("drop_path_rate", 0.0)?,
        }))
    }

    /// By its arguments; what our MambaVision cannot be is an error.
    fn mamba_vision(folder: &Folder, classes: i64) -> Result<Self, VerifyError> {
        for (key, expected) in [("stem_bn_eps", 1e-4), ("block_bn_eps", 1e-5), ("layer_norm_eps", 1e-5)] {
            folder.expect(key, &json!(expected))?;
        }
        let depths = folder.ints("depths")?.iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>();
        let scale = |key: &str| folder.config[key].as_f64();
        Ok(Self::MambaVision(MambaVisionConfig {
            image_size: folder.int("input_size")?,
            width: folder.int("dim")?,
            stem_width: folder.int("in_dim")?,
            depths: depths.context("depths in config.json").map_err(VerifyError::Broken)?,
            heads: folder.ints("num_heads")?,
            windows: folder.ints("window_size")?,
            mlp_ratio: folder.number_or("mlp_ratio", 4.0)?,
            layer_scale: scale("layer_scale"),
            layer_scale_conv: scale("layer_scale_conv"),
            states: folder.number_or("d_state", 8.0)? as i64,
            taps: folder.number_or("d_conv", 3.0)? as i64,
            expand: folder.number_or("expand", 1.0)? as i64,
            classes,
            drop_path: folder.number_or("drop_path_rate", 0.0)?,
        }))
    }

    fn model(&self, b: &Builder) -> Box<dyn Model> {
        match self {
            Self::Vit(config) => Box::new(Vit::new(b, config)),
            Self::TinyVit(config) => Box::new(TinyVit::new(b, config)),
            Self::Vim(config) => Box::new(Vim::new(b, config)),
            Self::MambaVision(config) => Box::new(MambaVision::new(b, config)),
        }
    }

    /// The model under `method`, with the folder's weights.
    pub(super) fn build(&self, folder: &Folder, method: Rc<dyn Method>, kind: Kind) -> anyhow::Result<Built> {
        let weights = folder.weights(|| self.state())?;
        self.build_with(weights, method, folder.device, kind)
    }

    pub(super) fn build_with(
        &self,
        weights: Weights,
        method: Rc<dyn Method>,
        device: Device,
        kind: Kind,
    ) -> anyhow::Result<Built> {
        let b = Builder::new(method, Some(weights), Seed::root(0), device, kind);
        let model = self.model(&b);
        let (params, load) = b.finish()?;
        let load = load.unwrap_or_default();
        let strange: Vec<_> = load.unexpected.iter().chain(&load.missing).chain(&load.replaced).collect();
        if let Some(first) = strange.first() {
            return Err(anyhow!(
                "the weights and the model do not have the same tensors: {first} and {} more are only in one of them",
                strange.len() - 1
            ));
        }
        Ok(Built { model, params })
    }

    /// Names and shapes of the model's parameters and buffers.
    fn state(&self) -> anyhow::Result<Vec<(String, Vec<i64>)>> {
        let method = crate::peft::method(&fleet_common::plan::MethodSettings::Full);
        let b = Builder::new(method, None, Seed::root(0), Device::Cpu, Kind::Float);
        let _model = self.model(&b);
        let (params, _) = b.finish()?;
        Ok(params.iter().map(|p| (p.name.clone(), p.tensor.size())).collect())
    }

    /// Side of the square images that a formula's inputs have, where the configuration does not say.
    pub(super) fn image_size(&self) -> i64 {
        match self {
            Self::Vit(config) => config.image_size,
            Self::TinyVit(_) => 224,
            Self::Vim(config) => config.image_size,
            Self::MambaVision(config) => config.image_size,
        }
    }

    /// The part of the model that the reference calls `stage`. What it calls hidden is what a Vim's block has made.
    pub(super) fn stage<'a>(&self, stage: &'a str) -> &'a str {
        match self {
            Self::Vim(_) => stage.strip_suffix(".hidden").unwrap_or(stage),
            _ => stage,
        }
    }

    /// A stage's output in the reference's layout. Between its attention blocks a TinyViT has channels last.
    pub(super) fn reference_layout(&self, stage: &str, output: &Tensor) -> Tensor {
        match self {
            Self::TinyVit(_) if stage != "stages.0" => output.permute([0, 3, 1, 2]),
            _ => output.shallow_clone(),
        }
    }

    /// Rows of an attention's qkv bias that belong to the keys: softmax makes their exact gradient zero, so that an
    /// optimiser moves them by noise. `None` where the layer is none.
    pub(super) fn key_rows(&self, name: &str, rows: i64) -> Option<Vec<i64>> {
        if !name.ends_with(".qkv.bias") {
            return None;
        }
        let third = rows / 3;
        match self {
            Self::Vit(_) | Self::MambaVision(_) => Some((third..2 * third).collect()),
            Self::Vim(_) => None,
            Self::TinyVit(config) => {
                let stage: usize = name.strip_prefix("stages.")?.split('.').next()?.parse().ok()?;
                let head = third / config.heads.get(stage)?;
                Some((0..rows).filter(|row| row / head % 3 == 1).collect())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]
mod tests {
    use super::*;

    /// What a folder with this configuration describes.
    fn of(config: &serde_json::Value) -> Architecture {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        Tensor::write_safetensors(
            &[("nothing", Tensor::zeros([1], (Kind::Float, Device::Cpu)))],
            dir.path().join("io.safetensors"),
        )
        .unwrap();
        Architecture::of(&Folder::open(dir.path()).unwrap()).unwrap()
    }

    fn drop_path(architecture: &Architecture) -> Option<f64> {
        match architecture {
            Architecture::Vit(_) => None,
            Architecture::TinyVit(config) => Some(config.drop_path),
            Architecture::Vim(config) => Some(config.drop_path),
            Architecture::MambaVision(config) => Some(config.drop_path),
        }
    }

    #[test]
    fn presets_take_the_folders_size_and_drop_path() {
        // Architecture, preset, whether its images have a size and its blocks are dropped.
        let presets = [
            ("vit", "vit_tiny_patch16_224", true, false),
            ("vit", "vit_small_patch16_224", true, false),
            ("tiny_vit", "tiny_vit_5m_224", false, true),
            ("vim", "vim_tiny", true, true),
            ("mambavision", "mamba_vision_T", true, true),
        ];
        for (architecture, preset, sized, drops) in presets {
            let plain = json!({ "architecture": architecture, "preset": preset, "num_classes": 10 });
            let usual = of(&plain);
            assert_eq!((usual.image_size(), drop_path(&usual)), (224, drops.then_some(0.0)), "{preset}");
            let mut other = plain;
            (other["size"], other["drop_path_rate"]) = (json!(64), json!(0.2));
            let other = of(&other);
            let expected = (if sized { 64 } else { 224 }, drops.then_some(0.2));
            assert_eq!((other.image_size(), drop_path(&other)), expected, "{preset}");
        }
    }
}
