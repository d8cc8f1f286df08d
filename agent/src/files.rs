//! Data sets and weights by content: whether what lies here is what a cell was defined with.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fleet_checkpoint::ModelFolder;
use fleet_common::plan::{CellSettings, WeightsRef};
use fleet_common::spec::DatasetName;
use fleet_content::{Digest, Item};
use fleet_dataset::{Dataset, sha256_of_file};

/// The folders that an agent looks into, and what it has found out about them.
#[derive(Debug)]
pub struct Files {
    data_dir: PathBuf,
    weights_dir: Option<PathBuf>,
    /// Fingerprints by data set, for as long as no file changes: they cost a read of everything.
    datasets: Mutex<HashMap<DatasetName, (Stamp, String)>>,
    weights: Mutex<HashMap<PathBuf, (Stamp, String)>>,
    /// What was last found in each place. Of its own: the others are held while everything is read.
    found: Mutex<HashMap<PathBuf, Item>>,
}

impl Files {
    /// Looks for data in `data_dir` and for weights in `weights_dir`.
    pub fn new(data_dir: PathBuf, weights_dir: Option<PathBuf>) -> Self {
        Self { data_dir, weights_dir, datasets: Mutex::default(), weights: Mutex::default(), found: Mutex::default() }
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Checks that the data set here has the content that the settings name.
    ///
    /// # Errors
    /// It is not here, cannot be read, or is another one; in words for the record.
    pub fn check_dataset(&self, settings: &CellSettings, dataset: &DatasetName) -> Result<(), String> {
        let mut known = self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&fleet_dataset::places(dataset, &self.data_dir));
        let fingerprint = match known.get(dataset) {
            Some((then, fingerprint)) if *then == stamp => fingerprint.clone(),
            _ => {
                let identity = Dataset::open(dataset, &self.data_dir).and_then(|d| d.identify(&mut |_, _| {}));
                let item = identity.as_ref().ok().and_then(|i| i.fingerprint.parse().ok().map(Item::Dataset));
                self.found(self.data_dir.join(dataset.label()), item);
                let identity = identity.map_err(|e| e.to_string())?;
                known.insert(dataset.clone(), (stamp, identity.fingerprint.clone()));
                identity.fingerprint
            }
        };
        if fingerprint == settings.dataset.fingerprint {
            return Ok(());
        }
        Err(format!(
            "the data set {} under {} is not the one that the campaign was submitted with: expected fingerprint {}…, found \
             {}…; copy the same data here, or submit again with this data",
            settings.dataset.name,
            self.data_dir.display(),
            &settings.dataset.fingerprint[..12.min(settings.dataset.fingerprint.len())],
            &fingerprint[..12]
        ))
    }

    /// The file with the weights that the settings name, or the folder of a published model; `None` where they train
    /// from scratch.
    ///
    /// # Errors
    /// No such file or folder is here, or two could be meant; in words for the record.
    pub fn find_weights(&self, settings: &CellSettings) -> Result<Option<PathBuf>, String> {
        let Some(sha256) = settings.weights.sha256() else { return Ok(None) };
        let backbone = settings.backbone.name();
        let Some(dir) = &self.weights_dir else {
            return Err(format!("the weights of {backbone} are wanted, but this agent was started without --weights"));
        };
        if let WeightsRef::Folder { .. } = settings.weights {
            return self.find_model(dir, backbone, sha256).map(Some);
        }
        let found = fleet_checkpoint::find(dir, backbone).map_err(|e| e.to_string())?;
        let file = found.ok_or_else(|| {
            let kinds = fleet_checkpoint::EXTENSIONS.map(|e| format!(".{e}")).join(", ");
            format!("the weights {backbone} ({kinds}) are not in {}; copy the submitter's there", dir.display())
        })?;
        let found = self.sha256(&file).map_err(|e| format!("cannot read the weights {}: {e}", file.display()))?;
        if found == sha256 {
            Ok(Some(file))
        } else {
            Err(format!(
                "{} is not the file that the campaign was submitted with: expected SHA-256 {}…, found {}…",
                file.display(),
                &sha256[..12.min(sha256.len())],
                &found[..12]
            ))
        }
    }

    /// The folder of the model called `name`, if its content is `sha256`.
    fn find_model(&self, dir: &Path, name: &str, sha256: &str) -> Result<PathBuf, String> {
        let found = ModelFolder::find(dir, name).map_err(|e| e.to_string())?;
        let folder = found.ok_or_else(|| {
            format!("the folder {name}/ of the published model is not in {}; copy the submitter's there", dir.display())
        })?;
        let root = folder.root();
        let places: Vec<PathBuf> = folder.files().iter().map(|file| root.join(file)).collect();
        let read = || folder.fingerprint(&mut |_, _| {}).map_err(|e| e.to_string());
        let found = self.known_or(root, &places, Item::Model, read)?;
        if found == sha256 {
            return Ok(root.to_owned());
        }
        Err(format!(
            "{} is not the model that the campaign was submitted with: expected fingerprint {}…, found {}…; copy the same \
             files here, or submit again with these",
            root.display(),
            &sha256[..12.min(sha256.len())],
            &found[..12]
        ))
    }

    /// What has been found here, as far as it was looked at. Does not wait for who is looking.
    pub fn known(&self) -> Vec<Item> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn found(&self, place: PathBuf, item: Option<Item>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match item {
            Some(item) => found.insert(place, item),
            None => found.remove(&place),
        };
    }

    fn sha256(&self, file: &Path) -> std::io::Result<String> {
        self.known_or(file, &[file.to_owned()], Item::Weights, || sha256_of_file(file))
    }

    /// The hash of what lies at `place`: as it is known, unless one of its `files` has changed since, or as `read` gives
    /// it.
    fn known_or<E>(
        &self,
        place: &Path,
        files: &[PathBuf],
        item: fn(Digest) -> Item,
        read: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let mut known = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(files);
        if let Some((then, hash)) = known.get(place)
            && *then == stamp
        {
            return Ok(hash.clone());
        }
        let hash = read();
        self.found(place.to_owned(), hash.as_ref().ok().and_then(|hash| hash.parse().ok().map(item)));
        let hash = hash?;
        known.insert(place.to_owned(), (stamp, hash.clone()));
        Ok(hash)
    }
}

/// Paths, sizes and times of change of files: what differs when a file was replaced, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

impl Stamp {
    /// Of these files, and of all files in these folders.
    pub(crate) fn of(places: &[PathBuf]) -> Self {
        let mut hasher = DefaultHasher::new();
        let mut left: Vec<PathBuf> = places.to_vec();
        while let Some(path) = left.pop() {
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if meta.is_dir() {
                let mut inside: Vec<PathBuf> =
                    std::fs::read_dir(&path).map(|e| e.flatten().map(|e| e.path()).collect()).unwrap_or_default();
                inside.sort();
                left.extend(inside);
            } else {
                (&path, meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino()).hash(&mut hasher);
            }
        }
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_files_have_another_stamp() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, file) = (dir.path().join("a"), dir.path().join("a/b.bin"));
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(&file, b"one").expect("writes");
        let stamp = || Stamp::of(std::slice::from_ref(&folder));
        let first = stamp();
        assert_eq!(first, stamp());
        std::fs::write(dir.path().join("new"), b"two").expect("writes");
        std::fs::rename(dir.path().join("new"), &file).expect("renames");
        let second = stamp();
        assert_ne!(first, second, "the same length");
        std::fs::write(folder.join("c.bin"), b"").expect("writes");
        assert_ne!(second, stamp());
    }
}
