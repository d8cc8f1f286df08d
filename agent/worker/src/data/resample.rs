//! Images in other sizes, as Pillow computes them, to the last bit.
//!
//! Filters widen where an image shrinks (anti-aliasing, torchvision's default). There are two passes, bytes between
//! them, weights of 22 binary digits and sums of whole numbers: where a filter overshoots, any other rounding in the
//! first pass is more than one level of 255 off after the second.

use std::f64::consts::PI;

use anyhow::{Context as _, ensure};
use fleet_common::spec::Interpolation;
use image::RgbImage;

/// Binary digits after the point of a weight.
const DIGITS: u32 = 22;

/// A rectangle of an image, in whole pixels.
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

    /// What is in it, and nothing of what is around it, as torchvision crops before it resizes.
    fn of(self, image: &RgbImage) -> RgbImage {
        let [left, top, width, height] = [self.left, self.top, self.width, self.height].map(|x| x as u32);
        image::imageops::crop_imm(image, left, top, width, height).to_image()
    }
}

/// The part `window` of an image, `width` × `height` pixels large.
///
/// # Errors
/// There are no pixels, in the window or in the result.
pub(super) fn resample(
    image: &RgbImage,
    window: Window,
    width: u32,
    height: u32,
    filter: Interpolation,
) -> anyhow::Result<RgbImage> {
    let cut = if window == Window::whole(image) { None } else { Some(window.of(image)) };
    let image = cut.as_ref().unwrap_or(image);
    let (from_width, from_height) = image.dimensions();
    ensure!(
        from_width.min(from_height).min(width).min(height) > 0,
        "expected an image with pixels; {from_width} × {from_height} cannot become {width} × {height}"
    );
    let Some(filter) = Filter::of(filter) else { return Ok(nearest(image, width, height)) };
    if columns_first((from_width, from_height), (width, height)) {
        rows_of(&columns_of(image, height, filter)?, width, filter)
    } else {
        columns_of(&rows_of(image, width, filter)?, height, filter)
    }
}

/// Whether Pillow resamples columns before rows: where it loses more than twice as many rows as columns. Found by
/// asking Pillow 13.0 for results of many sizes (width, height); `tests/references` goes on asking.
fn columns_first(from: (u32, u32), to: (u32, u32)) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (columns, rows) = (lost(from.0, to.0), lost(from.1, to.1));
    rows > 0 && rows > 2 * columns
}

/// A filter and how far it reaches, in pixels of an image that does not shrink.
#[derive(Clone, Copy)]
struct Filter {
    reach: f64,
    at: fn(f64) -> f64,
}

impl Filter {
    /// `None` for the nearest neighbour, which is no filter.
    fn of(how: Interpolation) -> Option<Self> {
        match how {
            Interpolation::Nearest => None,
            Interpolation::Bilinear => Some(Self { reach: 1.0, at: |x| (1.0 - x.abs()).max(0.0) }),
            Interpolation::Bicubic => Some(Self { reach: 2.0, at: cubic }),
            Interpolation::Lanczos => Some(Self { reach: 3.0, at: lanczos }),
        }
    }

    /// For each of `to` pixels: the first of `from` that it is made of, and their weights.
    fn weights(self, from: u32, to: u32) -> Vec<(usize, Vec<i32>)> {
        let scale = f64::from(from) / f64::from(to);
        let wide = scale.max(1.0);
        let reach = self.reach * wide;
        let one = |pixel: u32| {
            let middle = (f64::from(pixel) + 0.5) * scale;
            let first = (middle - reach + 0.5).max(0.0) as u32;
            let end = ((middle + reach + 0.5) as u32).min(from);
            let values = (first..end).map(|i| (self.at)((f64::from(i) - middle + 0.5) * (1.0 / wide)));
            let values: Vec<f64> = values.collect();
            let sum: f64 = values.iter().sum();
            let whole = |x: f64| (x / sum * f64::from(1 << DIGITS)).round() as i32;
            (first as usize, values.into_iter().map(whole).collect())
        };
        (0..to).map(one).collect()
    }
}

/// Keys's cubic with a = −1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A sinc under a wider one, of three lobes.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// Half a level, to which weighted bytes are added.
const HALF: i32 = 1 << (DIGITS - 1);

fn byte(sum: i32) -> u8 {
    (sum >> DIGITS).clamp(0, 255) as u8
}

/// Every row `width` pixels long.
fn rows_of(image: &RgbImage, width: u32, filter: Filter) -> anyhow::Result<RgbImage> {
    if width == image.width() {
        return Ok(image.clone());
    }
    let weights = filter.weights(image.width(), width);
    let mut out = Vec::with_capacity(3 * (width * image.height()) as usize);
    for row in image.as_raw().chunks_exact(3 * image.width() as usize) {
        let pixels = row.as_chunks::<3>().0;
        for (first, weights) in &weights {
            let mut sums = [HALF; 3];
            for (pixel, weight) in pixels[*first..].iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.extend(sums.map(byte));
        }
    }
    RgbImage::from_raw(width, image.height(), out).context("rows of another length")
}

/// Every column `height` pixels long.
fn columns_of(image: &RgbImage, height: u32, filter: Filter) -> anyhow::Result<RgbImage> {
    if height == image.height() {
        return Ok(image.clone());
    }
    let length = 3 * image.width() as usize;
    let mut out = Vec::with_capacity(length * height as usize);
    for (first, weights) in filter.weights(image.height(), height) {
        let mut sums = vec![HALF; length];
        for (row, weight) in image.as_raw().chunks_exact(length).skip(first).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        out.extend(sums.into_iter().map(byte));
    }
    RgbImage::from_raw(image.width(), height, out).context("columns of another length")
}

/// The pixels at the middles of the result's pixels.
fn nearest(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (columns, rows) = (places(image.width(), width), places(image.height(), height));
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(columns[x as usize], rows[y as usize]))
}

/// Which of `from` pixels lie at the middles of `to` pixels. Pillow adds step to step, and where a middle is exactly
/// between two pixels the sum's rounding decides.
fn places(from: u32, to: u32) -> Vec<u32> {
    let step = f64::from(from) / f64::from(to);
    let middles = std::iter::successors(Some(step * 0.5), |at| Some(at + step));
    middles.take(to as usize).map(|at| (at as u32).min(from - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Interpolation; 4] =
        [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos];

    #[test]
    fn resampling_is_pillows_to_the_last_bit() {
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
                assert!(worst == Some(0), "{name} to {size}, {}: off by {worst:?}", filter.name());
            }
        }
    }

    #[test]
    fn a_neighbour_half_way_is_the_one_that_pillows_sum_meets() {
        // Of Pillow 13.0, of a row 0, 1, 2, … of 50 pixels. The exact middles of these are at 15 and 25.
        let places_50_to_45 = places(50, 45);
        assert_eq!((places_50_to_45[13], places_50_to_45[22]), (14, 24));
        assert_eq!(places(3, 7), [0, 0, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn nothing_around_a_window_shows() {
        let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, (x * y) as u8]));
        let window = Window { left: 5.0, top: 3.0, width: 20.0, height: 11.0 };
        let cut = window.of(&image);
        assert_eq!(cut.dimensions(), (20, 11));
        for filter in FILTERS {
            let ours = resample(&image, window, 7, 9, filter).expect("resizes");
            assert_eq!(ours, resample(&cut, Window::whole(&cut), 7, 9, filter).expect("resizes"), "{filter:?}");
        }
        let none = resample(&image, Window::whole(&image), 0, 9, Interpolation::Bicubic);
        assert!(none.is_err_and(|e| e.to_string().contains("40 × 30 cannot become 0 × 9")));
    }

    #[test]
    fn a_tall_image_loses_rows_first() {
        // Of Pillow 13.0, all with the Lanczos filter.
        assert!(!columns_first((100, 150), (40, 30)));
        assert!(columns_first((100, 151), (40, 30)));
        assert!(!columns_first((171, 236), (42, 5)));
        assert!(columns_first((139, 282), (42, 50)));
        assert!(!columns_first((100, 150), (250, 250)));
    }
}
