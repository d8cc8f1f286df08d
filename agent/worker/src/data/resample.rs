//! Images in other sizes, as Pillow computes them.
//!
//! Resampling has anti-aliasing, torchvision's default, which is Pillow's; `fast_image_resize` computes what Pillow
//! computes, to one part in 255, if it gets the passes one by one. Nearest neighbours have no such tolerance: a neighbour
//! is the right one or is not, and Pillow's places are sums.

use anyhow::Context as _;
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use fleet_common::spec::Interpolation;
use image::RgbImage;

/// A rectangle of an image, in pixels; fractions are meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Window {
    pub(super) fn whole(image: &RgbImage) -> Self {
        Self { left: 0.0, top: 0.0, width: f64::from(image.width()), height: f64::from(image.height()) }
    }
}

/// The part `window` of an image, `width` × `height` pixels large.
///
/// # Errors
/// The resampler refuses the image's size.
pub(super) fn resample(
    image: &RgbImage,
    window: Window,
    width: u32,
    height: u32,
    filter: Interpolation,
) -> anyhow::Result<RgbImage> {
    let filter = match filter {
        Interpolation::Nearest => return Ok(nearest(image, window, width, height)),
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
        Interpolation::Lanczos => FilterType::Lanczos3,
    };
    // Pillow rounds to bytes between its two passes, so their order shows where a filter overshoots. The library's
    // passes over bytes are in an order of its own and a little coarse; so it gets one pass at a time, in f32.
    let (from_width, from_height) = (window.width as u32, window.height as u32);
    let first = if columns_first(window, width, height) { (from_width, height) } else { (width, from_height) };
    let between = pass(image, window, first, filter)?;
    pass(&between, Window::whole(&between), (width, height), filter)
}

/// Whether Pillow resamples columns before rows: where it loses more than twice as many rows as columns. Found by asking
/// Pillow 13.0 for results of many sizes; `tests/references` goes on asking.
fn columns_first(from: Window, width: u32, height: u32) -> bool {
    let (rows, columns) = (from.height - f64::from(height), from.width - f64::from(width));
    rows > 0.0 && rows > 2.0 * columns
}

/// One pass of the resampler over a part of an image, to `size` (width, height).
fn pass(image: &RgbImage, part: Window, size: (u32, u32), filter: FilterType) -> anyhow::Result<RgbImage> {
    let refused = || format!("an image of {} × {} pixels cannot be resampled", image.width(), image.height());
    let bytes: Vec<u8> = image.as_raw().iter().flat_map(|x| f32::from(*x).to_ne_bytes()).collect();
    let source = Image::from_vec_u8(image.width(), image.height(), bytes, PixelType::F32x3).with_context(refused)?;
    let mut target = Image::new(size.0, size.1, PixelType::F32x3);
    let algorithm = ResizeAlg::Convolution(filter);
    let options = ResizeOptions::new().resize_alg(algorithm).crop(part.left, part.top, part.width, part.height);
    Resizer::new().resize(&source, &mut target, &options).with_context(refused)?;
    let values = target.buffer().as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes));
    // Half a level rounds up, as Pillow's fixed-point sum does.
    let bytes = values.map(|x| (x + 0.5).floor().clamp(0.0, 255.0) as u8).collect();
    RgbImage::from_raw(size.0, size.1, bytes).with_context(refused)
}

/// The pixels at the middles of the result's pixels.
fn nearest(image: &RgbImage, window: Window, width: u32, height: u32) -> RgbImage {
    let columns = places(window.left, window.width, width, image.width());
    let rows = places(window.top, window.height, height, image.height());
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(columns[x as usize], rows[y as usize]))
}

/// Which of `all` pixels lie at the middles of `n` pixels over `length` from `start`. Pillow adds step to step, and where
/// a middle is exactly between two pixels the sum's rounding decides.
fn places(start: f64, length: f64, n: u32, all: u32) -> Vec<u32> {
    let step = length / f64::from(n);
    let middles = std::iter::successors(Some(start + step * 0.5), |at| Some(at + step));
    middles.take(n as usize).map(|at| (at as u32).min(all - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Interpolation; 4] =
        [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos];

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
    fn a_neighbour_half_way_is_the_one_that_pillows_sum_meets() {
        let places_of = |from: u32, to: u32| places(0.0, f64::from(from), to, from);
        // Of Pillow 13.0, of a row 0, 1, 2, … of 50 pixels. The exact middles of these are at 15 and 25.
        let places_50_to_45 = places_of(50, 45);
        assert_eq!((places_50_to_45[13], places_50_to_45[22]), (14, 24));
        assert_eq!(places_of(3, 7), [0, 0, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_tall_image_loses_rows_first() {
        let order = |from: (f64, f64), to: (u32, u32)| {
            columns_first(Window { left: 0.0, top: 0.0, width: from.0, height: from.1 }, to.0, to.1)
        };
        // Of Pillow 13.0, all with the Lanczos filter.
        assert!(!order((100.0, 150.0), (40, 30)));
        assert!(order((100.0, 151.0), (40, 30)));
        assert!(!order((171.0, 236.0), (42, 5)));
        assert!(order((139.0, 282.0), (42, 50)));
        assert!(!order((100.0, 150.0), (250, 250)));
    }
}
