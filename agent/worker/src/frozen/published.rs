//! A published model from its folder: configuration, weights, and what its own processor does to images.

use std::path::Path;

use anyhow::Context as _;
use fleet_checkpoint::{CheckpointError, ModelFolder};
use fleet_common::spec::{Foundation, Gives, Interpolation, Recipe};
use serde_json::Value;

use crate::models::clip::{Clip, ClipNames};
use crate::models::config::{self, ClipConfig};
use crate::models::dinov2::{Dinov2, Dinov2Config, Dinov2Names};
use crate::models::siglip::Siglip;
use crate::nn::{Builder, Weights};

use super::encoder::{Contrastive, Encoder};

/// The folder of a published model.
#[derive(Debug)]
pub struct Published {
    foundation: Foundation,
    folder: ModelFolder,
    /// `config.json`; null where there is none.
    config: Value,
}

/// What images go through before a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pictures {
    /// Side of the square result, pixels.
    pub size: u32,
    /// How it comes about.
    pub recipe: Recipe,
}

impl Published {
    /// Opens the folder of a model.
    ///
    /// # Errors
    /// It is not one, or its configuration cannot be read.
    pub fn open(dir: &Path, foundation: Foundation) -> Result<Self, CheckpointError> {
        let folder = ModelFolder::open(dir)?;
        let config = folder.json("config.json")?;
        let types = types(foundation);
        if let Some(other) = config.as_ref().and_then(|c| c["model_type"].as_str()).filter(|t| !types.contains(t)) {
            return Err(CheckpointError::Content {
                path: dir.join("config.json"),
                problem: format!(
                    "expected the model_type {} for {}, found \"{other}\"; is this the model's folder?",
                    types.join(" or "),
                    foundation.name()
                ),
            });
        }
        if config.is_none() && foundation.gives() != Gives::Features && folder.json("open_clip_config.json")?.is_none()
        {
            return Err(CheckpointError::Content {
                path: dir.to_owned(),
                problem: "its config.json (or open_clip_config.json) is not there; fetch it too".to_owned(),
            });
        }
        Ok(Self { foundation, folder, config: config.unwrap_or(Value::Null) })
    }

    /// Which model it is.
    pub fn foundation(&self) -> Foundation {
        self.foundation
    }

    /// `config.json`; null where there is none.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The folder.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// All tensors of its files, which stay there until they are copied.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn weights(&self) -> anyhow::Result<Weights> {
        let mut all = Weights::default();
        for file in self.folder.weights() {
            all = all.with(Weights::map(&file)?);
        }
        Ok(all)
    }

    /// Something in the folder is wrong.
    pub(super) fn wrong(&self, problem: String) -> CheckpointError {
        CheckpointError::Content { path: self.folder.root().to_owned(), problem }
    }

    /// The open_clip configuration, if it is in open_clip's layout.
    fn open_clip(&self) -> Result<Option<Value>, CheckpointError> {
        self.folder.json("open_clip_config.json")
    }

    /// Side of the square images that the model is for, pixels; `None` where any will do.
    fn image_size(&self) -> Result<Option<i64>, CheckpointError> {
        Ok(match self.foundation.gives() {
            Gives::Features => None,
            _ => match self.open_clip()? {
                Some(open_clip) => Some(config::open_clip(&open_clip["model_cfg"]).vision.image_size),
                None if self.config["vision_config"]["image_size"].is_null() => {
                    Some(self.foundation.image_size().into())
                }
                None => Some(config::siglip_vision(&self.config["vision_config"]).image_size),
            },
        })
    }

    /// What its own processor does to images: from `preprocessor_config.json` or open_clip's `preprocess_cfg`, and where
    /// they say nothing as the public model's.
    ///
    /// # Errors
    /// They say what no processor here can do, or what does not fit the model.
    pub fn pictures(&self) -> Result<Pictures, CheckpointError> {
        let usual = Pictures { size: self.foundation.image_size(), recipe: self.foundation.recipe() };
        let size = self.image_size()?;
        let pictures = match (self.open_clip()?, self.folder.json("preprocessor_config.json")?) {
            (Some(open_clip), _) => {
                let side = size.and_then(|side| u32::try_from(side).ok()).unwrap_or(usual.size);
                of_open_clip(&open_clip["preprocess_cfg"], Pictures { size: side, ..usual })
            }
            (None, Some(processor)) => of_transformers(&processor, usual),
            (None, None) => {
                let side = size.and_then(|side| u32::try_from(side).ok());
                Ok(Pictures { size: side.unwrap_or(usual.size), ..usual })
            }
        };
        let pictures = pictures.map_err(|problem| self.wrong(problem))?;
        match size {
            Some(side) if side != i64::from(pictures.size) => Err(self
                .wrong(format!("its processor makes images of {} pixels, and the model is for {side}", pictures.size))),
            _ => Ok(pictures),
        }
    }

    /// The encoder of images; its tensors come from `b`, which has the folder's `weights`.
    ///
    /// # Errors
    /// The configuration is missing or of another model.
    pub fn encoder(&self, b: &Builder, weights: &Names) -> anyhow::Result<Box<dyn Encoder>> {
        match self.foundation.gives() {
            Gives::Features => {
                let (names, from_weights) = weights.dinov2.clone().context("these are no weights of a DINOv2")?;
                let config = match self.config["hidden_size"].is_null() {
                    true => from_weights.context("config.json is missing, and the weights have no known size")?,
                    false => config::dinov2(&self.config),
                };
                Ok(Box::new(Dinov2::new(b, names, &config)))
            }
            Gives::Embeddings => Ok(Box::new(self.contrastive(b)?)),
            Gives::Answers => anyhow::bail!("{} gives answers, no features", self.foundation.name()),
        }
    }

    /// Both encoders of a model of images and texts.
    ///
    /// # Errors
    /// The configuration is missing or of another model.
    pub fn contrastive(&self, b: &Builder) -> anyhow::Result<Contrastive> {
        if let Some(open_clip) = self.open_clip()? {
            let c = config::open_clip(&open_clip["model_cfg"]);
            return Ok(Contrastive::Clip(clip(b, ClipNames::OpenClip, &c), c.text.context));
        }
        match self.config["model_type"].as_str() {
            Some("clip") => {
                let c = config::clip(&self.config).map_err(|problem| self.wrong(problem))?;
                Ok(Contrastive::Clip(clip(b, ClipNames::Hf, &c), c.text.context))
            }
            Some("siglip") => {
                let c = config::siglip(&self.config);
                Ok(Contrastive::Siglip(Box::new(Siglip::new(b, &c.vision, &c.text)), c.text.context))
            }
            _ => Err(self
                .wrong("expected open_clip_config.json, or a config.json with the model_type clip or siglip".to_owned())
                .into()),
        }
    }
}

/// What publishers call the kind of a model in `config.json`.
const fn types(foundation: Foundation) -> &'static [&'static str] {
    use Foundation as F;
    match foundation {
        F::OpenClipB32 | F::OpenClipB16 | F::OpenClipL14 => &["clip"],
        F::SiglipBase | F::SiglipLarge => &["siglip"],
        F::Dinov2Small | F::Dinov2Base | F::Dinov2Large => &["dinov2"],
        F::SmolVlm256m | F::SmolVlm500m => &["idefics3"],
        F::PaliGemma3b => &["paligemma"],
        F::MobileVlm | F::MobileVlmV2 => &["mobilevlm", "mobilellama"],
    }
}

fn clip(b: &Builder, names: ClipNames, c: &ClipConfig) -> Box<Clip> {
    Box::new(Clip::new(b, names, &c.vision, &c.text, c.embedding))
}

/// What the names of weights tell, before a builder has taken them.
#[derive(Debug, Default)]
pub struct Names {
    dinov2: Option<(Dinov2Names, Option<Dinov2Config>)>,
}

impl Names {
    /// Of these weights.
    pub fn of(weights: &Weights) -> Self {
        Self { dinov2: Dinov2Names::of(weights).map(|names| (names, Dinov2Config::of(weights))) }
    }
}

/// open_clip's `preprocess_cfg`.
fn of_open_clip(config: &Value, usual: Pictures) -> Result<Pictures, String> {
    let mut recipe = usual.recipe;
    recipe.mean = triple(&config["mean"], recipe.mean)?;
    recipe.std = triple(&config["std"], recipe.std)?;
    recipe.interpolation = match config["interpolation"].as_str() {
        None | Some("bicubic") => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => {
            return Err(format!("preprocess_cfg: the interpolation \"{other}\" is none of bicubic and bilinear"));
        }
    };
    recipe.crop_share = match config["resize_mode"].as_str() {
        None | Some("shortest") => Some(1.0),
        Some("squash") => None,
        Some(other) => {
            return Err(format!("preprocess_cfg: the resize_mode \"{other}\" is none of shortest and squash"));
        }
    };
    Ok(Pictures { recipe, ..usual })
}

/// transformers' `preprocessor_config.json`.
fn of_transformers(config: &Value, usual: Pictures) -> Result<Pictures, String> {
    let mut recipe = usual.recipe;
    recipe.mean = triple(&config["image_mean"], recipe.mean)?;
    recipe.std = triple(&config["image_std"], recipe.std)?;
    recipe.interpolation = match config["resample"].as_i64() {
        // Pillow's numbers.
        None => recipe.interpolation,
        Some(0) => Interpolation::Nearest,
        Some(1) => Interpolation::Lanczos,
        Some(2) => Interpolation::Bilinear,
        Some(3) => Interpolation::Bicubic,
        Some(other) => return Err(format!("preprocessor_config.json: resample {other} is none of 0 to 3")),
    };
    let side = |of: &Value| {
        let square = of["height"].as_u64().filter(|height| of["width"].as_u64() == Some(*height));
        of.as_u64().or(square).and_then(|side| u32::try_from(side).ok()).filter(|side| *side > 0)
    };
    let size = &config["size"];
    // A number alone is that of the shorter side where the centre is cut out behind it.
    let crops = config["do_center_crop"].as_bool().unwrap_or(!config["crop_size"].is_null());
    let shorter = size["shortest_edge"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let shorter = shorter.or_else(|| size.as_u64().and(side(size)).filter(|_| crops));
    match (shorter, side(&config["crop_size"]), side(size)) {
        (Some(first), Some(crop), _) if crops => {
            recipe.crop_share = Some(share(crop, first));
            Ok(Pictures { size: crop, recipe })
        }
        (_, _, Some(size)) => {
            recipe.crop_share = None;
            Ok(Pictures { size, recipe })
        }
        (None, None, None) if size.is_null() => Ok(Pictures { recipe, ..usual }),
        _ => Err(format!(
            "preprocessor_config.json: expected a size of height and width, or a shortest_edge and a crop_size; found size \
             {size} and crop_size {}",
            config["crop_size"]
        )),
    }
}

/// The share of `first` that `crop` is, such that ⌊crop / share⌋ is `first` again.
fn share(crop: u32, first: u32) -> f64 {
    let (crop, first) = (f64::from(crop), f64::from(first));
    let exact = crop / first;
    if (crop / exact).floor() == first { exact } else { crop / (first + 0.5) }
}

/// Three numbers, one for each colour.
fn triple(value: &Value, usual: [f64; 3]) -> Result<[f64; 3], String> {
    if value.is_null() {
        return Ok(usual);
    }
    let numbers: Option<Vec<f64>> = value.as_array().map(|list| list.iter().filter_map(Value::as_f64).collect());
    numbers.and_then(|n| <[f64; 3]>::try_from(n).ok()).ok_or_else(|| {
        format!("expected one number for each colour in the processor's mean and deviation, found {value}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn usual() -> Pictures {
        Pictures { size: 224, recipe: Foundation::Dinov2Small.recipe() }
    }

    #[test]
    fn processors_of_transformers_are_understood() {
        let dinov2 = json!({
            "crop_size": { "height": 224, "width": 224 }, "do_center_crop": true, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": { "shortest_edge": 256 }
        });
        assert_eq!(of_transformers(&dinov2, usual()), Ok(usual()));
        let siglip = json!({ "size": { "height": 384, "width": 384 }, "image_mean": [0.5, 0.5, 0.5], "resample": 3 });
        let found = of_transformers(&siglip, usual()).expect("understood");
        assert_eq!((found.size, found.recipe.crop_share, found.recipe.mean), (384, None, [0.5; 3]));
        let old = json!({ "size": 224, "crop_size": 224, "do_center_crop": true });
        assert_eq!(of_transformers(&old, usual()).expect("understood").recipe.crop_share, Some(1.0));
        assert_eq!(of_transformers(&json!({}), usual()), Ok(usual()));
        for (wrong, what) in [
            (json!({ "resample": 9 }), "resample 9"),
            (json!({ "image_mean": [1.0] }), "one number for each colour"),
            (json!({ "size": { "longest_edge": 7 } }), "shortest_edge"),
        ] {
            let error = of_transformers(&wrong, usual()).expect_err("refused");
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_share_gives_its_sizes_back() {
        for first in 1..600u32 {
            for crop in [1, 224, 336, first] {
                assert_eq!((f64::from(crop) / share(crop, first)).floor(), f64::from(first), "{crop} of {first}");
            }
        }
    }

    #[test]
    fn processors_of_open_clip_are_understood() {
        let found =
            of_open_clip(&json!({ "mean": [0.1, 0.2, 0.3], "resize_mode": "squash" }), usual()).expect("understood");
        assert_eq!((found.recipe.mean, found.recipe.crop_share), ([0.1, 0.2, 0.3], None));
        assert!(of_open_clip(&json!({ "resize_mode": "longest" }), usual()).expect_err("refused").contains("longest"));
    }
}
