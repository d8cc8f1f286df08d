//! Data sets and weights that were shared with agents: a folder of content, and which of it may be read.
//!
//! Everything lies here as a copy of its own, by hash. A link into somebody's data folder would be cheaper, and would
//! change when they change it, while agents are reading; and the coordinator would have to be told paths.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_common::units::Bytes;
use fleet_content::folder::Missing;
use fleet_content::{ContentError, Digest, Finished, Folder, Item, Manifest, Partial};

/// What was shared.
#[derive(Debug)]
pub struct Content {
    folder: Folder,
    /// Most bytes that all of it may have.
    space: u64,
    known: Mutex<Known>,
}

/// One item, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Which.
    pub item: Item,
    /// What its sharer called it.
    pub name: String,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether all of it has come.
    pub whole: bool,
}

/// Why content is not taken or given.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody shared it.
    #[error(
        "{} is not shared here; share it with `fleet data share`, `fleet weights share` or `fleet submit`",
        .0.words()
    )]
    NotShared(Item),
    /// Nobody shared anything that has it.
    #[error("blob {0} is of nothing that is shared here")]
    UnknownBlob(Digest),
    /// It does not go in.
    #[error(
        "{item} needs {needs} more, but of the {space} for shared content {used} are in use. Remove something with `fleet \
         shared --remove ITEM`, or give `fleet serve` a larger --content-space"
    )]
    NoSpace {
        /// What was offered.
        item: Item,
        /// What it adds.
        needs: Bytes,
        /// What there is in all.
        space: Bytes,
        /// What is taken.
        used: Bytes,
    },
    /// Two bring the same at once.
    #[error("blob {0} is being brought by another command; try again")]
    Busy(Digest),
    /// What follows is not what comes next.
    #[error("blob {sha256}: expected what follows byte {expected}, found what follows byte {found}; offer it again")]
    Gap {
        /// Of which blob.
        sha256: Digest,
        /// Bytes that are there.
        expected: u64,
        /// Where the data would belong.
        found: u64,
    },
    /// What came has another hash.
    #[error("blob {expected}: what came has the hash {found}; the file was changed meanwhile, or damaged on its way")]
    Wrong {
        /// What it was said to be.
        expected: Digest,
        /// What it is.
        found: String,
    },
    /// See [`ContentError`].
    #[error(transparent)]
    Content(#[from] ContentError),
}

#[derive(Debug, Default)]
struct Known {
    items: BTreeMap<Item, (Manifest, bool)>,
    /// Blobs of whole items: those that may be read.
    readable: HashMap<Digest, u64>,
}

impl Known {
    fn refresh(&mut self) {
        let whole = self.items.values().filter(|(_, whole)| *whole);
        self.readable = whole.flat_map(|(manifest, _)| manifest.blobs()).collect();
    }

    /// Bytes of all blobs, those included that are still to come.
    fn blobs(&self) -> HashMap<Digest, u64> {
        self.items.values().flat_map(|(manifest, _)| manifest.blobs()).collect()
    }
}

impl Content {
    /// Opens or creates the folder. What in it cannot be read is not shared, and logged.
    ///
    /// # Errors
    /// It cannot be made or listed.
    pub fn open(path: &Path, space: Bytes) -> Result<Self, ContentError> {
        let folder = Folder::create(path)?;
        let mut known = Known::default();
        for item in folder.items()? {
            match folder.manifest(&item) {
                Ok(Some(manifest)) => {
                    let whole = folder.holds(&item) && folder.missing(&manifest).is_empty();
                    known.items.insert(item, (manifest, whole));
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%item, %error, "not shared; share it again"),
            }
        }
        known.refresh();
        Ok(Self { folder, space: space.0, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of a shared item.
    ///
    /// # Errors
    /// It is not shared, or has not come as a whole.
    pub fn manifest(&self, item: &Item) -> Result<Vec<u8>, Refused> {
        match self.known().items.get(item) {
            Some((manifest, true)) => Ok(manifest.to_json()),
            _ => Err(Refused::NotShared(item.clone())),
        }
    }

    /// A blob of something that is shared, with its length.
    ///
    /// # Errors
    /// It is of nothing that is shared, or the disk refuses.
    pub fn read(&self, sha256: &Digest) -> Result<(File, u64), Refused> {
        let bytes = *self.known().readable.get(sha256).ok_or_else(|| Refused::UnknownBlob(sha256.clone()))?;
        let path = self.folder.blob(sha256);
        let file = File::open(&path).map_err(|source| ContentError::Io { path, action: "open it", source })?;
        Ok((file, bytes))
    }

    /// Takes an offer: what is missing of it. Where nothing is, it is checked as a whole and shared.
    ///
    /// # Errors
    /// There is no room for it, its files are not what it says that they are, or the disk refuses.
    pub fn offer(&self, manifest: Manifest) -> Result<Vec<Missing>, Refused> {
        let item = manifest.item.clone();
        let manifest = {
            let mut known = self.known();
            if known.items.get(&item).is_some_and(|(_, whole)| *whole) {
                return Ok(Vec::new());
            }
            // A manifest that is there stays: blobs of it may be on their way. What never got whole is replaced.
            let before = known.items.remove(&item).filter(|(there, _)| *there != manifest);
            let mut blobs = known.blobs();
            let used: u64 = blobs.values().sum();
            blobs.extend(manifest.blobs());
            let all: u64 = blobs.values().sum();
            if all > self.space {
                known.items.extend(before.map(|there| (item.clone(), there)));
                let [needs, space, used] = [all - used, self.space, used].map(Bytes);
                return Err(Refused::NoSpace { item, needs, space, used });
            }
            if before.is_some() {
                let kept = known.blobs().into_keys().chain(manifest.blobs().into_iter().map(|(b, _)| b)).collect();
                self.folder.remove(&item, &kept)?;
            }
            self.folder.keep(&manifest)?;
            known.items.insert(item.clone(), (manifest.clone(), false));
            manifest
        };
        let missing = self.folder.missing(&manifest);
        if !missing.is_empty() {
            return Ok(missing);
        }
        // Reads all of it, so others are not kept waiting meanwhile.
        if let Err(error) = self.folder.assemble(&manifest, &mut |_, _| ()) {
            if matches!(error, ContentError::Differs { .. }) {
                self.remove(&item)?;
            }
            return Err(error.into());
        }
        let mut known = self.known();
        // Unless it was removed meanwhile.
        if let Some((_, whole)) = known.items.get_mut(&item) {
            *whole = true;
        }
        known.refresh();
        tracing::info!(%item, name = manifest.name, size = %Bytes(manifest.bytes()), "agents can have it from here");
        Ok(Vec::new())
    }

    /// What has come of a blob that was offered, to go on with. `None`: all of it is there.
    ///
    /// # Errors
    /// It was not offered, somebody else brings it, or the disk refuses.
    pub fn begin(&self, sha256: &Digest, offset: u64) -> Result<Option<Partial>, Refused> {
        let bytes = *self.known().blobs().get(sha256).ok_or_else(|| Refused::UnknownBlob(sha256.clone()))?;
        if self.folder.has_blob(sha256, bytes) {
            return Ok(None);
        }
        let partial = self.folder.partial(sha256, bytes)?.ok_or_else(|| Refused::Busy(sha256.clone()))?;
        match partial.len() {
            len if len == offset => Ok(Some(partial)),
            len => Err(Refused::Gap { sha256: sha256.clone(), expected: len, found: offset }),
        }
    }

    /// Puts a blob that has come in its place.
    ///
    /// # Errors
    /// It has another hash, or the disk refuses.
    pub fn finish(sha256: &Digest, partial: Partial) -> Result<(), Refused> {
        match partial.finish()? {
            Finished::Kept => Ok(()),
            Finished::Wrong(found) => Err(Refused::Wrong { expected: sha256.clone(), found }),
        }
    }

    /// Everything that is shared or on its way; its bytes, and the most that there may be.
    pub fn list(&self) -> (Vec<Shared>, u64, u64) {
        let known = self.known();
        let shared = known.items.values().map(|(manifest, whole)| Shared {
            item: manifest.item.clone(),
            name: manifest.name.clone(),
            files: manifest.files.len() as u64,
            bytes: manifest.bytes(),
            whole: *whole,
        });
        (shared.collect(), known.blobs().values().sum(), self.space)
    }

    /// Removes an item; `false` if it is not there. Who is reading it reads to the end.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, item: &Item) -> Result<bool, ContentError> {
        let mut known = self.known();
        let there = known.items.remove(item).is_some();
        if there {
            known.refresh();
            let kept: BTreeSet<Digest> = known.blobs().into_keys().collect();
            self.folder.remove(item, &kept)?;
        }
        Ok(there)
    }
}
