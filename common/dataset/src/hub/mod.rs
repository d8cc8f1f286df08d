//! Data sets as the Hugging Face hub keeps them: Parquet files per split, an image's file in a column.
//!
//! Images of arbitrary size are copied once into an unnamed file, because any of them may be asked for at any time and a
//! row group has to be unpacked from its beginning; memory holds their index only.

mod shape;
mod shards;
pub(crate) mod table;
mod walked;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fleet_common::canonical;
use sha2::{Digest as _, Sha256};

pub(crate) use shards::Shards;
use table::{Columns, Row};

use crate::{DatasetError, Split, decode, fingerprint};

/// DTD's classes, for files that do not name them.
#[rustfmt::skip]
const DTD: [&str; 47] = [
    "banded", "blotchy", "braided", "bubbly", "bumpy", "chequered", "cobwebbed", "cracked", "crosshatched",
    "crystalline", "dotted", "fibrous", "flecked", "freckled", "frilly", "gauzy", "grid", "grooved", "honeycombed",
    "interlaced", "knitted", "lacelike", "lined", "marbled", "matted", "meshed", "paisley", "perforated", "pitted",
    "pleated", "polka-dotted", "porous", "potholed", "scaly", "smeared", "spiralled", "sprinkled", "stained",
    "stratified", "striped", "studded", "swirly", "veined", "waffled", "woven", "wrinkled", "zigzagged",
];

/// Bytes of an image's file; the largest photographs have some 20 MB.
const MOST_IMAGE: usize = 64 << 20;
/// How many times its own size a set may unpack to, and how much beyond that: image files hardly get smaller by packing,
/// but a file of a few bytes can say the same large image a million times.
const MOST_TIMES: u64 = 8;
const MOST_BEYOND: u64 = 64 << 20;

const COLUMNS: Columns = Columns { image: &["image", "img"], label: &["label", "labels"], coarse: None };

/// Images from Parquet files.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) classes: Vec<String>,
    train: Vec<Image>,
    test: Vec<Image>,
    /// The images' files one behind the other. It has no name, so it is gone with the process.
    images: File,
    shards: Shards,
}

/// One image. Sorted by class and file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Image {
    class: u32,
    file: String,
    at: u64,
    len: usize,
    sha256: [u8; 32],
}

/// An image of which only the class's number in its file is known.
struct Found {
    label: String,
    file: Option<String>,
    at: u64,
    len: usize,
    sha256: [u8; 32],
}

impl Hub {
    /// Opens what `shards` found.
    pub(crate) fn open(shards: Shards) -> Result<Self, DatasetError> {
        let temporary = std::env::temp_dir();
        let io = |action| DatasetError::io(&temporary, action);
        let images = tempfile::tempfile().map_err(io("make a file for its images (TMPDIR names another folder)"))?;
        let mut writer = BufWriter::new(images.try_clone().map_err(io("use the file for its images"))?);
        let mut most = MOST_BEYOND;
        for file in Split::ALL.into_iter().flat_map(|split| shards.of(split)) {
            let packed = file.metadata().map_err(DatasetError::io(file, "look at it"))?.len();
            most = most.saturating_add(packed.saturating_mul(MOST_TIMES));
        }
        let mut at = 0;
        let mut halves = [Vec::new(), Vec::new()];
        for split in Split::ALL {
            for file in shards.of(split) {
                let names = table::classes(file, COLUMNS.label)?.unwrap_or_else(|| DTD.map(str::to_owned).to_vec());
                table::rows(file, &COLUMNS, &mut |Row { number, bytes, path, label, .. }| {
                    let class = usize::try_from(label).ok().and_then(|label| names.get(label)).ok_or_else(|| {
                        DatasetError::layout(
                            file,
                            format!(
                                "row {number} has the label {label}; expected 0 to {}. Fetch it again",
                                names.len() - 1
                            ),
                        )
                    })?;
                    let refuse = |what: String| Err(DatasetError::layout(file, format!("{what}. Fetch it again")));
                    if bytes.len() > MOST_IMAGE {
                        let found = bytes.len();
                        return refuse(format!("row {number} has {found} bytes; expected at most {MOST_IMAGE}"));
                    }
                    if at + bytes.len() as u64 > most {
                        return refuse(format!(
                            "unpacks to more than {most} bytes with the files beside it, {MOST_TIMES} times what they have"
                        ));
                    }
                    let written = writer.write_all(bytes);
                    written.map_err(io("copy its images there (TMPDIR names another folder)"))?;
                    let sha256 = Sha256::digest(bytes).into();
                    let (label, file) = (class.clone(), path.map(str::to_owned));
                    halves[usize::from(split == Split::Test)].push(Found { label, file, at, len: bytes.len(), sha256 });
                    at += bytes.len() as u64;
                    Ok(())
                })?;
            }
        }
        writer.flush().map_err(io("copy its images there (TMPDIR names another folder)"))?;
        drop(writer);
        let [train, test] = halves;
        check(shards.root(), &train, &test)?;
        let classes: BTreeSet<&str> = train.iter().map(|i| i.label.as_str()).collect();
        if let Some(image) = test.iter().find(|i| !classes.contains(i.label.as_str())) {
            return Err(DatasetError::layout(
                shards.root(),
                format!("has test images of class \"{}\", of which there is no training image", image.label),
            ));
        }
        let classes: Vec<String> = classes.into_iter().map(str::to_owned).collect();
        Ok(Self { train: half(&classes, train), test: half(&classes, test), classes, images, shards })
    }

    fn half(&self, split: Split) -> &[Image] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    pub(crate) fn len(&self, split: Split) -> usize {
        self.half(split).len()
    }

    pub(crate) fn label(&self, split: Split, index: usize) -> u32 {
        self.half(split)[index].class
    }

    pub(crate) fn decode(&self, split: Split, index: usize) -> Result<image::RgbImage, DatasetError> {
        let image = &self.half(split)[index];
        let mut bytes = vec![0; image.len];
        let read = self.images.read_exact_at(&mut bytes, image.at);
        read.map_err(DatasetError::io(self.shards.root(), "read the copy of its images"))?;
        let path = || self.shards.root().join(&self.classes[image.class as usize]).join(&image.file);
        decode::decode_bytes(&bytes).map_err(|message| DatasetError::Image { path: path(), message })
    }

    /// That of the same image files in folders.
    pub(crate) fn fingerprint(&self, progress: &mut dyn FnMut(u64, u64)) -> String {
        let mut whole = fingerprint::begin_images();
        for split in Split::ALL {
            for image in self.half(split) {
                fingerprint::add(&mut whole, split, &self.classes[image.class as usize], &image.file, &image.sha256);
            }
        }
        let bytes = self.train.iter().chain(&self.test).map(|i| i.len as u64).sum();
        progress(bytes, bytes);
        canonical::hex(&whole.finalize())
    }

    pub(crate) fn files(&self) -> Vec<(String, PathBuf)> {
        self.shards.places()
    }
}

/// Refuses a half without images, and the same image twice, where names tell that it is the same.
fn check(root: &Path, train: &[Found], test: &[Found]) -> Result<(), DatasetError> {
    for (images, half) in [(train, "training"), (test, "test")] {
        if images.is_empty() {
            let found = format!("has no {half} images: its Parquet files have no rows. Fetch it again");
            return Err(DatasetError::layout(root, found));
        }
    }
    let mut seen = BTreeSet::new();
    for image in train.iter().chain(test) {
        if let Some(file) = &image.file
            && !seen.insert((&image.label, file, &image.sha256))
        {
            let found = format!(
                "has {}/{file} twice, with the same content; expected every image once over both halves. Fetch it again",
                image.label
            );
            return Err(DatasetError::layout(root, found));
        }
    }
    Ok(())
}

/// Images by class and file name. Where names are missing or not one per image, all are numbered in the files' order:
/// then nothing says which files they were.
fn half(classes: &[String], found: Vec<Found>) -> Vec<Image> {
    let names: BTreeSet<(&str, &str)> =
        found.iter().filter_map(|i| Some((i.label.as_str(), i.file.as_deref()?))).collect();
    let named = names.len() == found.len();
    let mut images: Vec<Image> = found
        .into_iter()
        .enumerate()
        .map(|(number, Found { label, file, at, len, sha256 })| Image {
            class: classes.binary_search(&label).unwrap_or_default() as u32,
            file: file.filter(|_| named).unwrap_or_else(|| format!("{number:08}")),
            at,
            len,
            sha256,
        })
        .collect();
    images.sort();
    images
}

/// The Parquet files at `root` or one folder below it, if there are any.
pub(crate) fn find(root: &Path, called: &str) -> Result<Option<Shards>, DatasetError> {
    Shards::find(root, called)
}
