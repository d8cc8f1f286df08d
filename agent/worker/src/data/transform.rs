//! Images → a model's inputs, as the study's protocol has them (arXiv 2607.02158's public code).
//!
//! Resampling is bilinear with anti-aliasing, torchvision's default, which is Pillow's; `fast_image_resize` computes what
//! Pillow computes, to one part in 255.

use std::f64::consts::LN_2;

use anyhow::Context as _;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use fleet_dataset::Protocol;
use image::RgbImage;
use rand::RngExt;

use super::sampler::generator;
use crate::nn::Seed;

/// Mean and standard deviation per channel that inputs are normalised with, for values in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Mean of red, green, blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green, blue.
    pub std: [f32; 3],
}

impl Normalization {
    /// ImageNet's, the protocol's choice.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
}

/// What happens to an image before it goes into a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// The data set's protocol.
    pub protocol: Protocol,
    /// Side of the square result, pixels.
    pub size: u32,
    /// Random crops and flips; off for evaluation.
    pub augment: bool,
}

/// A rectangle of an image, in pixels; fractions are meant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    fn whole(image: &RgbImage) -> Self {
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
        let square = match (self.protocol, self.augment) {
            (Protocol::Resize, _) => resize(image, Window::whole(image), size, size)?,
            (Protocol::Crop, true) => resize(image, random_crop(image, &mut rng), size, size)?,
            (Protocol::Crop, false) => {
                let (width, height) = shorter_side(image, size * 255 / 224);
                let resized = resize(image, Window::whole(image), width, height)?;
                centre(&resized, size)
            }
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

fn resize(image: &RgbImage, window: Window, width: u32, height: u32) -> anyhow::Result<RgbImage> {
    let refused = || format!("an image of {} × {} pixels cannot be resampled", image.width(), image.height());
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).with_context(refused)?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
        window.left,
        window.top,
        window.width,
        window.height,
    );
    Resizer::new().resize(&source, &mut target, &options).with_context(refused)?;
    RgbImage::from_raw(width, height, target.into_vec()).with_context(refused)
}

/// The central square of `side` pixels.
fn centre(image: &RgbImage, side: u32) -> RgbImage {
    // torchvision rounds half to even: int(round((height - side) / 2.0)).
    let offset = |length: u32| (f64::from(length - side.min(length)) / 2.0).round_ties_even() as u32;
    image::imageops::crop_imm(image, offset(image.width()), offset(image.height()), side, side).to_image()
}

/// Interleaved pixels → planes, mirrored if `flip`.
fn planes(image: &RgbImage, flip: bool) -> Vec<u8> {
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
            for size in ["32x32", "w40h24"] {
                let reference = picture(&format!("{name}.bilinear.{size}"));
                let ours =
                    resize(&input, Window::whole(&input), reference.width(), reference.height()).expect("resizes");
                let worst = ours.as_raw().iter().zip(reference.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(1), "{name} to {size}: off by {worst:?}");
            }
        }
    }

    #[test]
    fn evaluation_has_no_randomness_and_training_has() {
        for protocol in [Protocol::Resize, Protocol::Crop] {
            let apply = |augment, seed| {
                let transform = Transform { protocol, size: 32, augment };
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
        let out = Transform { protocol: Protocol::Crop, size: 224, augment: false }
            .apply(&picture(300, 640), Seed::root(0))
            .expect("transforms");
        assert_eq!(out.len(), 3 * 224 * 224);
    }
}
