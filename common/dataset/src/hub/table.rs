//! One Parquet file, row by row. Memory holds a page of each column; no file's own word for a size is believed.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader as _, RowGroupReader, SerializedFileReader};

use super::walked::Walked;
use crate::DatasetError;

/// Bytes of a row group's column, unpacked: the hub's have some 100 MB at most.
const MOST_COLUMN: i64 = 1 << 30;
/// Rows of a file; ImageNet has 1.3 million in 300 files.
pub(crate) const MOST_ROWS: i64 = 5_000_000;
/// Bytes of a file per row, at least: no image has fewer. A small file can say the same image a million times.
const LEAST_PER_ROW: i64 = 64;
/// Rows that any file may have.
const FEW_ROWS: i64 = 1000;
/// Rows that are asked for at a time.
const AT_ONCE: usize = 64;

/// The columns that are read, each under the names that it may have.
pub(crate) struct Columns {
    /// A group of `bytes` and `path`.
    pub(crate) image: &'static [&'static str],
    /// The class's number.
    pub(crate) label: &'static [&'static str],
    /// Another number.
    pub(crate) coarse: Option<&'static str>,
}

/// One row.
pub(crate) struct Row<'a> {
    /// From 0, within the file.
    pub(crate) number: u64,
    /// The image's file.
    pub(crate) bytes: &'a [u8],
    /// Its name, without folders.
    pub(crate) path: Option<&'a str>,
    pub(crate) label: i64,
    pub(crate) coarse: i64,
}

/// Reads all rows in order.
pub(crate) fn rows(
    path: &Path,
    columns: &Columns,
    each: &mut dyn FnMut(Row<'_>) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    guarded(path, || {
        let reader = open(path)?;
        let metadata = reader.metadata();
        check(path, metadata)?;
        let leaves = Leaves::find(path, metadata, columns)?;
        let mut number = 0;
        for group in 0..metadata.num_row_groups() {
            let rows = metadata.row_group(group).num_rows() as u64;
            let group = reader.get_row_group(group).map_err(|e| broken(path, &e))?;
            group_rows(path, group.as_ref(), &leaves, &mut number, rows, each)?;
        }
        Ok(())
    })
}

/// The names of the classes in the order of their numbers, where the file says them.
pub(crate) fn classes(path: &Path, label: &[&str]) -> Result<Option<Vec<String>>, DatasetError> {
    guarded(path, || {
        let reader = open(path)?;
        let pairs = reader.metadata().file_metadata().key_value_metadata();
        let text = pairs.into_iter().flatten().find(|pair| pair.key == "huggingface").and_then(|p| p.value.as_ref());
        Ok(text.and_then(|text| names(text, label)))
    })
}

/// The names in the hub's own metadata: `{"info": {"features": {"label": {"names": [...]}}}}`.
fn names(text: &str, label: &[&str]) -> Option<Vec<String>> {
    let document: serde_json::Value = serde_json::from_str(text).ok()?;
    let features = document.get("info")?.get("features")?;
    let feature = label.iter().find_map(|name| features.get(*name))?;
    let named = feature.get("names")?;
    // Older files have an object of numbers and names within.
    let list: Option<Vec<String>> = match named {
        serde_json::Value::Array(list) => list.iter().map(|n| Some(n.as_str()?.to_owned())).collect(),
        serde_json::Value::Object(map) => {
            (0..map.len()).map(|n| Some(map.get(&n.to_string())?.as_str()?.to_owned())).collect()
        }
        _ => None,
    };
    list.filter(|list| !list.is_empty())
}

/// What the reader of the format does not refuse, but trips over, is an error as well.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, DatasetError>) -> Result<T, DatasetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(DatasetError::layout(path, "is a damaged Parquet file. Fetch it again")))
}

fn open(path: &Path) -> Result<SerializedFileReader<Walked>, DatasetError> {
    let file = File::open(path).and_then(Walked::new).map_err(DatasetError::io(path, "open it"))?;
    SerializedFileReader::new(file).map_err(|e| broken(path, &e))
}

fn broken(path: &Path, error: &ParquetError) -> DatasetError {
    // A disk that fails is no damage of the file; a place that cannot be, which it names, is.
    let cause = match error {
        ParquetError::External(cause) => cause.downcast_ref::<std::io::Error>(),
        _ => None,
    };
    if let Some(code) = cause.filter(|e| e.kind() != ErrorKind::InvalidInput).and_then(std::io::Error::raw_os_error) {
        return DatasetError::io(path, "read it")(std::io::Error::from_raw_os_error(code));
    }
    let why = cause.map_or_else(|| error.to_string(), ToString::to_string);
    DatasetError::layout(path, format!("cannot be read as Parquet: {why}. Fetch it again"))
}

/// Refuses sizes that no such file has, before anything is made of them.
fn check(path: &Path, metadata: &ParquetMetaData) -> Result<(), DatasetError> {
    let refuse = |what: String| Err(DatasetError::layout(path, format!("{what}. Fetch it again")));
    let length = std::fs::metadata(path).map_err(DatasetError::io(path, "look at it"))?.len();
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let most = MOST_ROWS.min(FEW_ROWS + length / LEAST_PER_ROW);
    let mut rows = 0i64;
    for group in metadata.row_groups() {
        rows = rows.saturating_add(group.num_rows());
        if group.num_rows() < 0 || rows > most {
            return refuse(format!("says that it has {rows} rows in {length} bytes; expected at most {most}"));
        }
        for column in group.columns() {
            let bytes = column.uncompressed_size().max(column.compressed_size());
            if bytes > MOST_COLUMN {
                return refuse(format!(
                    "says that a row group of {} has {bytes} bytes; expected at most {MOST_COLUMN}",
                    column.column_path()
                ));
            }
        }
    }
    Ok(())
}

/// A column: its number within the file, and the level at which a row has a value.
type Leaf = (usize, i16);

/// The columns that are read.
struct Leaves {
    bytes: Leaf,
    path: Option<Leaf>,
    label: Leaf,
    coarse: Option<Leaf>,
}

impl Leaves {
    fn find(path: &Path, metadata: &ParquetMetaData, columns: &Columns) -> Result<Self, DatasetError> {
        let schema = metadata.file_metadata().schema_descr();
        let all: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let at = |name: &str| {
            let at = all.iter().position(|column| column == name)?;
            // Lists of images or labels are other data.
            (schema.column(at).max_rep_level() == 0).then(|| (at, schema.column(at).max_def_level()))
        };
        let needs = |found: Option<Leaf>, name: &str| {
            found.ok_or_else(|| {
                let shown: Vec<&str> = all.iter().take(12).map(String::as_str).collect();
                DatasetError::layout(path, format!("has no column {name}; it has {}", shown.join(", ")))
            })
        };
        let image = columns.image.iter().find(|name| at(&format!("{name}.bytes")).is_some()).unwrap_or(&"image");
        Ok(Self {
            bytes: needs(at(&format!("{image}.bytes")), &format!("{image}.bytes"))?,
            path: at(&format!("{image}.path")),
            label: needs(columns.label.iter().find_map(|name| at(name)), columns.label[0])?,
            coarse: columns.coarse.map(|name| needs(at(name), name)).transpose()?,
        })
    }
}

fn group_rows(
    path: &Path,
    group: &dyn RowGroupReader,
    leaves: &Leaves,
    number: &mut u64,
    rows: u64,
    each: &mut dyn FnMut(Row<'_>) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    let mut bytes = Texts::open(path, group, leaves.bytes)?;
    let mut names = leaves.path.map(|leaf| Texts::open(path, group, leaf)).transpose()?;
    let mut labels = Numbers::open(path, group, leaves.label)?;
    let mut coarse = leaves.coarse.map(|leaf| Numbers::open(path, group, leaf)).transpose()?;
    let mut left = rows;
    while left > 0 {
        let most = AT_ONCE.min(usize::try_from(left).unwrap_or(AT_ONCE));
        let images = bytes.next(path, most)?;
        let names = names.as_mut().map(|n| n.next(path, most)).transpose()?;
        let labels = labels.next(path, most)?;
        let coarse = coarse.as_mut().map(|c| c.next(path, most)).transpose()?;
        for at in 0..most {
            let lacks = |what: &str| DatasetError::layout(path, format!("row {number} has no {what}. Fetch it again"));
            let name = names.as_ref().and_then(|n| n[at].as_ref()).and_then(|n| std::str::from_utf8(n.data()).ok());
            // Some have the whole path of whoever made the file.
            let name = name.and_then(|n| n.rsplit('/').next()).filter(|n| !n.is_empty());
            each(Row {
                number: *number,
                bytes: images[at].as_ref().ok_or_else(|| lacks("image"))?.data(),
                path: name,
                label: labels[at].ok_or_else(|| lacks("label"))?,
                coarse: coarse.as_ref().map_or(Ok(0), |c| c[at].ok_or_else(|| lacks("coarse label")))?,
            })?;
            *number += 1;
        }
        left -= most as u64;
    }
    Ok(())
}

/// A column, a few rows at a time; a row without a value is `None`.
fn next<T: DataType>(
    path: &Path,
    reader: &mut ColumnReaderImpl<T>,
    optional: i16,
    rows: usize,
) -> Result<Vec<Option<T::T>>, DatasetError> {
    let (mut levels, mut values, mut read) = (Vec::new(), Vec::new(), 0);
    while read < rows {
        // In a column that must have values, there are no levels.
        let of = (optional > 0).then_some(&mut levels);
        let (records, ..) = reader.read_records(rows - read, of, None, &mut values).map_err(|e| broken(path, &e))?;
        if records == 0 {
            return Err(DatasetError::layout(path, "has fewer values in a column than rows. Fetch it again"));
        }
        read += records;
    }
    let mut values = values.into_iter();
    let rows = (0..rows).map(|row| match levels.get(row) {
        Some(level) if *level < optional => None,
        _ => values.next(),
    });
    Ok(rows.collect())
}

struct Texts {
    reader: ColumnReaderImpl<ByteArrayType>,
    optional: i16,
}

impl Texts {
    fn open(path: &Path, group: &dyn RowGroupReader, (at, optional): Leaf) -> Result<Self, DatasetError> {
        match group.get_column_reader(at).map_err(|e| broken(path, &e))? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Self { reader, optional }),
            _ => Err(DatasetError::layout(path, "has another type than bytes in the column of images")),
        }
    }

    fn next(&mut self, path: &Path, rows: usize) -> Result<Vec<Option<ByteArray>>, DatasetError> {
        next(path, &mut self.reader, self.optional, rows)
    }
}

enum Numbers {
    Long(ColumnReaderImpl<parquet::data_type::Int64Type>, i16),
    Short(ColumnReaderImpl<parquet::data_type::Int32Type>, i16),
}

impl Numbers {
    fn open(path: &Path, group: &dyn RowGroupReader, (at, optional): Leaf) -> Result<Self, DatasetError> {
        match group.get_column_reader(at).map_err(|e| broken(path, &e))? {
            ColumnReader::Int64ColumnReader(reader) => Ok(Self::Long(reader, optional)),
            ColumnReader::Int32ColumnReader(reader) => Ok(Self::Short(reader, optional)),
            _ => Err(DatasetError::layout(path, "has another type than whole numbers in a column of labels")),
        }
    }

    fn next(&mut self, path: &Path, rows: usize) -> Result<Vec<Option<i64>>, DatasetError> {
        match self {
            Self::Long(reader, optional) => next(path, reader, *optional, rows),
            Self::Short(reader, optional) => {
                let values = next(path, reader, *optional, rows)?;
                Ok(values.into_iter().map(|v| v.map(i64::from)).collect())
            }
        }
    }
}
