//! The files that an item consists of.
//!
//! A manifest comes from another machine, so everything in it is checked before anything is made of it: where its files
//! would lie, how many and how large they are, what it says that they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use fleet_checkpoint::ModelFolder;
use fleet_common::spec::DatasetName;
use serde::{Deserialize, Serialize};

use crate::{ContentError, Digest, Item};

/// The document's name.
pub const SCHEMA: &str = "fleet.manifest/1";

/// Bytes of a manifest: it travels as one message, and those have 16 MiB at most.
pub const MOST_BYTES: usize = 15 << 20;
/// Files of an item. A data set with more has to lie in the agents' own folders.
pub const MOST_FILES: usize = 100_000;
/// What to do where there are more.
const ELSEWHERE: &str =
    "a larger data set has to lie in the agents' own data folders, and its campaigns to be submitted with --no-share";
/// Bytes of a path.
const LONGEST_PATH: usize = 1024;
/// Bytes of a name, as file systems have it.
const LONGEST_NAME: usize = 255;

/// What a folder of images is called within its item: its own path means nothing elsewhere.
pub const IMAGES: &str = "./images";

/// Where a file lies within its item: names between slashes, none of which leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelativePath(String);

impl RelativePath {
    /// The path below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RelativePath {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |what: &str| {
            let shown: String = text.chars().take(200).collect();
            Err(format!("the path {shown:?} {what}; expected names between slashes, such as dtd/labels/train1.txt"))
        };
        if text.len() > LONGEST_PATH {
            return refuse("is longer than 1024 bytes");
        }
        for name in text.split('/') {
            match name {
                "" => return refuse("has an empty name, or begins or ends with a slash"),
                "." | ".." => return refuse("has a name that leads elsewhere"),
                _ if name.len() > LONGEST_NAME => return refuse("has a name of more than 255 bytes"),
                _ if name.chars().any(char::is_control) => return refuse("has a control character"),
                _ => {}
            }
        }
        Ok(Self(text))
    }
}

impl From<RelativePath> for String {
    fn from(path: RelativePath) -> Self {
        path.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where it lies.
    pub path: RelativePath,
    /// Its length.
    pub bytes: u64,
    /// Its content.
    pub sha256: Digest,
}

/// The files that an item consists of: a `fleet.manifest/1` document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    schema: String,
    /// What they are together.
    pub item: Item,
    /// What its sharer calls it, for people; a data set's is also what it is opened as.
    pub name: String,
    /// The files, by path.
    pub files: Vec<Entry>,
}

impl Manifest {
    /// A manifest of these files.
    ///
    /// # Errors
    /// They cannot be one; see [`Self::parse`].
    pub fn new(item: Item, name: String, mut files: Vec<Entry>) -> Result<Self, ContentError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Self { schema: SCHEMA.to_owned(), item, name, files };
        manifest.check().map_err(ContentError::Manifest)?;
        let bytes = manifest.to_json().len();
        if bytes > MOST_BYTES {
            return Err(ContentError::Manifest(too_long(bytes)));
        }
        Ok(manifest)
    }

    /// Reads a document from another machine, of whatever bytes.
    ///
    /// # Errors
    /// It is no manifest: too long, of another version, with paths that lead elsewhere or are in each other's way, with
    /// sizes that no disk has, or of no file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContentError> {
        if bytes.len() > MOST_BYTES {
            return Err(ContentError::Manifest(too_long(bytes.len())));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| ContentError::Manifest(e.to_string()))?;
        manifest.check().map_err(ContentError::Manifest)?;
        Ok(manifest)
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("our own types are JSON")
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            let shown: String = self.schema.chars().take(80).collect();
            return Err(format!("expected the schema {SCHEMA}, found \"{shown}\"; one side is of another version"));
        }
        if self.files.is_empty() || self.files.len() > MOST_FILES {
            return Err(format!("expected 1 to {MOST_FILES} files, found {}; {ELSEWHERE}", self.files.len()));
        }
        if self.name.is_empty() || self.name.len() > LONGEST_PATH || self.name.chars().any(char::is_control) {
            return Err("expected a name of 1 to 1024 bytes without control characters".to_owned());
        }
        let mut total = 0u64;
        let mut paths = BTreeSet::new();
        let mut lengths = BTreeMap::new();
        for entry in &self.files {
            total = total.checked_add(entry.bytes).filter(|t| *t <= i64::MAX as u64).ok_or("its sizes overflow")?;
            if !paths.insert(entry.path.as_str()) {
                return Err(format!("{} is listed twice", entry.path));
            }
            if *lengths.entry(&entry.sha256).or_insert(entry.bytes) != entry.bytes {
                return Err(format!("blob {} is given two lengths", entry.sha256));
            }
        }
        for path in &paths {
            let mut folder = *path;
            while let Some((above, _)) = folder.rsplit_once('/') {
                if paths.contains(above) {
                    return Err(format!("{above} is both a file and the folder of {path}"));
                }
                folder = above;
            }
        }
        match &self.item {
            Item::Weights(digest) => match self.files.as_slice() {
                [only] if only.sha256 == *digest && !only.path.as_str().contains('/') => Ok(()),
                _ => Err("weights are one file, whose hash is their name".to_owned()),
            },
            Item::Model(digest) => {
                if let Some(deep) = self.files.iter().find(|f| f.path.as_str().contains('/')) {
                    return Err(format!("the files of a published model lie side by side, found {}", deep.path));
                }
                match fingerprint(&self.files) {
                    found if found == digest.as_str() => Ok(()),
                    found => Err(format!("the files of the model have the fingerprint {found}, which is not its name")),
                }
            }
            Item::Dataset(_) => match DatasetName::try_from(self.name.clone())? {
                // It would be opened where it says, wherever that leads.
                DatasetName::Folder(path) if path != IMAGES => {
                    Err(format!("a folder of images is called {IMAGES} in a manifest, found \"{path}\""))
                }
                DatasetName::Textures(name) => match RelativePath::try_from(name) {
                    Ok(_) => Ok(()),
                    Err(why) => Err(why),
                },
                _ => Ok(()),
            },
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Its blobs, each once, with their lengths; in the order of the files.
    pub fn blobs(&self) -> Vec<(Digest, u64)> {
        let mut seen = BTreeSet::new();
        let mut blobs = Vec::new();
        for entry in &self.files {
            if seen.insert(&entry.sha256) {
                blobs.push((entry.sha256.clone(), entry.bytes));
            }
        }
        blobs
    }

    /// What a data set is opened as, once its files lie below `root`; `None` for weights and models.
    pub fn opened_as(&self, root: &Path) -> Option<DatasetName> {
        if !matches!(self.item, Item::Dataset(_)) {
            return None;
        }
        match DatasetName::try_from(self.name.clone()).ok()? {
            DatasetName::Folder(_) => Some(DatasetName::Folder(root.join(IMAGES).to_str()?.to_owned())),
            name => Some(name),
        }
    }
}

/// What the files of a published model are together.
pub(crate) fn fingerprint(files: &[Entry]) -> String {
    let mut files: Vec<(&str, &str)> = files.iter().map(|f| (f.path.as_str(), f.sha256.as_str())).collect();
    files.sort_unstable();
    ModelFolder::fingerprint_of(files.into_iter().map(|(name, sha256)| (sha256, name)))
}

fn too_long(bytes: usize) -> String {
    format!("expected at most {MOST_BYTES} bytes, found {bytes}; {ELSEWHERE}")
}
