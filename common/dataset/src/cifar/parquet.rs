//! The hub's Parquet files: PNG is lossless, so the records of the official binary version can be made of them.

use super::{CLASSES, Content, MAX_BYTES, PLANE, RECORD, SIDE, too_long};
use crate::hub::Shards;
use crate::hub::table::{self, Columns, Row};
use crate::{DatasetError, Split, decode};

const COLUMNS: Columns = Columns { image: &["img", "image"], label: &["fine_label"], coarse: Some("coarse_label") };

/// Makes the records. Where images are in the official order, they are the official ones byte for byte.
pub(super) fn read(shards: &Shards) -> Result<Content, DatasetError> {
    let half = |split| {
        let mut records = Vec::new();
        for file in shards.of(split) {
            if let Some(names) = table::classes(file, COLUMNS.label)?
                && names != CLASSES
            {
                let differs = (0..CLASSES.len().max(names.len()))
                    .find(|n| names.get(*n).map(String::as_str) != CLASSES.get(*n).copied());
                let class = differs.unwrap_or_default();
                return Err(DatasetError::layout(
                    file,
                    format!(
                        "has other classes: expected {:?} as class {class}, found {:?}. It is not CIFAR-100",
                        CLASSES.get(class),
                        names.get(class)
                    ),
                ));
            }
            table::rows(file, &COLUMNS, &mut |row| {
                if (records.len() + RECORD) as u64 > MAX_BYTES {
                    return Err(too_long(file));
                }
                record(&row, &mut records)
                    .map_err(|why| DatasetError::layout(file, format!("row {}: {why}. Fetch it again", row.number)))
            })?;
        }
        Ok((shards.of(split).first().cloned().unwrap_or_default(), records))
    };
    Ok(Content { train: half(Split::Train)?, test: half(Split::Test)?, names: None, files: shards.places() })
}

/// Adds a row as a record: coarse label, fine label, the planes of red, green and blue.
fn record(row: &Row<'_>, records: &mut Vec<u8>) -> Result<(), String> {
    for (label, name) in [(row.coarse, "coarse label"), (row.label, "fine label")] {
        records.push(u8::try_from(label).map_err(|_| format!("the {name} is {label}; expected 0 to 99"))?);
    }
    let image = decode::decode_bytes(row.bytes)?;
    let (width, height) = image.dimensions();
    if (width as usize, height as usize) != (SIDE, SIDE) {
        return Err(format!("the image has {width} × {height} pixels; expected {SIDE} × {SIDE}"));
    }
    let pixels = image.as_raw();
    for channel in 0..3 {
        records.extend((0..PLANE).map(|pixel| pixels[pixel * 3 + channel]));
    }
    Ok(())
}
