//! What an agent has fetched: data sets and weights by content, kept within bounds, shared by all slots of the machine
//! and by all agents that are given the same folder.
//!
//! ```text
//! CACHE/blobs, partial, items, sets, models   a folder of content (common/content/src/folder.rs)
//! CACHE/locks/ITEM                    held shared by who uses an item, alone by who fetches or removes it;
//!                                     its time of change is when the item was last wanted
//! CACHE/locks/room                    held by who makes room
//! ```
//!
//! Locks are the kernel's, so those of a process that was killed are gone with it.

mod bucket;
mod coordinator;
mod fetch;
mod lock;
mod ready;
mod room;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fleet_checkpoint::ModelFolder;
use fleet_common::spec::DatasetName;
use fleet_common::units::Bytes;
use fleet_content::{ContentError, Digest, Folder, Item, Manifest};
use fleet_dataset::{Dataset, sha256_of_file};
use tokio::sync::watch;

pub use bucket::Bucket;
pub use coordinator::Coordinator;
use lock::{Locks, Pin};
pub use ready::{Ready, ready};
use room::Held;
pub use source::{Patience, Shelf, Source, Take, Trouble};

use crate::files::Stamp;

/// How often it is looked whether another process is done. File locks have no event that could be waited for and given
/// up.
const LOOK: Duration = Duration::from_millis(100);

/// Why something cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nobody has it.
    #[error(
        "{} is nowhere: {asked}. Share it from where the campaign was submitted (`fleet data share`, `fleet weights \
         share`; `fleet submit` does it by itself), or copy it into this agent's --data or --weights",
        .item.words()
    )]
    Nowhere {
        /// What was looked for.
        item: Item,
        /// Where, with what was found there.
        asked: String,
    },
    /// It does not go in.
    #[error(
        "{} does not go into the cache {place}: it has {needs}, the cache may have {space}, and {pinned} of what is \
         there is in use by running trials. Give the agent a larger --cache-space, or a larger disk",
        .item.words()
    )]
    NoSpace {
        /// What was wanted.
        item: Item,
        /// The cache.
        place: PathBuf,
        /// Its size.
        needs: Bytes,
        /// What the cache may have.
        space: Bytes,
        /// What cannot be removed.
        pinned: Bytes,
    },
    /// It came with other bytes than it has, again and again.
    #[error(
        "blob {sha256}: what came from {from} was damaged {times} times; expected that SHA-256, found {found}. Replace it \
         there; the coordinator's with `fleet shared --remove {item}`, and by sharing it again"
    )]
    Damaged {
        /// Which.
        sha256: Digest,
        /// Of what.
        item: Item,
        /// From where.
        from: String,
        /// How often.
        times: u32,
        /// The last one's hash.
        found: String,
    },
    /// Nobody waits for it any more.
    #[error("called off")]
    Stopped,
    /// See [`ContentError`].
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// What is told meanwhile, and asked.
pub struct Watch {
    /// Bytes here, bytes in all.
    pub tell: Box<dyn Fn(u64, u64) + Send>,
    /// Turns true, or is closed, when nobody waits any more.
    pub stop: watch::Receiver<bool>,
}

impl Watch {
    fn check(&self) -> Result<(), CacheError> {
        if *self.stop.borrow() || self.stop.has_changed().is_err() { Err(CacheError::Stopped) } else { Ok(()) }
    }

    /// Waits, unless nobody waits any more.
    fn pause(&self, time: Duration) -> Result<(), CacheError> {
        let until = std::time::Instant::now() + time;
        while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
            self.check()?;
            std::thread::sleep(left.min(LOOK));
        }
        self.check()
    }
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    folder: Folder,
    locks: Locks,
    space: u64,
    /// What this process has read to the end, and how its files looked then.
    checked: Mutex<HashMap<Item, Stamp>>,
}

/// An item that stays for as long as this lives.
#[derive(Debug)]
pub struct Kept {
    /// What the data folder is to be, for a data set; the file of weights, or the folder of a published model.
    pub place: PathBuf,
    /// What a data set is opened as.
    pub dataset: Option<DatasetName>,
    /// Its size.
    bytes: u64,
    _pin: Pin,
}

impl Kept {
    fn stamp(&self) -> Stamp {
        Stamp::of(std::slice::from_ref(&self.place))
    }
}

impl Cache {
    /// The cache in `place`, made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(place: &Path, space: Bytes) -> Result<Self, ContentError> {
        let folder = Folder::create(place)?;
        let locks = Locks::create(&place.join("locks"))?;
        Ok(Self { folder, locks, space: space.0, checked: Mutex::default() })
    }

    /// The items that are here as a whole.
    pub fn items(&self) -> BTreeSet<Item> {
        let items = self.folder.items().unwrap_or_default();
        items.into_iter().filter(|item| self.folder.holds(item)).collect()
    }

    /// Gets an item from here, or else from the first of `sources` that has it, however long that takes; whoever else
    /// wants it waits for the one download. Blocks.
    ///
    /// # Errors
    /// It cannot be had: nobody has it, it does not go in, the disk is full, what comes is damaged, or nobody waits any
    /// more.
    pub fn get(&self, item: &Item, sources: &mut [Box<dyn Source>], watch: &Watch) -> Result<Kept, CacheError> {
        let mut told = false;
        loop {
            watch.check()?;
            if let Some(kept) = self.kept(item, watch)? {
                return Ok(kept);
            }
            match self.locks.alone(item)? {
                Some(alone) => {
                    self.fetch(item, sources, watch)?;
                    drop(alone);
                }
                None => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(%item, "somebody else fetches it into the cache; waiting");
                    }
                    // What it does is shown as well.
                    if let Ok(Some(manifest)) = self.folder.manifest(item) {
                        (watch.tell)(self.here(&manifest), manifest.bytes());
                    }
                    watch.pause(LOOK)?;
                }
            }
        }
    }

    /// The item, if it is here and right. What is not is removed, once no trial uses it any more.
    fn kept(&self, item: &Item, watch: &Watch) -> Result<Option<Kept>, CacheError> {
        let Some(pin) = self.locks.shared(item)? else { return Ok(None) };
        // A manifest that cannot be read is of nothing that can be used; fetching writes another.
        let Ok(Some(manifest)) = self.folder.manifest(item) else { return Ok(None) };
        if !self.folder.holds(item) {
            return Ok(None);
        }
        let place = self.folder.place(item);
        let bytes = manifest.blobs().iter().map(|(_, bytes)| bytes).sum();
        let kept = Kept { dataset: manifest.opened_as(&place), place, bytes, _pin: pin };
        let stamp = kept.stamp();
        if self.is_right(item, &kept, &stamp) {
            return Ok(Some(kept));
        }
        tracing::warn!(%item, "what lies in the cache is damaged; fetching it again once no trial uses it");
        let place = kept.place.clone();
        drop(kept);
        let _alone = loop {
            match self.locks.alone(item)? {
                Some(alone) => break alone,
                None => watch.pause(LOOK)?,
            }
        };
        // Unless somebody has done so meanwhile.
        if Stamp::of(&[place]) == stamp {
            // Whatever else shares its blobs would have the same damage.
            self.folder.remove(item, &BTreeSet::new())?;
        }
        Ok(None)
    }

    /// Whether an item still is what it is called: read to the end once per process and change.
    fn is_right(&self, item: &Item, kept: &Kept, stamp: &Stamp) -> bool {
        let known = self.checked.lock().unwrap_or_else(PoisonError::into_inner).get(item) == Some(stamp);
        let right = known
            || match (item, &kept.dataset) {
                (Item::Model(_), _) => ModelFolder::open(&kept.place)
                    .and_then(|folder| folder.fingerprint(&mut |_, _| ()))
                    .is_ok_and(|fingerprint| fingerprint == item.digest().as_str()),
                (_, Some(name)) => Dataset::open(name, &kept.place)
                    .and_then(|set| set.identify(&mut |_, _| ()))
                    .is_ok_and(|identity| identity.fingerprint == item.digest().as_str()),
                (_, None) => sha256_of_file(&kept.place).is_ok_and(|hash| hash == item.digest().as_str()),
            };
        if right {
            self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(item.clone(), stamp.clone());
        }
        right
    }

    /// Bytes of an item that are here.
    fn here(&self, manifest: &Manifest) -> u64 {
        let lacks: u64 = self.folder.missing(manifest).iter().map(|m| m.bytes - m.have).sum();
        manifest.bytes().saturating_sub(lacks)
    }

    /// Bytes of these items that are on the disk, each blob counted once.
    fn on_disk<'a>(&self, manifests: impl Iterator<Item = &'a Manifest>) -> u64 {
        let mut here: HashMap<Digest, u64> = HashMap::new();
        for manifest in manifests {
            here.extend(manifest.blobs());
            here.extend(self.folder.missing(manifest).into_iter().map(|blob| (blob.sha256, blob.have)));
        }
        here.values().sum()
    }

    /// Makes room for an item that this process fetches, and reserves it by keeping the manifest; whether anything had to
    /// leave. On a disk that is full, what comes has to go where something else is now.
    fn make_room(&self, manifest: &Manifest, full: bool) -> Result<bool, CacheError> {
        let _one_at_a_time = self.locks.room()?;
        // Others are held alone meanwhile, so that nobody begins to use what is about to go.
        let mut held = Vec::new();
        for item in self.folder.items()?.into_iter().filter(|item| *item != manifest.item) {
            let Ok(Some(of)) = self.folder.manifest(&item) else { continue };
            let (used, alone) = (self.locks.used(&item), self.locks.alone(&item)?);
            held.push((Held { used, pinned: alone.is_none(), blobs: of.blobs() }, of, alone));
        }
        let space = match full {
            true => self.space.min(self.on_disk(held.iter().map(|(_, of, _)| of).chain([manifest]))),
            false => self.space,
        };
        let wanted = manifest.blobs();
        let entries: Vec<&Held> = held.iter().map(|(held, ..)| held).collect();
        let leaves = room::make_room(&entries, &wanted, space).map_err(|pinned| CacheError::NoSpace {
            item: manifest.item.clone(),
            place: self.folder.root().to_owned(),
            needs: Bytes(wanted.iter().map(|(_, bytes)| bytes).sum()),
            space: Bytes(space),
            pinned: Bytes(pinned),
        })?;
        let stays = held.iter().enumerate().filter(|(at, _)| !leaves.contains(at)).flat_map(|(_, (h, ..))| &h.blobs);
        let kept: BTreeSet<Digest> = stays.chain(&wanted).map(|(sha256, _)| sha256.clone()).collect();
        for at in &leaves {
            let item = &held[*at].1.item;
            tracing::info!(%item, "leaves the cache, to make room");
            self.folder.remove(item, &kept)?;
        }
        // From another source it may consist of other files.
        if self.folder.manifest(&manifest.item).ok().flatten().is_some_and(|before| before != *manifest) {
            self.folder.remove(&manifest.item, &kept)?;
        }
        self.folder.keep(manifest)?;
        Ok(!leaves.is_empty())
    }
}
