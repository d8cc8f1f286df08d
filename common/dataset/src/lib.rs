//! Image data sets on disk, without libtorch: layouts, fingerprints, decoding, and a writer of procedural textures.
//!
//! | module | what it holds |
//! |---|---|
//! | `cifar`, `listed`, `folder` | the layouts: CIFAR-100's records, DTD's label files, one sub-folder per class |
//! | `hub` | the layout of the Hugging Face hub: Parquet files |
//! | `files` | what the two layouts of image files have in common |
//! | `decode` | an image file → RGB8 |
//! | `fingerprint` | what a data set's identity is the hash of |
//! | [`synth`] | procedural textures in DTD's layout |

mod cifar;
mod decode;
mod error;
mod files;
mod fingerprint;
mod folder;
mod hub;
mod listed;
pub mod synth;

use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use decode::decode_bytes;
pub use error::DatasetError;
use fleet_common::canonical::hex;
use fleet_common::plan::DatasetIdentity;
use fleet_common::spec::DatasetName;
use sha2::{Digest, Sha256};

use crate::cifar::Cifar;
use crate::files::Files;
use crate::hub::Hub;

/// SHA-256 of a file, hexadecimal: what weights are named by.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of_file(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Where a data set's files are, some of which may not exist: to see whether they changed since they were last read.
pub fn places(name: &DatasetName, data_dir: &Path) -> Vec<PathBuf> {
    match name {
        DatasetName::Cifar100 => {
            ["cifar-100-binary", "cifar-100-binary.tar.gz", "cifar100"].map(|n| data_dir.join(n)).to_vec()
        }
        DatasetName::Dtd => vec![data_dir.join("dtd")],
        DatasetName::Textures(textures) => vec![data_dir.join(textures)],
        DatasetName::Folder(path) => vec![PathBuf::from(path)],
    }
}

/// A half of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What accuracy is measured on.
    Test,
}

impl Split {
    /// Both, in the order of tables and fingerprints.
    pub const ALL: [Self; 2] = [Self::Train, Self::Test];

    /// The name in tables, messages and fingerprints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// How a data set's images become a model's inputs: the study's two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// CIFAR's: the whole image resized to the model's square input; a horizontal flip in training.
    Resize,
    /// DTD's, and that of every other set of photographs: a random resized crop of 0.8 to 1.0 of the area and a
    /// horizontal flip in training; in tests the shorter side resized to `floor(size · 255 / 224)`, then a centre crop.
    Crop,
}

/// An opened data set: an index of its images, and for CIFAR-100 the images themselves.
///
/// The order of images follows from the content alone (the file's order for CIFAR-100, sorted by class and file name
/// elsewhere), so that where fingerprints are equal, an index means the same image.
#[derive(Debug)]
pub struct Dataset {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Cifar(Cifar),
    Files(Files),
    Hub(Hub),
}

// Many threads decode from one data set.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Dataset>();
};

impl Dataset {
    /// Opens `name` under `data_dir`; a path is used as it is, relative to the current folder.
    ///
    /// Checks everything that can be checked without decoding: that the layout is complete, that listed files exist,
    /// that labels are in range, that no half is empty, that no image file is in both halves. The last is told by names;
    /// images without one (CIFAR-100's, those of some Parquet files) may repeat.
    pub fn open(name: &DatasetName, data_dir: &Path) -> Result<Self, DatasetError> {
        let source = match name {
            DatasetName::Cifar100 => Source::Cifar(Cifar::open(data_dir)?),
            DatasetName::Dtd => match dtd_from_the_hub(data_dir)? {
                Some(shards) => Source::Hub(Hub::open(shards)?),
                None => Source::Files(listed::open(
                    "dtd",
                    data_dir,
                    "Get it with `fleet data get dtd`, or fetch dtd-r1.0.1.tar.gz from \
                 https://www.robots.ox.ac.uk/~vgg/data/dtd/ and unpack it there",
                )?),
            },
            DatasetName::Textures(textures) => Source::Files(listed::open(
                textures,
                data_dir,
                "Write it with `fleet data synth` (see its --help), or name another data folder",
            )?),
            DatasetName::Folder(path) => Source::Files(folder::open(Path::new(path))?),
        };
        Ok(Self { source })
    }

    /// The classes' names; a label is an index into them.
    pub fn classes(&self) -> &[String] {
        match &self.source {
            Source::Cifar(cifar) => cifar.classes(),
            Source::Files(files) => &files.classes,
            Source::Hub(hub) => &hub.classes,
        }
    }

    /// Number of images; never 0.
    pub fn len(&self, split: Split) -> usize {
        match &self.source {
            Source::Cifar(cifar) => cifar.len(split),
            Source::Files(files) => files.half(split).images.len(),
            Source::Hub(hub) => hub.len(split),
        }
    }

    /// The class of an image.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    pub fn label(&self, split: Split, index: usize) -> u32 {
        match &self.source {
            Source::Cifar(cifar) => cifar.label(split, index),
            Source::Files(files) => files.half(split).images[index].class,
            Source::Hub(hub) => hub.label(split, index),
        }
    }

    /// Decodes one image to RGB8, from any number of threads at once.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    pub fn decode(&self, split: Split, index: usize) -> Result<image::RgbImage, DatasetError> {
        match &self.source {
            Source::Cifar(cifar) => Ok(cifar.image(split, index)),
            Source::Files(files) => decode::decode_file(&files.path(split, index)),
            Source::Hub(hub) => hub.decode(split, index),
        }
    }

    /// What the data set is, wherever it lies: SHA-256 over the content that this reader uses, and its sizes. Reads
    /// every file; `progress` gets bytes done and bytes in all.
    pub fn identify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<DatasetIdentity, DatasetError> {
        let fingerprint = match &self.source {
            Source::Cifar(cifar) => cifar.fingerprint(progress),
            Source::Files(files) => files.fingerprint(progress)?,
            Source::Hub(hub) => hub.fingerprint(progress),
        };
        // Labels are u32, so the number of classes fits.
        Ok(DatasetIdentity {
            fingerprint,
            classes: self.classes().len() as u32,
            train: self.len(Split::Train) as u64,
            test: self.len(Split::Test) as u64,
        })
    }

    /// The files that it consists of, each with the place that it has below a data folder; an image folder's are below
    /// `images/`, because its own path means nothing elsewhere.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        match &self.source {
            Source::Cifar(cifar) => cifar.files().to_vec(),
            Source::Files(files) => files.places(),
            Source::Hub(hub) => hub.files(),
        }
    }

    /// How its images become a model's inputs.
    pub fn protocol(&self) -> Protocol {
        match &self.source {
            Source::Cifar(_) => Protocol::Resize,
            Source::Files(_) | Source::Hub(_) => Protocol::Crop,
        }
    }
}

/// DTD's Parquet files, unless its official layout is there.
fn dtd_from_the_hub(data_dir: &Path) -> Result<Option<hub::Shards>, DatasetError> {
    let root = data_dir.join("dtd");
    if root.join("images").exists() || root.join("labels").exists() {
        return Ok(None);
    }
    hub::find(&root, "dtd")
}
