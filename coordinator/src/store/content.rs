//! Data sets and weights that were shared with agents: a folder of content, and which of it may be read.
//!
//! Everything lies here as a copy of its own, by hash. A link into somebody's data folder would be cheaper, and would
//! change when they change it, while agents are reading; and the coordinator would have to be told paths.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use fleet_common::units::Bytes;
use fleet_content::folder::Missing;
use fleet_content::{ContentError, Digest, Finished, Folder, Item, Manifest, Partial};

/// The journal and the samples need room beside shared content.
const RESERVE: u64 = 512 << 20;

/// What was shared.
#[derive(Debug)]
pub struct Content {
    folder: Folder,
    /// Most bytes that all of it may have.
    space: u64,
    /// Bytes of the disk that are left to others.
    reserve: u64,
    /// Not held while anybody waits for the disk.
    known: Mutex<Known>,
    /// Held while items come and go on the disk. In it are those that are being put together, which takes longer: who
    /// wants to change one of them waits.
    at_work: Mutex<BTreeSet<Item>>,
    /// One of them is no longer being put together.
    done: Condvar,
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
    /// Somebody took it from the disk.
    #[error("blob {0} is no longer whole on the coordinator's disk; share again what it is of")]
    Lost(Digest),
    /// It does not go in.
    #[error(
        "{item} needs {needs} more, but of the {space} for shared content {used} are in use. Remove something with `fleet \
         shared --remove ITEM`, give `fleet serve` a larger --content-space, or submit with --no-share where the agents have \
         it"
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
    /// The disk is nearly full.
    #[error(
        "the coordinator's disk has {free} left, and {needs} are needed to take this in: {reserve} of it stay free for what \
         trials tell. Make room there, remove something with `fleet shared --remove ITEM`, or submit with --no-share where the \
         agents have it"
    )]
    DiskFull {
        /// What is free.
        free: Bytes,
        /// What has to be.
        needs: Bytes,
        /// What is left to others.
        reserve: Bytes,
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

/// What is shared or on its way, and the blobs of all of it.
#[derive(Debug, Default)]
struct Known {
    items: BTreeMap<Item, Held>,
    blobs: HashMap<Digest, Blob>,
    /// Bytes of all blobs, those included that are still to come.
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    manifest: Arc<Manifest>,
    whole: bool,
}

#[derive(Debug)]
struct Blob {
    bytes: u64,
    /// How many items have it.
    items: u32,
    /// How many of them are whole. One that has it lets it be read.
    whole: u32,
}

impl Known {
    /// Adds an item that is not there, as one that is on its way.
    fn insert(&mut self, manifest: Arc<Manifest>) {
        for (sha256, bytes) in manifest.blobs() {
            let total = &mut self.bytes;
            let blob = self.blobs.entry(sha256).or_insert_with(|| {
                *total += bytes;
                Blob { bytes, items: 0, whole: 0 }
            });
            blob.items += 1;
        }
        self.items.insert(manifest.item.clone(), Held { manifest, whole: false });
    }

    fn remove(&mut self, item: &Item) -> Option<Arc<Manifest>> {
        self.set_whole(item, false);
        let manifest = self.items.remove(item)?.manifest;
        for (sha256, _) in manifest.blobs() {
            if let Some(blob) = self.blobs.get_mut(&sha256) {
                blob.items -= 1;
                if blob.items == 0 {
                    self.bytes -= blob.bytes;
                    self.blobs.remove(&sha256);
                }
            }
        }
        Some(manifest)
    }

    fn is_whole(&self, item: &Item) -> bool {
        self.items.get(item).is_some_and(|held| held.whole)
    }

    fn set_whole(&mut self, item: &Item, whole: bool) {
        let Some(held) = self.items.get_mut(item).filter(|held| held.whole != whole) else { return };
        held.whole = whole;
        for (sha256, _) in held.manifest.blobs() {
            if let Some(blob) = self.blobs.get_mut(&sha256) {
                blob.whole = if whole { blob.whole + 1 } else { blob.whole - 1 };
            }
        }
    }

    /// Those blobs of a manifest that others have, too.
    fn others(&self, manifest: &Manifest) -> BTreeSet<Digest> {
        let blobs = manifest.blobs().into_iter().map(|(sha256, _)| sha256);
        blobs.filter(|sha256| self.blobs.contains_key(sha256)).collect()
    }
}

/// An item is being put together, until this is dropped.
struct AtWork<'a> {
    content: &'a Content,
    item: &'a Item,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.content.at_work().remove(self.item);
        self.content.done.notify_all();
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
                    known.insert(Arc::new(manifest));
                    known.set_whole(&item, whole);
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%item, %error, "not shared; share it again"),
            }
        }
        let (known, at_work, done) = (Mutex::new(known), Mutex::default(), Condvar::new());
        Ok(Self { folder, space: space.0, reserve: RESERVE, known, at_work, done })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_work(&self) -> MutexGuard<'_, BTreeSet<Item>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody puts an item together. Nobody else changes what is on the disk then.
    fn changing(&self, item: &Item) -> MutexGuard<'_, BTreeSet<Item>> {
        let free = self.done.wait_while(self.at_work(), |at_work| at_work.contains(item));
        free.unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of a shared item.
    ///
    /// # Errors
    /// It is not shared, or has not come as a whole.
    pub fn manifest(&self, item: &Item) -> Result<Vec<u8>, Refused> {
        let manifest = self.known().items.get(item).filter(|held| held.whole).map(|held| held.manifest.clone());
        Ok(manifest.ok_or_else(|| Refused::NotShared(item.clone()))?.to_json())
    }

    /// A blob of something that is shared, with its length.
    ///
    /// # Errors
    /// It is of nothing that is shared, it is gone, or the disk refuses.
    pub fn read(&self, sha256: &Digest) -> Result<(File, u64), Refused> {
        let bytes = self.known().blobs.get(sha256).filter(|blob| blob.whole > 0).map(|blob| blob.bytes);
        let bytes = bytes.ok_or_else(|| Refused::UnknownBlob(sha256.clone()))?;
        let path = self.folder.blob(sha256);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((len, file)) if len == bytes => Ok((file, bytes)),
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(ContentError::Io { path, action: "open it", source }.into())
            }
            // It is gone, or is shorter than it was.
            _ => Err(self.lost(sha256)),
        }
    }

    /// Notes that what has a blob is no longer whole, so that it is not promised any more, and can be shared again.
    fn lost(&self, sha256: &Digest) -> Refused {
        let mut known = self.known();
        let has = |held: &Held| held.whole && held.manifest.files.iter().any(|file| file.sha256 == *sha256);
        let items: Vec<Item> = known.items.iter().filter(|(_, held)| has(held)).map(|(item, _)| item.clone()).collect();
        for item in &items {
            known.set_whole(item, false);
            tracing::error!(%item, blob = %sha256, "is damaged on the disk and no longer shared; share it again");
        }
        match items.is_empty() {
            // It was removed just now.
            true => Refused::UnknownBlob(sha256.clone()),
            false => Refused::Lost(sha256.clone()),
        }
    }

    /// Takes an offer: what is missing of it. Where nothing is, it is checked as a whole and shared; who offers it
    /// meanwhile waits for that.
    ///
    /// # Errors
    /// There is no room for it, its files are not what it says that they are, or the disk refuses.
    pub fn offer(&self, manifest: Manifest) -> Result<Vec<Missing>, Refused> {
        let (item, manifest) = (manifest.item.clone(), Arc::new(manifest));
        let mut at_work = self.changing(&item);
        if self.known().is_whole(&item) {
            return Ok(Vec::new());
        }
        let missing = self.folder.missing(&manifest);
        if !missing.is_empty() {
            self.spare(missing.iter().map(|blob| blob.bytes - blob.have).sum())?;
        }
        self.admit(&manifest)?;
        if !missing.is_empty() {
            return Ok(missing);
        }
        at_work.insert(item.clone());
        drop(at_work);
        let _at_work = AtWork { content: self, item: &item };
        // Reads all of it, so others are not kept waiting meanwhile.
        if let Err(error) = self.folder.assemble(&manifest, &mut |_, _| ()) {
            if matches!(error, ContentError::Differs { .. }) {
                let _changing = self.at_work();
                self.forget(&item)?;
            }
            return Err(error.into());
        }
        self.known().set_whole(&item, true);
        tracing::info!(%item, name = manifest.name, size = %Bytes(manifest.bytes()), "agents can have it from here");
        Ok(Vec::new())
    }

    /// Keeps the manifest of what is not here as a whole, if there is room for all of it.
    fn admit(&self, manifest: &Arc<Manifest>) -> Result<(), Refused> {
        let item = &manifest.item;
        let (before, kept) = {
            let mut known = self.known();
            // Blobs of it may be on their way.
            if known.items.get(item).is_some_and(|held| held.manifest == *manifest) {
                return Ok(());
            }
            // What never got whole is replaced.
            let before = known.remove(item);
            let adds = manifest.blobs().into_iter().filter(|(sha256, _)| !known.blobs.contains_key(sha256));
            let needs: u64 = adds.map(|(_, bytes)| bytes).sum();
            if known.bytes.saturating_add(needs) > self.space {
                let [needs, space, used] = [needs, self.space, known.bytes].map(Bytes);
                before.into_iter().for_each(|before| known.insert(before));
                return Err(Refused::NoSpace { item: item.clone(), needs, space, used });
            }
            known.insert(manifest.clone());
            let kept = before.as_ref().map(|before| known.others(before));
            (before, kept.unwrap_or_default())
        };
        let removed = before.map_or(Ok(()), |_| self.folder.remove(item, &kept));
        removed.and_then(|()| self.folder.keep(manifest)).inspect_err(|_| {
            self.known().remove(item);
        })?;
        Ok(())
    }

    /// What has come of a blob that was offered, to go on with. `None`: all of it is there.
    ///
    /// # Errors
    /// It was not offered, somebody else brings it, or the disk refuses.
    pub fn begin(&self, sha256: &Digest, offset: u64) -> Result<Option<Partial>, Refused> {
        let bytes = self.known().blobs.get(sha256).map(|blob| blob.bytes);
        let bytes = bytes.ok_or_else(|| Refused::UnknownBlob(sha256.clone()))?;
        if self.folder.has_blob(sha256, bytes) {
            return Ok(None);
        }
        let partial = self.folder.partial(sha256, bytes)?.ok_or_else(|| Refused::Busy(sha256.clone()))?;
        if partial.len() != offset {
            return Err(Refused::Gap { sha256: sha256.clone(), expected: partial.len(), found: offset });
        }
        self.spare(partial.lacks())?;
        Ok(Some(partial))
    }

    /// Refuses to take in so many bytes where they would leave the disk too little.
    ///
    /// # Errors
    /// They would.
    pub fn spare(&self, bytes: u64) -> Result<(), Refused> {
        let needs = bytes.saturating_add(self.reserve);
        match rustix::fs::statvfs(self.folder.root()).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)) {
            Ok(free) if free < needs => {
                let [free, needs, reserve] = [free, needs, self.reserve].map(Bytes);
                Err(Refused::DiskFull { free, needs, reserve })
            }
            // Where it cannot be asked, writing tells.
            _ => Ok(()),
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
        let (items, bytes) = {
            let known = self.known();
            let items: Vec<_> = known.items.values().map(|held| (held.manifest.clone(), held.whole)).collect();
            (items, known.bytes)
        };
        let shared = items.into_iter().map(|(manifest, whole)| Shared {
            item: manifest.item.clone(),
            name: manifest.name.clone(),
            files: manifest.files.len() as u64,
            bytes: manifest.bytes(),
            whole,
        });
        (shared.collect(), bytes, self.space)
    }

    /// Removes an item; `false` if it is not there. Who is reading it reads to the end.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, item: &Item) -> Result<bool, ContentError> {
        let _changing = self.changing(item);
        self.forget(item)
    }

    /// Removes an item, for who may change what is on the disk.
    fn forget(&self, item: &Item) -> Result<bool, ContentError> {
        let kept = {
            let mut known = self.known();
            let Some(manifest) = known.remove(item) else { return Ok(false) };
            known.others(&manifest)
        };
        self.folder.remove(item, &kept)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use fleet_content::{Entry, RelativePath};
    use proptest::prelude::*;

    use super::*;

    /// A manifest of blobs by number; a number always has the same length.
    fn manifest(item: u8, blobs: &BTreeSet<u8>) -> Manifest {
        let digest = |n: u8| format!("{n:064x}").parse::<Digest>().expect("a hash");
        let path = |n: &u8| RelativePath::try_from(format!("dtd/{n}")).expect("a path");
        let files = blobs.iter().map(|n| Entry { path: path(n), bytes: u64::from(*n) + 1, sha256: digest(*n) });
        Manifest::new(Item::Dataset(digest(item)), "dtd".into(), files.collect()).expect("a manifest")
    }

    proptest! {
        #[test]
        fn blobs_are_those_of_the_items(
            steps in proptest::collection::vec((0u8..4, any::<bool>(), proptest::collection::btree_set(0u8..9, 1..5)), 0..30),
        ) {
            let mut known = Known::default();
            for (item, whole, blobs) in steps {
                let manifest = manifest(item, &blobs);
                if known.remove(&manifest.item).is_none() {
                    let item = manifest.item.clone();
                    known.insert(Arc::new(manifest));
                    known.set_whole(&item, whole);
                }
                let of = |whole: bool| {
                    let items = known.items.values().filter(|held| held.whole || !whole);
                    items.flat_map(|held| held.manifest.blobs()).collect::<BTreeMap<_, _>>()
                };
                let kept = |whole: bool| {
                    let blobs = known.blobs.iter().filter(|(_, blob)| blob.whole > 0 || !whole);
                    blobs.map(|(sha256, blob)| (sha256.clone(), blob.bytes)).collect::<BTreeMap<_, _>>()
                };
                prop_assert_eq!(kept(false), of(false));
                prop_assert_eq!(kept(true), of(true));
                prop_assert_eq!(known.bytes, of(false).values().sum::<u64>());
            }
        }
    }

    #[test]
    fn what_the_journal_needs_is_not_given_to_content() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut content = Content::open(dir.path(), Bytes(1 << 30)).expect("opens");
        let manifest = manifest(1, &BTreeSet::from([1, 2]));
        content.reserve = u64::MAX;
        let refused = content.offer(manifest.clone()).expect_err("the disk is nearly full");
        assert!(matches!(refused, Refused::DiskFull { .. }), "{refused}");
        assert!(content.list().0.is_empty(), "nothing of it is kept");
        content.reserve = 0;
        let missing = content.offer(manifest).expect("goes in");
        content.reserve = u64::MAX;
        assert!(matches!(content.begin(&missing[0].sha256, 0), Err(Refused::DiskFull { .. })));
        // What is all here takes no more room.
        let sha256: Digest = fleet_common::canonical::sha256_hex(b"w").parse().expect("a hash");
        let path = RelativePath::try_from("w".to_owned()).expect("a path");
        let files = vec![Entry { path, bytes: 1, sha256: sha256.clone() }];
        let weights = Manifest::new(Item::Weights(sha256.clone()), "w".into(), files).expect("a manifest");
        content.reserve = 0;
        content.offer(weights.clone()).expect("goes in");
        let mut partial = content.begin(&sha256, 0).expect("begins").expect("is not there");
        partial.append(b"w").expect("appends");
        Content::finish(&sha256, partial).expect("is right");
        content.reserve = u64::MAX;
        assert_eq!(content.offer(weights).expect("is shared"), []);
    }
}
