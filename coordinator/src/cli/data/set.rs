//! A public data set: where it comes from, and whether what is here is it.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use fleet_common::plan::DatasetIdentity;
use fleet_common::spec::DatasetName;
use fleet_dataset::{Dataset, Split};
use fleet_download::source::{self, Source};

use crate::cli::resolve;

/// The public data sets, by the names that campaigns use.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Public {
    /// CIFAR-100, binary version: 169 MB, used packed
    Cifar100,
    /// Describable Textures, r1.0.1: 625 MB, unpacked to about as much
    Dtd,
}

/// What is known of a public data set.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// Its name in campaigns.
    pub name: DatasetName,
    /// Its archive.
    pub source: Source,
    /// Its folder, unpacked.
    pub folder: &'static str,
    /// Whether it is used from the folder only.
    pub unpacked: bool,
    /// Classes, training images and test images, of which no part may be missing.
    pub sizes: [usize; 3],
}

/// What was found right.
#[derive(Debug)]
pub(super) struct Found {
    pub identity: DatasetIdentity,
    /// What that was compared with.
    pub checks: String,
    /// Where it is.
    pub place: PathBuf,
}

impl Public {
    pub(super) fn set(self) -> Set {
        match self {
            Self::Cifar100 => Set {
                name: DatasetName::Cifar100,
                source: source::CIFAR100,
                folder: "cifar-100-binary",
                unpacked: false,
                sizes: [100, 50_000, 10_000],
            },
            // 120 images of each class, a third of them in test1.
            Self::Dtd => Set {
                name: DatasetName::Dtd,
                source: source::DTD,
                folder: "dtd",
                unpacked: true,
                sizes: [47, 3_760, 1_880],
            },
        }
    }
}

impl Set {
    /// Where its archive is kept.
    pub(super) fn archive(&self, data: &Path) -> PathBuf {
        data.join(self.source.file)
    }

    /// Whether something is where it is used from.
    pub(super) fn is_there(&self, data: &Path) -> bool {
        let official = data.join(self.folder).exists() || (!self.unpacked && self.archive(data).exists());
        // Or somebody's copy from the Hugging Face hub, which is used as it is.
        official || Dataset::open(&self.name, data).is_ok()
    }

    /// Checks what is used: reads all of it.
    pub(super) fn check(&self, data: &Path) -> Result<Found, String> {
        let archive = self.archive(data);
        let folder = data.join(self.folder);
        // The reader prefers the folder.
        let packed = !self.unpacked && !folder.exists() && archive.exists();
        if packed {
            let same = self.source.content.compare(&archive);
            same.map_err(|e| format!("{}: cannot read it: {e}", archive.display()))?
                .map_err(|wrong| format!("{}: {wrong}. `fleet data get` fetches it", archive.display()))?;
        }
        let dataset = Dataset::open(&self.name, data).map_err(|e| e.to_string())?;
        self.is_whole(&dataset)?;
        let checks = if packed {
            format!("{} of the archive; number of classes and images", self.source.content.checks())
        } else {
            "number of classes and images; no hash of the unpacked files is published to compare with".to_owned()
        };
        let identity = resolve::identify(&self.name, data)?;
        let parquet =
            dataset.files().into_iter().map(|(_, file)| file).find(|f| f.extension().is_some_and(|e| e == "parquet"));
        let place = match parquet.as_deref().and_then(Path::parent) {
            Some(parts) => parts.to_owned(),
            None if packed => archive,
            None => folder,
        };
        Ok(Found { identity, checks, place })
    }

    /// Checks that nothing is missing: parts of data sets are in use, too, and are other data sets.
    pub(super) fn is_whole(&self, dataset: &Dataset) -> Result<(), String> {
        let found = [dataset.classes().len(), dataset.len(Split::Train), dataset.len(Split::Test)];
        let words =
            |[classes, train, test]: [usize; 3]| format!("{classes} classes, {train} training and {test} test images");
        if found == self.sizes {
            return Ok(());
        }
        Err(format!(
            "{}: expected {}, found {}: a part of the data set, or another. Train on it if that is what you want; `fleet data \
             get` fetches the whole and renames this",
            self.name.label(),
            words(self.sizes),
            words(found)
        ))
    }
}

impl Found {
    /// Says it.
    pub(super) fn say(&self, set: &Set) {
        let i = &self.identity;
        say!("{}", set.name.label());
        say!("  place        {}", self.place.display());
        say!("  classes      {}", i.classes);
        say!("  images       {} training, {} test", i.train, i.test);
        say!("  checked      {}", self.checks);
        say!("  fingerprint  {}", i.fingerprint);
        say!("  terms        {}", set.source.terms);
    }
}
