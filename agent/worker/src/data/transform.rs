//! Images → a model's inputs, as the study's protocol has them (arXiv 2607.02158's public code), or as belongs to the
//! initial weights.
//!
//! Resampling has anti-aliasing, torchvision's default, which is Pillow's; `fast_image_resize` computes what Pillow
//! computes, to one part in 255.

use std::f64::consts::LN_2;

use anyhow::Context as _;
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use fleet_common::spec::{Interpolation, Recipe};
use fleet_dataset::Protocol;
use image::RgbImage;
use rand::RngExt;

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

/// A rectangle of an image, in pixels; fractions are meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    pub(super) fn whole(image: &RgbImage) -> Self {
        Self { left: 0.0, top: 0.0, width: f64::from(image.width()), height: f64::from(image.height()) }
    }
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

/// torchvision's `RandomResizedCrop` with scale 0.8 to 1.0: a window of that share of the area and an aspect ratio between
/// 3/4 and 4/3, or after ten tries the largest central window whose ratio is in those bounds.
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

pub(super) fn resample(
    image: &RgbImage,
    window: Window,
    width: u32,
    height: u32,
    filter: Interpolation,
) -> anyhow::Result<RgbImage> {
    let algorithm = match filter {
        Interpolation::Nearest => ResizeAlg::Nearest,
        Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Interpolation::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    // Pillow resamples rows first, then columns, and rounds to bytes in between. The library's passes over bytes are in
    // the other order and a little coarse, which shows where a filter overshoots; so it gets one pass at a time, in f32.
    let Window { left, top, width: from_width, height: from_height } = window;
    let rows = pass(image, (left, top, from_width, from_height), width, from_height as u32, algorithm)?;
    pass(&rows, (0.0, 0.0, f64::from(width), f64::from(rows.height())), width, height, algorithm)
}

/// One pass of the resampler over the part `crop` (left, top, width, height) of an image.
fn pass(
    image: &RgbImage,
    crop: (f64, f64, f64, f64),
    width: u32,
    height: u32,
    algorithm: ResizeAlg,
) -> anyhow::Result<RgbImage> {
    let refused = || format!("an image of {} × {} pixels cannot be resampled", image.width(), image.height());
    let bytes: Vec<u8> = image.as_raw().iter().flat_map(|x| f32::from(*x).to_ne_bytes()).collect();
    let source = Image::from_vec_u8(image.width(), image.height(), bytes, PixelType::F32x3).with_context(refused)?;
    let mut target = Image::new(width, height, PixelType::F32x3);
    let options = ResizeOptions::new().resize_alg(algorithm).crop(crop.0, crop.1, crop.2, crop.3);
    Resizer::new().resize(&source, &mut target, &options).with_context(refused)?;
    let values = target.buffer().as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes));
    // Half a level rounds up, as Pillow's fixed-point sum does.
    let bytes = values.map(|x| (x + 0.5).floor().clamp(0.0, 255.0) as u8).collect();
    RgbImage::from_raw(width, height, bytes).with_context(refused)
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

    const FILTERS: [Interpolation; 4] =
        [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos];

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
    fn resampling_is_pillows_to_one_part_in_255() {
        use crate::nn::Weights;
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/preprocess/io.safetensors");
        let fixture = Weights::read(std::path::Path::new(path)).expect("a fixture of the repository");
        let picture = |name: &str| {
            let pixels = fixture.get(name).expect(name);
            let (height, width) = (pixels.size()[0] as u32, pixels.size()[1] as u32);
            let bytes = Vec::<u8>::try_from(pixels.flatten(0, -1)).expect("bytes");
            RgbImage::from_raw(width, height, bytes).expect("a picture")
        };
        for name in ["small", "tall", "wide"] {
            let input = picture(&format!("{name}.input"));
            for (size, filter) in ["32x32", "w40h24"].into_iter().flat_map(|size| FILTERS.map(|filter| (size, filter)))
            {
                let reference = picture(&format!("{name}.{}.{size}", filter.name()));
                let (width, height) = (reference.width(), reference.height());
                let ours = resample(&input, Window::whole(&input), width, height, filter).expect("resizes");
                let worst = ours.as_raw().iter().zip(reference.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(1), "{name} to {size}, {}: off by {worst:?}", filter.name());
            }
        }
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
