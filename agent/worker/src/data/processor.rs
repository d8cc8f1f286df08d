//! Image processors of public checkpoints, without randomness: what they were evaluated with.

use fleet_common::spec::{Interpolation, Recipe};
use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::resample::{Window, resample};
use super::transform::{central, planes};

/// A public checkpoint's image processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Processor {
    /// timm's and OpenCLIP's: the shorter side becomes ⌊size / crop_share⌋, then the centre is cut out.
    Centre {
        /// Its numbers.
        recipe: Recipe,
        /// Side of the result, pixels.
        size: u32,
    },
    /// SigLIP's: to a square whatever the aspect was.
    Squash {
        /// Its numbers.
        recipe: Recipe,
        /// Side of the result, pixels.
        size: u32,
    },
    /// Idefics3's: the longer side becomes `first`, both sides then the next multiples of `tile`; cut into tiles row by
    /// row, and the whole at the size of a tile behind them.
    Tiles {
        /// Its numbers.
        recipe: Recipe,
        /// The longer side at first, pixels.
        first: u32,
        /// Side of a tile, pixels.
        tile: u32,
        /// Whether it is cut at all; if not, the whole alone is left.
        split: bool,
    },
}

impl Processor {
    /// Its numbers.
    pub fn recipe(&self) -> Recipe {
        match *self {
            Self::Centre { recipe, .. } | Self::Squash { recipe, .. } | Self::Tiles { recipe, .. } => recipe,
        }
    }

    /// Side of its pictures, pixels.
    pub fn size(&self) -> u32 {
        match *self {
            Self::Centre { size, .. } | Self::Squash { size, .. } => size,
            Self::Tiles { tile, .. } => tile,
        }
    }

    /// Rows and columns of the tiles that an image is cut into; 1 × 1 where the whole alone is left.
    pub fn grid(&self, image: &RgbImage) -> (u32, u32) {
        match *self {
            Self::Tiles { first, tile, split: true, .. } => {
                let (width, height) = longer_side(image, first);
                (height.div_ceil(tile), width.div_ceil(tile))
            }
            _ => (1, 1),
        }
    }

    /// The image as (pictures, 3, side, side), normalised: one picture, or tiles.
    ///
    /// # Errors
    /// The resampler refuses the image's size.
    pub fn apply(&self, image: &RgbImage, device: Device) -> anyhow::Result<Tensor> {
        let (recipe, pictures) = match *self {
            Self::Centre { recipe, size } => {
                let side = (f64::from(size) / recipe.crop_share.unwrap_or(1.0)).floor() as u32;
                (recipe, vec![central(image, side, size, recipe.interpolation)?])
            }
            Self::Squash { recipe, size } => (recipe, vec![resize(image, size, size, recipe.interpolation)?]),
            Self::Tiles { recipe, first, tile, split } => {
                (recipe, tiles(image, first, tile, split, recipe.interpolation)?)
            }
        };
        let side = i64::from(pictures[0].width());
        let bytes: Vec<u8> = pictures.iter().flat_map(|p| planes(p, false)).collect();
        let pixels = Tensor::from_slice(&bytes).view([pictures.len() as i64, 3, side, side]);
        Ok(normalized(&pixels.to_device(device), &recipe))
    }
}

/// Bytes (…, 3, height, width) as a model takes them.
pub fn normalized(pixels: &Tensor, recipe: &Recipe) -> Tensor {
    let channels = |values: [f64; 3]| Tensor::from_slice(&values.map(|x| x as f32)).view([3, 1, 1]);
    let of = |values| channels(values).to_device(pixels.device());
    (pixels.to_kind(Kind::Float) / 255.0 - of(recipe.mean)) / of(recipe.std)
}

/// The whole image in another size.
///
/// # Errors
/// The resampler refuses the image's size.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Interpolation) -> anyhow::Result<RgbImage> {
    resample(image, Window::whole(image), width, height, filter)
}

/// Width and height when the longer side becomes `first`, as transformers' Idefics3 rounds the shorter: to an even number.
fn longer_side(image: &RgbImage, first: u32) -> (u32, u32) {
    let even = |n: u32| n + n % 2;
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let aspect = width / height;
    if width >= height {
        (first, even((f64::from(first) / aspect) as u32).max(1))
    } else {
        (even((f64::from(first) * aspect) as u32).max(1), first)
    }
}

/// transformers' Idefics3 processor (its PIL form).
fn tiles(image: &RgbImage, first: u32, tile: u32, split: bool, filter: Interpolation) -> anyhow::Result<Vec<RgbImage>> {
    let (width, height) = longer_side(image, first);
    let image = resize(image, width, height, filter)?;
    if !split {
        return Ok(vec![resize(&image, tile, tile, filter)?]);
    }
    let (columns, rows) = (width.div_ceil(tile), height.div_ceil(tile));
    let large = resize(&image, columns * tile, rows * tile, filter)?;
    let mut out = Vec::new();
    if columns * rows > 1 {
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            out.push(image::imageops::crop_imm(&large, column * tile, row * tile, tile, tile).to_image());
        }
    }
    out.push(resize(&large, tile, tile, filter)?);
    Ok(out)
}
