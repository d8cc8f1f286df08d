//! One image file → RGB8.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, ImageReader, RgbImage};

use crate::DatasetError;

/// Reads and decodes an image file. The format is told from the content, not from the file's name.
///
/// Like Python's PIL, on whose `convert("RGB")` the study's numbers rest: grey becomes three equal channels, palettes
/// and CMYK are converted, an alpha channel is dropped (not composited), 16 bits become 8, and EXIF orientation is
/// not applied.
pub(crate) fn decode_file(path: &Path) -> Result<RgbImage, DatasetError> {
    let bytes = std::fs::read(path).map_err(DatasetError::io(path, "read it"))?;
    decode_bytes(&bytes).map_err(|message| DatasetError::Image { path: path.to_owned(), message })
}

/// Decodes the content of an image file to RGB8, as [`Dataset::decode`](crate::Dataset::decode) does.
///
/// # Errors
/// In words: it is no image, or not all of one. They do not name the file.
pub fn decode_bytes(bytes: &[u8]) -> Result<RgbImage, String> {
    let length = bytes.len();
    let format = image::guess_format(bytes).map_err(|_| {
        format!(
            "not an image that can be read: the file has {length} bytes and begins with {}; expected JPEG, PNG, WebP or \
             BMP. Convert it, or fetch it again",
            beginning(bytes)
        )
    })?;
    // The other formats' decoders refuse a file that ends within its image.
    if format == ImageFormat::Jpeg {
        whole_jpeg(bytes)?;
    }
    // The reader's default limits bound what a hostile header can make it allocate (512 MiB).
    match ImageReader::with_format(Cursor::new(bytes), format).decode() {
        Ok(image) => Ok(image.into_rgb8()),
        Err(error) => Err(format!(
            "cannot be decoded as {}: {error}. The file has {length} bytes; fetch it again",
            format.extensions_str().first().unwrap_or(&"an image")
        )),
    }
}

/// Refuses a JPEG that ends before its end-of-image marker.
///
/// Decoders, ours among them, fill the part that is missing with grey and call it a success: good for a browser, bad
/// for a data set. So the markers are walked first: segments by their length, entropy-coded data byte by byte.
fn whole_jpeg(bytes: &[u8]) -> Result<(), String> {
    let length = bytes.len();
    let truncated = |what: &str, from: usize| {
        format!(
            "a truncated JPEG: the file has {length} bytes and ends within {what} that starts at byte {from}, before \
             the end-of-image marker. Fetch it again"
        )
    };
    let mut at = 2; // after the start-of-image marker, which the format was told by
    let (mut what, mut from) = ("the header", 0);
    loop {
        // The next marker: FF and a byte that is neither 00 (a stuffed FF of the data), nor FF (padding), nor one of
        // the restart markers and TEM, which have no length and stand within data.
        let marker = loop {
            match bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0xFF)) {
                Some(skip) => at += skip + 1,
                None => return Err(truncated(what, from)),
            }
            match bytes.get(at) {
                Some(0x00 | 0x01 | 0xD0..=0xD7) => at += 1,
                Some(0xFF) => {}
                Some(marker) => break *marker,
                None => return Err(truncated(what, from)),
            }
        };
        if marker == 0xD9 {
            return Ok(());
        }
        (what, from) = if marker == 0xDA { ("the image data", at - 1) } else { ("a segment", at - 1) };
        let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return Err(truncated(what, from)) };
        at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
    }
}

fn beginning(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    fleet_common::canonical::hex(&bytes[..bytes.len().min(8)])
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GrayImage, Luma, Rgb, Rgba, RgbaImage};

    use super::*;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).expect("encodes");
        out.into_inner()
    }

    fn noisy() -> DynamicImage {
        RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 37 % 251) as u8, (y * 91 % 241) as u8, (x * y % 239) as u8])).into()
    }

    #[test]
    fn a_jpeg_cut_anywhere_is_an_error_that_names_the_length() {
        let whole = encoded(&noisy(), ImageFormat::Jpeg);
        assert_eq!(decode_bytes(&whole).expect("whole").dimensions(), (40, 30));
        for length in 3..whole.len() {
            let error = decode_bytes(&whole[..length]).expect_err("cut");
            assert!(error.contains(&format!("has {length} bytes")), "{error}");
        }
        let mut trailing = whole;
        trailing.extend_from_slice(b"a camera's trailer \xFF\xD9");
        decode_bytes(&trailing).expect("what follows the image does not matter");
    }

    #[test]
    fn an_end_marker_inside_a_segment_does_not_count() {
        let whole = encoded(&noisy(), ImageFormat::Jpeg);
        // A comment that holds an end marker, as an embedded thumbnail does.
        let mut bytes = whole[..2].to_vec();
        bytes.extend_from_slice(&[0xFF, 0xFE, 0x00, 0x06, 0xFF, 0xD9, 0xFF, 0xD9]);
        bytes.extend_from_slice(&whole[2..]);
        decode_bytes(&bytes).expect("whole");
        let error = decode_bytes(&bytes[..bytes.len() - 2]).expect_err("the end marker is missing");
        assert!(error.contains("truncated JPEG") && error.contains("image data"), "{error}");
    }

    #[test]
    fn other_formats_cut_within_their_data_are_errors() {
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            let whole = encoded(&noisy(), format);
            assert_eq!(decode_bytes(&whole).expect("whole"), noisy().into_rgb8(), "{format:?} is lossless");
            for length in [4, 20, 60, whole.len() / 2, whole.len() - 20] {
                let error = decode_bytes(&whole[..length]).expect_err("cut");
                assert!(error.contains(&format!("has {length} bytes")), "{format:?} at {length}: {error}");
            }
        }
    }

    #[test]
    fn what_is_no_image_is_named_by_its_first_bytes() {
        let error = decode_bytes(b"<html>").expect_err("a web page");
        assert!(error.contains("6 bytes") && error.contains("3c68746d6c3e"), "{error}");
        assert!(decode_bytes(b"").expect_err("empty").contains("begins with nothing"));
    }

    #[test]
    fn grey_becomes_three_channels_alpha_is_dropped_and_sixteen_bits_become_eight() {
        let grey = DynamicImage::from(GrayImage::from_pixel(2, 2, Luma([77])));
        let rgba = DynamicImage::from(RgbaImage::from_pixel(2, 2, Rgba([10, 20, 30, 0])));
        let deep = DynamicImage::ImageRgb16(image::ImageBuffer::from_pixel(2, 2, Rgb([0u16, 0x8080, 0xFFFF])));
        let decoded = decode_bytes(&encoded(&grey, ImageFormat::Jpeg)).expect("decodes");
        assert_eq!(decoded.get_pixel(1, 1).0, [77, 77, 77]);
        for (image, expected) in [(grey, [77, 77, 77]), (rgba, [10, 20, 30]), (deep, [0, 0x80, 0xFF])] {
            let decoded = decode_bytes(&encoded(&image, ImageFormat::Png)).expect("decodes");
            assert_eq!(decoded.get_pixel(1, 1).0, expected);
        }
    }

    #[test]
    fn cmyk_becomes_the_rgb_that_pil_makes_of_it() {
        // Written by PIL: 8 × 8 pixels of cyan 0, magenta 230, yellow 255, black 20, which it converts to (235, 23, 0).
        const JPEG: &str = concat!(
            "ffd8ffee000e41646f626500640000000000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d",
            "1a1f1e1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc00014080008000804431100",
            "4d11005911004b1100ffc4001500010100000000000000000000000000000708ffc400141001000000000000000000000000",
            "00000000ffda000e0443004d0059004b00003f007f0c27f35bffd9",
        );
        let bytes: Vec<u8> = (0..JPEG.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&JPEG[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        let found = decode_bytes(&bytes).expect("decodes").get_pixel(3, 3).0;
        assert!(found.iter().zip([235u8, 23, 0]).all(|(a, b)| a.abs_diff(b) <= 2), "{found:?}");
    }
}
