//! What lies in a data or weights folder, as something that can be shared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use fleet_checkpoint::ModelFolder;
use fleet_common::canonical;
use fleet_common::spec::DatasetName;
use fleet_dataset::Dataset;
use sha2::{Digest as _, Sha256};

use crate::manifest::{IMAGES, fingerprint};
use crate::{ContentError, Digest, Entry, Item, Manifest, RelativePath};

/// An item in somebody's folder.
#[derive(Debug)]
pub struct Local {
    /// What it consists of.
    pub manifest: Manifest,
    /// Where its blobs are.
    pub places: BTreeMap<Digest, PathBuf>,
}

impl Local {
    /// A data set, whose fingerprint is known. Reads all of its files; `tell` gets bytes done and bytes in all.
    ///
    /// # Errors
    /// It is not there, cannot be read, or cannot be shared.
    pub fn dataset(
        name: &DatasetName,
        data_dir: &Path,
        fingerprint: &str,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ContentError> {
        let files = Dataset::open(name, data_dir)?.files();
        let called = match name {
            DatasetName::Folder(_) => IMAGES.to_owned(),
            name => name.clone().into(),
        };
        let item = Item::Dataset(fingerprint.parse().map_err(ContentError::Manifest)?);
        Self::new(item, called, files, tell)
    }

    /// A file of weights.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn weights(file: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<Self, ContentError> {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or("weights").to_owned();
        let hash = fleet_dataset::sha256_of_file(file).map_err(ContentError::io(file, "read it"))?;
        let item = Item::Weights(hash.parse().map_err(ContentError::Manifest)?);
        Self::new(item, name.clone(), vec![(name, file.to_owned())], tell)
    }

    /// The folder of a published model, under the folder's name. Reads all of its files.
    ///
    /// # Errors
    /// It cannot be read, or cannot be shared.
    pub fn model(folder: &ModelFolder, tell: &mut dyn FnMut(u64, u64)) -> Result<Self, ContentError> {
        let root = folder.root();
        let name = root.file_name().and_then(|n| n.to_str()).unwrap_or("model").to_owned();
        let files: Vec<_> = folder.files().into_iter().map(|file| (file.to_owned(), root.join(file))).collect();
        let (entries, places) = read(lengths(&files)?, files, tell)?;
        let item = Item::Model(fingerprint(&entries).parse().map_err(ContentError::Manifest)?);
        Ok(Self { manifest: Manifest::new(item, name, entries)?, places })
    }

    fn new(
        item: Item,
        name: String,
        files: Vec<(String, PathBuf)>,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ContentError> {
        let lengths = lengths(&files)?;
        // What is refused for its files' number or places is refused before they are read, which may take an hour.
        if matches!(item, Item::Dataset(_)) {
            Manifest::new(item.clone(), name.clone(), draft(&lengths)?)?;
        }
        let (entries, places) = read(lengths, files, tell)?;
        Ok(Self { manifest: Manifest::new(item, name, entries)?, places })
    }
}

/// Where files will lie within their item, and how long they are.
fn lengths(files: &[(String, PathBuf)]) -> Result<Vec<(RelativePath, u64)>, ContentError> {
    let lengths = files.iter().map(|(path, place)| {
        let path = RelativePath::try_from(path.clone()).map_err(ContentError::Manifest)?;
        let bytes = place.metadata().map_err(ContentError::io(place, "look at it"))?.len();
        Ok((path, bytes))
    });
    lengths.collect()
}

/// Reads files to their ends: what a manifest says of them, and where each blob is.
fn read(
    lengths: Vec<(RelativePath, u64)>,
    files: Vec<(String, PathBuf)>,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Entry>, BTreeMap<Digest, PathBuf>), ContentError> {
    let total = lengths.iter().map(|(_, bytes)| bytes).sum();
    let (mut done, mut entries, mut places) = (0, Vec::new(), BTreeMap::new());
    for ((path, _), (_, place)) in lengths.into_iter().zip(files) {
        let (bytes, sha256) = digest(&place, &mut |read| {
            done += read;
            tell(done, done.max(total));
        })?;
        places.insert(sha256.clone(), place);
        entries.push(Entry { path, bytes, sha256 });
    }
    Ok((entries, places))
}

/// Entries as they will be, with numbers for the hashes that are not known yet.
fn draft(lengths: &[(RelativePath, u64)]) -> Result<Vec<Entry>, ContentError> {
    let entries = lengths.iter().enumerate().map(|(number, (path, bytes))| {
        let sha256 = format!("{number:064x}").parse().map_err(ContentError::Manifest)?;
        Ok(Entry { path: path.clone(), bytes: *bytes, sha256 })
    });
    entries.collect()
}

/// Length and hash of a file.
fn digest(path: &Path, read: &mut dyn FnMut(u64)) -> Result<(u64, Digest), ContentError> {
    let mut file = File::open(path).map_err(ContentError::io(path, "open it"))?;
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&buffer[..n]);
                length += n as u64;
                read(n as u64);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(ContentError::io(path, "read it")(e)),
        }
    }
    let sha256 = canonical::hex(&hash.finalize()).parse().map_err(ContentError::Manifest)?;
    Ok((length, sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_shared_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = dir.path().join("x.png");
        std::fs::write(&place, "x").expect("writes");
        let refusal = |paths: Vec<String>| {
            let item = Item::Dataset("a".repeat(64).parse().expect("a hash"));
            let files = paths.into_iter().map(|path| (path, place.clone())).collect();
            let read = Local::new(item, IMAGES.into(), files, &mut |_, _| panic!("a file was read"));
            read.expect_err("cannot be shared").to_string()
        };
        let many = refusal((0..=100_000).map(|n| format!("images/{n}")).collect());
        assert!(many.contains("100001") && many.contains("--no-share"), "{many}");
        let long = refusal((0..90_000).map(|n| format!("images/{}/{n}", "x".repeat(200))).collect());
        assert!(long.contains("15728640") && long.contains("--no-share"), "{long}");
        let control = refusal(vec!["images/a".into(), "images/b\nc".into()]);
        assert!(control.contains("a control character"), "{control}");
    }
}
