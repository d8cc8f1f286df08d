//! A folder of content.
//!
//! ```text
//! ROOT/blobs/ab/abcd…     files by SHA-256, read-only
//! ROOT/partial/abcd…      blobs on their way
//! ROOT/items/ITEM.json    manifests of what is here, or on its way
//! ROOT/sets/FINGERPRINT/  a data set as its reader wants it: links to blobs, there only when its fingerprint is right
//! ROOT/models/FINGERPRINT/  the folder of a published model, likewise
//! ROOT/tmp/               what is being made; what a killed process left there is removed
//! ```
//!
//! It is the same on the coordinator, on agents, on a disk that they share and in an object store, so one can be copied to
//! become another.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use fleet_checkpoint::{CheckpointError, ModelFolder};
use fleet_dataset::{Dataset, DatasetError};

use crate::work::Work;
use crate::{ContentError, Digest, Item, Manifest, Partial};

/// A folder of content.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

/// A blob that is not all here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
    /// Bytes that are here.
    pub have: u64,
}

/// Where the manifest of an item lies below a root.
pub fn manifest_place(item: &Item) -> String {
    format!("items/{item}.json")
}

/// The folder in which a blob lies, below a root.
pub fn blob_folder(sha256: &Digest) -> String {
    format!("blobs/{}", &sha256.as_str()[..2])
}

impl Folder {
    /// The folder at `root`, made if it is not there, and cleared of what killed processes left unfinished in `tmp/`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(root: &Path) -> Result<Self, ContentError> {
        for folder in ["blobs", "partial", "items", "sets", "models", "tmp"].map(|name| root.join(name)) {
            fs::create_dir_all(&folder).map_err(ContentError::io(&folder, "make it"))?;
        }
        let folder = Self { root: root.to_owned() };
        Work::sweep(&folder.tmp());
        Ok(folder)
    }

    /// A folder that is only read.
    pub fn existing(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob lies, if it does.
    pub fn blob(&self, sha256: &Digest) -> PathBuf {
        self.root.join(blob_folder(sha256)).join(sha256.as_str())
    }

    /// Whether a blob is here. Its content was right when it was put there.
    pub fn has_blob(&self, sha256: &Digest, bytes: u64) -> bool {
        fs::metadata(self.blob(sha256)).is_ok_and(|m| m.is_file() && m.len() == bytes)
    }

    /// What has come of a blob, to be gone on with; `None` while somebody else writes it.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn partial(&self, sha256: &Digest, bytes: u64) -> Result<Option<Partial>, ContentError> {
        Partial::open(&self.partial_path(sha256), &self.blob(sha256), sha256, bytes)
    }

    /// The blobs of a manifest that are not here.
    pub fn missing(&self, manifest: &Manifest) -> Vec<Missing> {
        let blobs = manifest.blobs().into_iter().filter(|(sha256, bytes)| !self.has_blob(sha256, *bytes));
        let missing = blobs.map(|(sha256, bytes)| {
            let come = fs::metadata(self.partial_path(&sha256)).map_or(0, |m| m.len());
            // More than there can be will be thrown away.
            Missing { have: if come > bytes { 0 } else { come }, sha256, bytes }
        });
        missing.collect()
    }

    fn partial_path(&self, sha256: &Digest) -> PathBuf {
        self.root.join("partial").join(sha256.as_str())
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn manifest_path(&self, item: &Item) -> PathBuf {
        self.root.join(manifest_place(item))
    }

    /// The manifest of an item that is here or on its way.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn manifest(&self, item: &Item) -> Result<Option<Manifest>, ContentError> {
        let path = self.manifest_path(item);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(ContentError::io(&path, "read it")(e)),
        };
        let manifest = Manifest::parse(&bytes)?;
        if manifest.item != *item {
            return Err(ContentError::Manifest(format!("{} is of {}", path.display(), manifest.item)));
        }
        Ok(Some(manifest))
    }

    /// Keeps a manifest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep(&self, manifest: &Manifest) -> Result<(), ContentError> {
        let path = self.manifest_path(&manifest.item);
        let work = Work::begin(&self.tmp())?;
        let mut file = fs::File::create(work.place()).map_err(ContentError::io(work.place(), "write it"))?;
        let written = file.write_all(&manifest.to_json()).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(work.place(), &path)).map_err(ContentError::io(&path, "write it"))
    }

    /// The items whose manifests are here, in no order. What is no manifest is left alone.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn items(&self) -> Result<Vec<Item>, ContentError> {
        let folder = self.root.join("items");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(ContentError::io(&folder, "list it")(e)),
        };
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// Where an item lies, if it does: the folder of a data set or model, or the file of weights.
    pub fn place(&self, item: &Item) -> PathBuf {
        match item {
            Item::Dataset(fingerprint) => self.root.join("sets").join(fingerprint.as_str()),
            Item::Model(fingerprint) => self.root.join("models").join(fingerprint.as_str()),
            Item::Weights(sha256) => self.blob(sha256),
        }
    }

    /// Whether an item is here and was right when it was put together.
    pub fn holds(&self, item: &Item) -> bool {
        let place = self.place(item);
        if let Item::Weights(_) = item { place.is_file() } else { place.is_dir() }
    }

    /// Puts a data set or model together from its blobs, reads it as what it is called, and gives it its place if its
    /// fingerprint is the one that the manifest says. Weights are their only blob, and need nothing.
    ///
    /// # Errors
    /// The disk refuses, or the files are not what the manifest says that they are together.
    pub fn assemble(&self, manifest: &Manifest, tell: &mut dyn FnMut(u64, u64)) -> Result<(), ContentError> {
        let place = self.place(&manifest.item);
        if matches!(manifest.item, Item::Weights(_)) || place.is_dir() {
            return Ok(());
        }
        let work = Work::begin(&self.tmp())?;
        self.link(manifest, work.place())?;
        check(manifest, work.place(), tell)?;
        match fs::rename(work.place(), &place) {
            // Somebody else was faster, with the same.
            Err(_) if place.is_dir() => Ok(()),
            renamed => renamed.map_err(ContentError::io(&place, "put it in its place")),
        }
    }

    fn link(&self, manifest: &Manifest, root: &Path) -> Result<(), ContentError> {
        let mut made = BTreeSet::new();
        for entry in &manifest.files {
            let path = entry.path.below(root);
            if let Some(folder) = path.parent().filter(|folder| !made.contains(*folder)) {
                fs::create_dir_all(folder).map_err(ContentError::io(folder, "make it"))?;
                made.insert(folder.to_owned());
            }
            let blob = self.blob(&entry.sha256);
            // Where links cannot be made, or not so many of one file, a copy does as well.
            if fs::hard_link(&blob, &path).is_err() {
                fs::copy(&blob, &path).map_err(ContentError::io(&path, "write it"))?;
            }
        }
        Ok(())
    }

    /// Removes an item, and those of its blobs that are not in `kept`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, item: &Item, kept: &BTreeSet<Digest>) -> Result<(), ContentError> {
        let manifest = self.manifest(item)?;
        if !matches!(item, Item::Weights(_)) {
            remove_folder(&self.place(item))?;
        }
        for (sha256, _) in manifest.iter().flat_map(Manifest::blobs).filter(|(sha256, _)| !kept.contains(sha256)) {
            remove_file(&self.blob(&sha256))?;
            remove_file(&self.partial_path(&sha256))?;
        }
        // Last: until it is gone, a removal that was interrupted can be repeated.
        remove_file(&self.manifest_path(item))
    }
}

/// Whether the files below `root` are the data set or model of the manifest.
fn check(manifest: &Manifest, root: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<(), ContentError> {
    let differs = |why: String| ContentError::Differs { item: manifest.item.clone(), why };
    let found = match (&manifest.item, manifest.opened_as(root)) {
        (Item::Model(_), _) => {
            let folder = ModelFolder::open(root).map_err(|error| no_model(manifest, error))?;
            let extra = manifest.files.iter().find(|f| !folder.files().contains(&f.path.as_str()));
            if let Some(extra) = extra {
                return Err(differs(format!("{} is none of the files that are read of a model", extra.path)));
            }
            folder.fingerprint(tell).map_err(|error| no_model(manifest, error))?
        }
        (_, Some(name)) => {
            let read = Dataset::open(&name, root).and_then(|set| set.identify(tell));
            read.map_err(|error| unreadable(manifest, error))?.fingerprint
        }
        (_, None) => return Ok(()),
    };
    if found == manifest.item.digest().as_str() {
        return Ok(());
    }
    Err(differs(format!("their fingerprint is {found}")))
}

/// Why files that came are no model's folder. As with [`unreadable`], what the disk says is no fault of theirs.
fn no_model(manifest: &Manifest, error: CheckpointError) -> ContentError {
    match error {
        CheckpointError::Io { path, source } => ContentError::io(&path, "read it")(source),
        error => ContentError::Differs { item: manifest.item.clone(), why: error.to_string() },
    }
}

/// Why files that came cannot be read as their data set. What the disk says, or that of a full temporary folder, is no
/// fault of theirs: they stay, and are not fetched again.
fn unreadable(manifest: &Manifest, error: DatasetError) -> ContentError {
    use ErrorKind::{InvalidData, IsADirectory, NotADirectory, UnexpectedEof};
    match error {
        DatasetError::Io { path, action, source }
            if !matches!(source.kind(), InvalidData | IsADirectory | NotADirectory | UnexpectedEof) =>
        {
            ContentError::io(&path, action)(source)
        }
        error => ContentError::Differs { item: manifest.item.clone(), why: error.to_string() },
    }
}

pub(crate) fn remove_file(path: &Path) -> Result<(), ContentError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(ContentError::io(path, "remove it")(e)),
        _ => Ok(()),
    }
}

pub(crate) fn remove_folder(path: &Path) -> Result<(), ContentError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(ContentError::io(path, "remove it")(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, RelativePath};

    #[test]
    fn what_the_disk_refuses_is_no_other_content() {
        let sha256: Digest = "a".repeat(64).parse().expect("a hash");
        let path = RelativePath::try_from("dtd/x".to_owned()).expect("a path");
        let files = vec![Entry { path, bytes: 1, sha256: sha256.clone() }];
        let manifest = Manifest::new(Item::Dataset(sha256), "dtd".into(), files).expect("a manifest");
        let io = |kind: ErrorKind| DatasetError::Io { path: "/tmp".into(), action: "copy it", source: kind.into() };
        assert!(matches!(unreadable(&manifest, io(ErrorKind::StorageFull)), ContentError::DiskFull { .. }));
        assert!(matches!(unreadable(&manifest, io(ErrorKind::PermissionDenied)), ContentError::Io { .. }));
        // A list that is no text, a folder where a file should be, a layout that is incomplete.
        let layout = DatasetError::Layout { place: "dtd".into(), message: "has no folder labels/".into() };
        for error in [io(ErrorKind::InvalidData), io(ErrorKind::IsADirectory), layout] {
            assert!(matches!(unreadable(&manifest, error), ContentError::Differs { .. }));
        }
    }
}
