//! CIFAR-100's official binary version: records of a coarse label, a fine label, and 32 × 32 pixels as three planes.
//!
//! Fine labels are the classes. Both files stay in memory: 184 MB for the official set, in exchange for reads that
//! cannot fail in the middle of a trial.

mod archive;
mod names;
mod parquet;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use image::RgbImage;
use names::CLASSES;

use crate::{DatasetError, Split, fingerprint, hub};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 2 + 3 * PLANE;

/// A bound on what a file or a hostile archive can make us allocate; the official train.bin has 154 MB.
const MAX_BYTES: u64 = 200_000_000;

/// May be absent, but may not contradict [`CLASSES`].
const NAMES: &str = "fine_label_names.txt";

/// CIFAR-100 in memory.
#[derive(Debug)]
pub(crate) struct Cifar {
    classes: Vec<String>,
    train: Vec<u8>,
    test: Vec<u8>,
    files: Vec<(String, PathBuf)>,
}

/// The three files' content and where it was read from.
struct Content {
    train: (PathBuf, Vec<u8>),
    test: (PathBuf, Vec<u8>),
    names: Option<(PathBuf, Vec<u8>)>,
    /// Files on the disk, with their places below a data folder.
    files: Vec<(String, PathBuf)>,
}

impl Cifar {
    /// Opens `DATA/cifar-100-binary/`, or else `DATA/cifar-100-binary.tar.gz`, which is never unpacked to disk, or
    /// else the hub's Parquet files in `DATA/cifar100/`.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, DatasetError> {
        let folder = data_dir.join("cifar-100-binary");
        let archive = data_dir.join("cifar-100-binary.tar.gz");
        let content = if folder.is_dir() {
            from_folder(&folder)?
        } else if archive.is_file() {
            archive::read(&archive)?
        } else if let Some(shards) = hub::find(&data_dir.join("cifar100"), "cifar100")? {
            parquet::read(&shards)?
        } else {
            return Err(DatasetError::missing(
                "cifar100",
                &[folder, archive, data_dir.join("cifar100/*.parquet")],
                data_dir,
                "Get it with `fleet data get cifar100`, or put cifar-100-binary.tar.gz (the binary version, not the Python one) from \
                 https://www.cs.toronto.edu/~kriz/cifar.html there, packed or unpacked",
            ));
        };
        if let Some((path, text)) = &content.names {
            check_names(path, text)?;
        }
        for (path, bytes) in [&content.train, &content.test] {
            check_records(path, bytes)?;
        }
        let classes = CLASSES.map(str::to_owned).to_vec();
        Ok(Self { classes, train: content.train.1, test: content.test.1, files: content.files })
    }

    pub(crate) fn files(&self) -> &[(String, PathBuf)] {
        &self.files
    }

    pub(crate) fn classes(&self) -> &[String] {
        &self.classes
    }

    pub(crate) fn len(&self, split: Split) -> usize {
        self.bytes(split).len() / RECORD
    }

    pub(crate) fn label(&self, split: Split, index: usize) -> u32 {
        u32::from(self.record(split, index)[1])
    }

    pub(crate) fn image(&self, split: Split, index: usize) -> RgbImage {
        let planes = &self.record(split, index)[2..];
        RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
            let at = y as usize * SIDE + x as usize;
            image::Rgb([planes[at], planes[PLANE + at], planes[2 * PLANE + at]])
        })
    }

    pub(crate) fn fingerprint(&self, progress: &mut dyn FnMut(u64, u64)) -> String {
        fingerprint::of_cifar(&self.train, &self.test, progress)
    }

    fn record(&self, split: Split, index: usize) -> &[u8] {
        &self.bytes(split)[index * RECORD..(index + 1) * RECORD]
    }

    fn bytes(&self, split: Split) -> &[u8] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }
}

fn from_folder(folder: &Path) -> Result<Content, DatasetError> {
    let read = |name: &str| -> Result<(PathBuf, Vec<u8>), DatasetError> {
        let path = folder.join(name);
        if !path.is_file() {
            return Err(DatasetError::layout(
                folder,
                format!(
                    "has no file {name}; expected train.bin and test.bin. {}. Unpack cifar-100-binary.tar.gz again",
                    crate::error::listing(folder)
                ),
            ));
        }
        let file = File::open(&path).map_err(DatasetError::io(&path, "open it"))?;
        let bytes = read_bounded(&path, file)?;
        Ok((path, bytes))
    };
    let names = if folder.join(NAMES).exists() { Some(read(NAMES)?) } else { None };
    let (train, test) = (read("train.bin")?, read("test.bin")?);
    let used = [Some(&train.0), Some(&test.0), names.as_ref().map(|(path, _)| path)];
    let named = used
        .into_iter()
        .flatten()
        .filter_map(|path| Some((format!("cifar-100-binary/{}", path.file_name()?.to_str()?), path.clone())));
    Ok(Content { files: named.collect(), train, test, names })
}

/// Reads all, but refuses what is longer than CIFAR-100 can be.
fn read_bounded(path: &Path, reader: impl Read) -> Result<Vec<u8>, DatasetError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(DatasetError::io(path, "read it"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long(path));
    }
    Ok(bytes)
}

fn too_long(path: &Path) -> DatasetError {
    DatasetError::layout(
        path,
        format!("is longer than {MAX_BYTES} bytes; expected at most 153,700,000 (50,000 records). Fetch it again"),
    )
}

fn check_records(path: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let rest = bytes.len() % RECORD;
    if bytes.is_empty() || rest != 0 {
        return Err(DatasetError::layout(
            path,
            format!(
                "has {} bytes; expected a whole number of records of {RECORD} bytes, but the record at byte {} has \
                 only {rest}. Fetch it again",
                bytes.len(),
                bytes.len() - rest
            ),
        ));
    }
    for (number, record) in bytes.chunks_exact(RECORD).enumerate() {
        if usize::from(record[1]) >= CLASSES.len() {
            return Err(DatasetError::layout(
                path,
                format!(
                    "byte {} (record {number}) holds the fine label {}; expected 0 to {}. Is it CIFAR-100's binary \
                     version? Fetch it again",
                    number * RECORD + 1,
                    record[1],
                    CLASSES.len() - 1
                ),
            ));
        }
    }
    Ok(())
}

/// The labels' meaning is fixed; a file of names that says otherwise belongs to other data.
fn check_names(path: &Path, text: &[u8]) -> Result<(), DatasetError> {
    let text = String::from_utf8_lossy(text);
    let found: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for line in 0..found.len().max(CLASSES.len()) {
        let (found, expected) = (found.get(line).copied(), CLASSES.get(line).copied());
        if found != expected {
            let quoted = |name: Option<&str>| name.map_or("the end of the file".to_owned(), |n| format!("\"{n}\""));
            return Err(DatasetError::line(
                path,
                line + 1,
                format!(
                    "expected CIFAR-100's class {}, found {}. If the .bin files are CIFAR-100's, remove this file",
                    quoted(expected),
                    quoted(found)
                ),
            ));
        }
    }
    Ok(())
}
