//! Images → a model's inputs, as the study's protocol has them (arXiv 2607.02158's public code), or as belongs to the
//! initial weights.

use std::f64::consts::LN_2;

use fleet_common::spec::{Interpolation, Recipe};
use fleet_dataset::Protocol;
use image::RgbImage;
use rand::RngExt;

use super::resample::{Window, resample};
use super::sampler::generator;
use crate::nn::Seed;

/// What happens to an image before it goes into a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// The data set's protocol.
    pub protocol: Protocol,
    /// Side of the square result, pixels.
    pub size: u32,
    /// Random crops and flips; off for evaluation.
    pub augment: bool,
    /// How images are resampled, and whether their centre is cut out for evaluation.
    pub recipe: Recipe,
}

impl Transform {
    /// The image as planes of red, green and blue, `size` × `size` bytes each. Randomness comes from `seed`.
    ///
    /// # Errors
    /// The resampler refuses the image's size.
    pub fn apply(&self, image: &RgbImage, seed: Seed) -> anyhow::Result<Vec<u8>> {
        let mut rng = generator(seed);
        let size = self.size;
        let filter = self.recipe.interpolation;
        let square = match (self.protocol, self.augment, self.recipe.crop_share) {
            (_, false, Some(share)) => central(image, (f64::from(size) / share).floor() as u32, size, filter)?,
            (Protocol::Crop, true, _) => resample(image, random_crop(image, &mut rng), size, size, filter)?,
            (Protocol::Crop, false, None) => central(image, size * 255 / 224, size, filter)?,
            (Protocol::Resize, ..) => resample(image, Window::whole(image), size, size, filter)?,
        };
        let flip = self.augment && rng.random_bool(0.5);
        Ok(planes(&square, flip))
    }
}

/// torchvision's `RandomResizedCrop` with scale 0.8 to 1.0: a window of that share of the area and an aspect ratio
/// between 3/4 and 4/3, or after ten tries the largest central window whose ratio is in those bounds.
fn random_crop(image: &RgbImage, rng: &mut impl rand::Rng) -> Window {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    // ln(4/3) = 2 ln 2 − ln 3.
    let limit = 2.0 * LN_2 - 3.0f64.ln();
    for _ in 0..10 {
        let area = width * height * rng.random_range(0.8..=1.0);
        let ratio = rng.random_range(-limit..=limit).exp();
        let (w, h) = ((area * ratio).sqrt().round(), (area / ratio).sqrt().round());
        if w >= 1.0 && h >= 1.0 && w <= width && h <= height {
            let left = rng.random_range(0..=(width - w) as u32);
            let top = rng.random_range(0..=(height - h) as u32);
            return Window { left: left.into(), top: top.into(), width: w, height: h };
        }
    }
    let (w, h) = match width / height {
        ratio if ratio < 0.75 => (width, (width / 0.75).round()),
        ratio if ratio > 4.0 / 3.0 => ((height * 4.0 / 3.0).round(), height),
        _ => (width, height),
    };
    Window { left: ((width - w) / 2.0).floor(), top: ((height - h) / 2.0).floor(), width: w, height: h }
}

/// Width and height when the shorter side becomes `side`, as torchvision's `Resize` truncates the longer one.
fn shorter_side(image: &RgbImage, side: u32) -> (u32, u32) {
    let (width, height) = (u64::from(image.width()), u64::from(image.height()));
    let scaled = |long: u64, short: u64| (u64::from(side) * long / short) as u32;
    if width <= height { (side, scaled(height, width)) } else { (scaled(width, height), side) }
}

/// The central square of `size` pixels once the shorter side is `side`.
pub(super) fn central(image: &RgbImage, side: u32, size: u32, filter: Interpolation) -> anyhow::Result<RgbImage> {
    let (width, height) = shorter_side(image, side);
    Ok(centre(&resample(image, Window::whole(image), width, height, filter)?, size))
}

/// The central square of `side` pixels.
fn centre(image: &RgbImage, side: u32) -> RgbImage {
    // torchvision rounds half to even: int(round((height - side) / 2.0)).
    let offset = |length: u32| (f64::from(length - side.min(length)) / 2.0).round_ties_even() as u32;
    image::imageops::crop_imm(image, offset(image.width()), offset(image.height()), side, side).to_image()
}

/// Interleaved pixels → planes, mirrored if `flip`.
pub(super) fn planes(image: &RgbImage, flip: bool) -> Vec<u8> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = image.as_raw();
    let mut out = vec![0; 3 * width * height];
    for (channel, plane) in out.chunks_exact_mut(width * height).enumerate() {
        for (y, row) in plane.chunks_exact_mut(width).enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                let from = if flip { width - 1 - x } else { x };
                *value = pixels[(y * width + from) * 3 + channel];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
    }

    #[test]
    fn planes_are_channels_and_flips_mirror() {
        let image = picture(3, 2);
        let plain = planes(&image, false);
        assert_eq!(plain, [0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 2]);
        assert_eq!(planes(&image, true)[..6], [2, 1, 0, 2, 1, 0]);
    }

    #[test]
    fn evaluation_has_no_randomness_and_training_has() {
        for protocol in [Protocol::Resize, Protocol::Crop] {
            let apply = |augment, seed| {
                let transform = Transform { protocol, size: 32, augment, recipe: Recipe::PROTOCOL };
                transform.apply(&picture(90, 70), Seed::root(seed)).expect("transforms")
            };
            assert_eq!(apply(false, 1), apply(false, 2));
            assert_eq!(apply(true, 1), apply(true, 1));
            assert!((2..10).any(|seed| apply(true, 1) != apply(true, seed)));
            assert_eq!(apply(true, 1).len(), 3 * 32 * 32);
        }
    }

    #[test]
    fn crops_keep_their_bounds() {
        let mut rng = generator(Seed::root(3));
        for (width, height) in [(64, 64), (300, 640), (640, 300), (1, 1), (1, 50), (7, 5)] {
            for _ in 0..200 {
                let w = random_crop(&picture(width, height), &mut rng);
                assert!(w.left >= 0.0 && w.left + w.width <= f64::from(width), "{w:?} of {width} × {height}");
                assert!(w.top >= 0.0 && w.top + w.height <= f64::from(height), "{w:?} of {width} × {height}");
            }
        }
        let share = |w: Window| w.width * w.height / (400.0 * 400.0);
        assert!((0..200).all(|_| (0.79..=1.0).contains(&share(random_crop(&picture(400, 400), &mut rng)))));
    }

    #[test]
    fn test_sizes_are_the_protocols() {
        // DTD at 224: the shorter side becomes 255.
        assert_eq!(shorter_side(&picture(300, 640), 224 * 255 / 224), (255, 544));
        assert_eq!(shorter_side(&picture(640, 300), 255), (544, 255));
        let out = Transform { protocol: Protocol::Crop, size: 224, augment: false, recipe: Recipe::PROTOCOL }
            .apply(&picture(300, 640), Seed::root(0))
            .expect("transforms");
        assert_eq!(out.len(), 3 * 224 * 224);
    }
}
