//! Kind `preprocess`: resampling filters, and whole image processors.

use anyhow::{Context as _, ensure};
use fleet_common::spec::{Interpolation, Recipe};
use image::RgbImage;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use crate::data::processor::{self, Processor};

/// One level of 255, and what f32 adds to it.
const LEVEL: Tolerance = Tolerance::Absolute(1.001);

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    let notes = &folder.config["notes"];
    let names: Vec<String> = folder.io_under("").map(|(name, _)| name.to_owned()).collect();
    for name in names.iter().filter(|n| !n.ends_with(".input")) {
        let (picture, how) = name.split_once('.').with_context(|| format!("the tensor {name} names no picture"))?;
        let input = image(&folder.io(&format!("{picture}.input"))?)?;
        let reference = folder.io(name)?;
        if let Some((filter, _)) = how.split_once('.') {
            let (height, width) = (reference.size()[0] as u32, reference.size()[1] as u32);
            let ours = processor::resize(&input, width, height, interpolation(filter)?)?;
            let ours = Tensor::from_slice(ours.as_raw()).view([i64::from(height), i64::from(width), 3]);
            checks.tensors(name, &ours.to_kind(Kind::Float), &reference.to_kind(Kind::Float), LEVEL);
            continue;
        }
        let size = *reference.size().last().context("a picture without a side")? as u32;
        let (processor, std) = known(how, &notes[how], size)?;
        let ours = processor.apply(&input, Device::Cpu)?;
        let ours = if reference.dim() == 3 { ours.squeeze_dim(0) } else { ours };
        // Differences in levels of 255, whatever the normalisation makes of them.
        let scale = Tensor::from_slice(&std.map(|s| s as f32)).view([3, 1, 1]) * 255.0;
        checks.tensors(format!("{name}, levels of 255"), &(ours * &scale), &(reference * &scale), LEVEL);
    }
    Ok(())
}

/// The processor that a reference names, for results of `size` pixels, and the deviation that it divides by.
fn known(how: &str, notes: &Value, size: u32) -> Result<(Processor, [f64; 3]), VerifyError> {
    let centre = |recipe: Recipe| (Processor::Centre { recipe, size }, recipe.std);
    Ok(match how {
        "open_clip" => centre(Recipe::CLIP),
        "siglip" => (Processor::Squash { recipe: Recipe::HALVES, size }, Recipe::HALVES.std),
        // The reference's processor is shrunk as its tiles are: twice a tile at first.
        "smolvlm" => {
            (Processor::Tiles { recipe: Recipe::TILES, first: 2 * size, tile: size, split: true }, Recipe::TILES.std)
        }
        _ if !notes["mean"].is_null() => centre(timm(notes)?),
        other => return Err(VerifyError::Unsupported(format!("the image processor \"{other}\" is not there"))),
    })
}

/// The recipe in timm's notation.
fn timm(notes: &Value) -> anyhow::Result<Recipe> {
    let mode = notes["crop_mode"].as_str().unwrap_or("center");
    ensure!(mode == "center", "expected crop_mode center, found {mode}");
    let three = |key: &str| -> anyhow::Result<[f64; 3]> {
        let list: Option<Vec<f64>> = notes[key].as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        list.and_then(|l| l.try_into().ok()).with_context(|| format!("expected three numbers as {key}"))
    };
    Ok(Recipe {
        mean: three("mean")?,
        std: three("std")?,
        interpolation: interpolation(notes["interpolation"].as_str().unwrap_or("bicubic"))?,
        crop_share: Some(notes["crop_pct"].as_f64().context("expected a number as crop_pct")?),
    })
}

fn interpolation(name: &str) -> anyhow::Result<Interpolation> {
    serde_json::from_value(name.into()).with_context(|| format!("the filter \"{name}\" is not there"))
}

/// A picture (height, width, 3) of bytes.
fn image(pixels: &Tensor) -> anyhow::Result<RgbImage> {
    let [height, width, 3] = pixels.size()[..] else {
        anyhow::bail!("expected a picture (height, width, 3), found {:?}", pixels.size())
    };
    let bytes = Vec::<u8>::try_from(pixels.to_kind(Kind::Uint8).contiguous().view([-1]))?;
    RgbImage::from_raw(width as u32, height as u32, bytes).context("a picture of another size")
}
