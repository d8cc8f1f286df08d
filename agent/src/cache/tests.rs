//! The cache with a source in memory that counts, breaks and damages.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fleet_common::canonical::sha256_hex;
use fleet_common::plan::{self, CellSettings, DatasetIdentity, Resolution};
use fleet_content::folder::Missing;
use fleet_content::{Entry, Local, RelativePath};
use fleet_dataset::synth::{self, TextureSet, TextureSpec};

use super::*;
use crate::files::Files;

/// What the test's sources have and did.
#[derive(Default)]
struct World {
    blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
    manifests: Mutex<HashMap<Item, Manifest>>,
    served: AtomicU64,
    /// Questions that break off after this many bytes.
    breaks: Mutex<Vec<usize>>,
    /// Answers whose first byte is another one.
    damages: AtomicU32,
}

impl World {
    /// Adds weights of these bytes.
    fn weights(&self, bytes: &[u8]) -> Item {
        let sha256: Digest = sha256_hex(bytes).parse().expect("a hash");
        let path = RelativePath::try_from("w.safetensors".to_owned()).expect("a path");
        let files = vec![Entry { path, bytes: bytes.len() as u64, sha256: sha256.clone() }];
        let item = Item::Weights(sha256.clone());
        let manifest = Manifest::new(item.clone(), "w".into(), files).expect("a manifest");
        self.blobs.lock().expect("free").insert(sha256, bytes.to_vec());
        self.manifests.lock().expect("free").insert(item.clone(), manifest);
        item
    }

    /// Adds what lies in somebody's folder.
    fn local(&self, local: &Local) -> Item {
        for (sha256, place) in &local.places {
            self.blobs.lock().expect("free").insert(sha256.clone(), std::fs::read(place).expect("reads"));
        }
        let item = local.manifest.item.clone();
        self.manifests.lock().expect("free").insert(item.clone(), local.manifest.clone());
        item
    }
}

/// The folder of a published model.
fn model(root: &Path) -> Local {
    std::fs::create_dir_all(root).expect("makes");
    std::fs::write(root.join("config.json"), "{}").expect("writes");
    std::fs::write(root.join("model.safetensors"), [7; 64]).expect("writes");
    Local::model(&ModelFolder::open(root).expect("a model"), &mut |_, _| ()).expect("reads")
}

#[test]
fn a_published_model_is_a_folder_here_and_is_fetched_again_if_one_of_its_files_changes() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.local(&model(&dir.path().join("dinov2_small")));
    let place = dir.path().join("cache");
    let kept = get(&open(&place, 10_000), &world, &item).expect("comes");
    assert!(kept.dataset.is_none() && kept.place.starts_with(place.join("models")));
    let same = |place: &Path| {
        let folder = ModelFolder::open(place).expect("a model");
        folder.fingerprint(&mut |_, _| ()).expect("reads") == item.digest().as_str()
    };
    assert!(same(&kept.place) && world.served.load(Ordering::SeqCst) == 66);
    let weights = kept.place.join("model.safetensors");
    drop(kept);
    std::fs::remove_file(&weights).expect("removes");
    std::fs::write(&weights, [8; 64]).expect("writes");
    let again = get(&open(&place, 10_000), &world, &item).expect("comes again");
    assert!(same(&again.place) && world.served.load(Ordering::SeqCst) == 132);
    assert_eq!(open(&place, 10_000).items(), BTreeSet::from([item]));
}

#[test]
fn a_trial_gets_the_folder_of_its_model_from_here_or_from_the_cache() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.local(&model(&dir.path().join("weights/dinov2_small")));
    let textures = DatasetName::Textures("textures".into());
    let data = dir.path().join("data");
    let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 3, size: 32 };
    synth::write(&data.join("textures"), &spec, &mut |_, _| ()).expect("writes");
    let identity = Dataset::open(&textures, &data).and_then(|set| set.identify(&mut |_, _| ())).expect("identifies");
    let mut settings = cell(&identity.fingerprint.parse().expect("a hash"));
    settings.backbone = fleet_common::spec::Backbone::Foundation(fleet_common::spec::Foundation::Dinov2Small);
    settings.weights = plan::WeightsRef::Folder { sha256: item.digest().to_string() };
    let ready = |files: &Files, sources: bool| {
        let (_waiting, stop) = watch::channel(false);
        let watch = Watch { tell: Box::new(|_, _| ()), stop };
        let mut sources: Vec<Box<dyn Source>> =
            if sources { vec![Box::new(Memory(world.clone()))] } else { Vec::new() };
        let ready = ready(files, &open(&dir.path().join("cache"), 10_000), &mut sources, &settings, &textures, &watch);
        ready.map(|ready| ready.weights.expect("it needs some"))
    };
    let here = Files::new(data.clone(), Some(dir.path().join("weights")));
    assert_eq!(ready(&here, false), Ok(dir.path().join("weights/dinov2_small")));
    assert!(here.known().contains(&item), "the coordinator is told of it");
    // Another model of that name: nowhere else, and then from the cache.
    std::fs::write(dir.path().join("weights/dinov2_small/config.json"), "{ }").expect("writes");
    let why = ready(&here, false).expect_err("another one").expect("a reason");
    assert!(why.contains("not the model that the campaign was submitted with") && why.contains("nowhere"), "{why}");
    let place = ready(&here, true).expect("comes");
    assert!(place.starts_with(dir.path().join("cache/models")) && place.join("model.safetensors").is_file());
    // Half a folder, none at all, and no place to look in.
    std::fs::remove_file(dir.path().join("weights/dinov2_small/model.safetensors")).expect("removes");
    for (weights, says) in [
        (Some("weights"), "expected a file of weights"),
        (Some("elsewhere"), "the folder dinov2_small/ of the published model is not in"),
        (None, "started without --weights"),
    ] {
        let files = Files::new(data.clone(), weights.map(|name| dir.path().join(name)));
        assert!(files.find_weights(&settings).expect_err("not here").contains(says), "{says}");
    }
}

struct Memory(Arc<World>);

impl Source for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble> {
        Ok(self.0.manifests.lock().expect("free").get(item).cloned())
    }

    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble> {
        let mut left = self.0.breaks.lock().expect("free").pop();
        for (at, blob) in blobs.iter().enumerate() {
            let bytes = self.0.blobs.lock().expect("free")[&blob.sha256].clone();
            let mut bytes = bytes[blob.have as usize..].to_vec();
            if self.0.damages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                bytes[0] ^= 1;
            }
            for piece in bytes.chunks(7) {
                if let Some(left) = &mut left {
                    if *left < piece.len() {
                        return Err(Trouble::Passing("the connection broke".to_owned()));
                    }
                    *left -= piece.len();
                }
                self.0.served.fetch_add(piece.len() as u64, Ordering::SeqCst);
                take(at, piece)?;
            }
        }
        Ok(())
    }
}

fn get(cache: &Cache, world: &Arc<World>, item: &Item) -> Result<Kept, CacheError> {
    let (_waiting, stop) = watch::channel(false);
    cache.get(item, &mut [Box::new(Memory(world.clone()))], &Watch { tell: Box::new(|_, _| ()), stop })
}

fn open(place: &Path, space: u64) -> Cache {
    Cache::open(place, Bytes(space)).expect("opens")
}

#[test]
fn a_broken_transfer_goes_on_where_it_was() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let item = world.weights(&bytes);
    *world.breaks.lock().expect("free") = vec![21, 0, 350];
    let kept = get(&open(dir.path(), 10_000), &world, &item).expect("comes");
    assert_eq!(std::fs::read(&kept.place).expect("there"), bytes);
    assert_eq!(world.served.load(Ordering::SeqCst), 1000, "nothing came twice");
}

#[test]
fn what_an_agent_that_was_killed_left_is_gone_on_with() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.weights(&[3; 100]);
    let partial = dir.path().join("partial").join(item.digest().as_str());
    let cache = open(dir.path(), 10_000);
    std::fs::write(&partial, [3; 60]).expect("writes");
    get(&cache, &world, &item).expect("comes");
    assert_eq!(world.served.load(Ordering::SeqCst), 40);
    // All of it, and a process that ended before it was put in its place.
    let item = world.weights(&[4; 100]);
    std::fs::write(dir.path().join("partial").join(item.digest().as_str()), [4; 100]).expect("writes");
    get(&cache, &world, &item).expect("is here");
    assert_eq!(world.served.load(Ordering::SeqCst), 40);
}

#[test]
fn damaged_bytes_are_fetched_again_and_not_for_ever() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let (item, cache) = (world.weights(&[1; 50]), open(dir.path(), 10_000));
    world.damages.store(2, Ordering::SeqCst);
    get(&cache, &world, &item).expect("the third is right");
    assert_eq!(world.served.load(Ordering::SeqCst), 150);
    let item = world.weights(&[2; 50]);
    world.damages.store(99, Ordering::SeqCst);
    let error = get(&cache, &world, &item).expect_err("never right").to_string();
    assert!(error.contains("from memory was damaged 3 times"), "{error}");
    assert!(error.contains(&format!("fleet shared --remove {item}")), "{error}");
}

/// Sends one byte more than it was asked for.
struct TooMuch(Memory);

impl Source for TooMuch {
    fn name(&self) -> String {
        "too much".to_owned()
    }

    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble> {
        self.0.manifest(item)
    }

    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble> {
        Ok(take(0, &vec![0; blobs[0].bytes as usize + 1])?)
    }
}

#[test]
fn a_source_with_the_wrong_bytes_does_not_keep_others_from_being_asked() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let (rotten, item) = (Arc::new(World::default()), world.weights(&[1; 50]));
    rotten.weights(&[1; 50]);
    rotten.damages.store(99, Ordering::SeqCst);
    let (_waiting, stop) = watch::channel(false);
    let watch = Watch { tell: Box::new(|_, _| ()), stop };
    let mut sources: Vec<Box<dyn Source>> =
        vec![Box::new(TooMuch(Memory(world.clone()))), Box::new(Memory(rotten.clone())), Box::new(Memory(world))];
    let kept = open(dir.path(), 10_000).get(&item, &mut sources, &watch).expect("comes from the last");
    assert_eq!(std::fs::read(&kept.place).expect("there"), [1; 50]);
    assert_eq!(rotten.served.load(Ordering::SeqCst), 150, "asked before");
}

#[test]
fn what_another_brought_meanwhile_is_neither_fetched_nor_removed() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let (item, cache) = (world.weights(&[1; 50]), open(dir.path(), 10_000));
    drop(get(&cache, &world, &item).expect("comes"));
    // Looked for while another had it alone, and held alone now; nobody has it any more.
    let (_waiting, stop) = watch::channel(false);
    let _alone = cache.locks.alone(&item).expect("locks").expect("is free");
    cache.fetch(&item, &mut [], &Watch { tell: Box::new(|_, _| ()), stop }).expect("is here");
    assert!(cache.folder.holds(&item));
}

#[test]
fn what_rots_on_the_disk_is_noticed_and_fetched_again() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.weights(&[1; 50]);
    let file = get(&open(dir.path(), 10_000), &world, &item).expect("comes").place.clone();
    std::fs::remove_file(&file).expect("removes");
    std::fs::write(&file, [9; 50]).expect("writes");
    // Another process looks at it.
    let cache = open(dir.path(), 10_000);
    let kept = get(&cache, &world, &item).expect("comes again");
    assert_eq!(std::fs::read(&kept.place).expect("there"), [1; 50]);
    assert_eq!(world.served.load(Ordering::SeqCst), 100);
}

#[test]
fn what_rots_while_a_trial_uses_it_is_fetched_again_once_that_ends() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.weights(&[1; 50]);
    let in_use = get(&open(dir.path(), 10_000), &world, &item).expect("comes");
    std::fs::remove_file(&in_use.place).expect("removes");
    std::fs::write(&in_use.place, [9; 50]).expect("writes");
    std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel();
        let (dir, world, item) = (&dir, &world, &item);
        scope.spawn(move || ended.send(get(&open(dir.path(), 10_000), world, item).map(|kept| kept.place.clone())));
        let early = end.recv_timeout(Duration::from_millis(500));
        assert!(early.is_err(), "ended while it was in use: {early:?}");
        drop(in_use);
        let file = end.recv().expect("ends").expect("comes again");
        assert_eq!(std::fs::read(file).expect("there"), [1; 50]);
    });
}

#[test]
fn all_that_want_the_same_share_one_download() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.weights(&[5; 100_000]);
    // Two slots of one agent, and another agent with the same folder.
    let (one, other) = (open(dir.path(), 1 << 20), open(dir.path(), 1 << 20));
    std::thread::scope(|scope| {
        for cache in [&one, &one, &other] {
            let (world, item) = (&world, &item);
            scope.spawn(move || get(cache, world, item).expect("comes"));
        }
    });
    assert_eq!(world.served.load(Ordering::SeqCst), 100_000);
}

#[test]
fn the_longest_unwanted_leave_and_what_is_in_use_stays() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let cache = open(dir.path(), 250);
    let [a, b, c, d] = [1, 2, 3, 4].map(|n| world.weights(&[n; 100]));
    let a_in_use = get(&cache, &world, &a).expect("comes");
    drop(get(&cache, &world, &b).expect("comes"));
    drop(get(&cache, &world, &c).expect("comes, for b"));
    assert_eq!(cache.items(), BTreeSet::from([a.clone(), c.clone()]), "a is older, and in use");
    let _c_in_use = get(&cache, &world, &c).expect("is here");
    let error = get(&cache, &world, &d).expect_err("no room").to_string();
    assert!(error.contains("it has 100 B, the cache may have 250 B, and 200 B of what is there is in use"), "{error}");
    drop(a_in_use);
    drop(get(&cache, &world, &d).expect("comes, for a"));
    assert_eq!(cache.items(), BTreeSet::from([c, d]));
    // What is too large alone makes nobody leave.
    let large = world.weights(&[9; 300]);
    assert!(matches!(get(&cache, &world, &large), Err(CacheError::NoSpace { .. })));
    assert_eq!(cache.items().len(), 2);
}

#[test]
fn a_full_disk_is_told_and_left_as_it_was() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let (item, cache) = (world.weights(&[1; 50]), open(dir.path(), 10_000));
    // Accepts opening and refuses writing, as a full disk does.
    let partial = dir.path().join("partial").join(item.digest().as_str());
    std::os::unix::fs::symlink("/dev/full", &partial).expect("links");
    let error = get(&cache, &world, &item).expect_err("full").to_string();
    assert!(error.contains("the disk is full"), "{error}");
    assert!(cache.folder.items().expect("lists").is_empty() && partial.symlink_metadata().is_err(), "nothing is left");
    get(&cache, &world, &item).expect("there is room again");
}

/// Gives nothing to a full disk, and something once there is room: the link in `full` is to one.
struct Filling(Memory, std::path::PathBuf, u32);

impl Source for Filling {
    fn name(&self) -> String {
        "filling".to_owned()
    }

    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble> {
        self.0.manifest(item)
    }

    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble> {
        self.2 += 1;
        if self.2 == 2 {
            std::fs::remove_file(&self.1).expect("was in the way");
        }
        self.0.read(blobs, take)
    }
}

#[test]
fn on_a_full_disk_what_nobody_uses_leaves_and_what_is_in_use_is_waited_for() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let (cache, [a, b]) = (open(dir.path(), 10_000), [1, 2].map(|n| world.weights(&[n; 50])));
    let full = dir.path().join("partial").join(b.digest().as_str());
    let attempt = || {
        std::os::unix::fs::symlink("/dev/full", &full).expect("links");
        let (_waiting, stop) = watch::channel(false);
        let source: Box<dyn Source> = Box::new(Filling(Memory(world.clone()), full.clone(), 0));
        cache.get(&b, &mut [source], &Watch { tell: Box::new(|_, _| ()), stop })
    };
    let in_use = get(&cache, &world, &a).expect("comes");
    let error = attempt().expect_err("no room now");
    assert!(matches!(error, CacheError::NoSpace { pinned: Bytes(50), .. }), "{error}");
    assert!(full.symlink_metadata().is_err() && cache.items() == BTreeSet::from([a]), "nothing is left of it");
    drop(in_use);
    drop(attempt().expect("comes"));
    assert_eq!(cache.items(), BTreeSet::from([b]));
}

/// A cell of the data set `fingerprint`, from scratch.
fn cell(fingerprint: &Digest) -> CellSettings {
    let toml = "name = \"c\"\nbudget = \"1GiB\"\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
                checkpointing = \"static\"\ndataset = \"textures\"\n";
    let campaign = fleet_common::spec::Campaign::parse("c.toml", toml).expect("a campaign");
    let identity = DatasetIdentity { fingerprint: fingerprint.to_string(), classes: 2, train: 10, test: 10 };
    let mut resolution = Resolution::default();
    resolution.datasets.insert("textures".to_owned().try_into().expect("a name"), Ok(identity));
    plan::plan(&campaign, &resolution).cells[0].settings()
}

#[test]
fn a_trial_waits_for_room_that_others_use_and_not_for_what_can_never_be() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let files = Files::new(dir.path().join("data"), None);
    let textures = DatasetName::Textures("textures".into());
    synth::write(
        &dir.path().join("theirs/textures"),
        &TextureSpec { seed: 1, set: TextureSet::A, per_class: 3, size: 32 },
        &mut |_, _| (),
    )
    .expect("writes");
    let set = Dataset::open(&textures, &dir.path().join("theirs")).expect("opens");
    let fingerprint = set.identify(&mut |_, _| ()).expect("identifies").fingerprint;
    let local = Local::dataset(&textures, &dir.path().join("theirs"), &fingerprint, &mut |_, _| ()).expect("reads");
    let item = local.manifest.item.clone();
    for (sha256, place) in &local.places {
        world.blobs.lock().expect("free").insert(sha256.clone(), std::fs::read(place).expect("reads"));
    }
    world.manifests.lock().expect("free").insert(item.clone(), local.manifest.clone());
    let settings = cell(item.digest());
    let ready = |space: u64| {
        let (_waiting, stop) = watch::channel(false);
        let watch = Watch { tell: Box::new(|_, _| ()), stop };
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Memory(world.clone()))];
        ready(&files, &open(&dir.path().join("cache"), space), &mut sources, &settings, &textures, &watch)
    };
    let why = ready(local.manifest.bytes() - 1).expect_err("never goes in").expect("a reason");
    assert!(why.contains("does not go into the cache"), "{why}");

    let other = world.weights(&[1; 50]);
    let space = local.manifest.bytes() + 10;
    let in_use = get(&open(&dir.path().join("cache"), space), &world, &other).expect("comes");
    std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel();
        let ready = &ready;
        scope.spawn(move || ended.send(ready(space).map(|ready| ready.data_dir)));
        let early = end.recv_timeout(Duration::from_millis(500));
        assert!(early.is_err(), "ended while the room was in use: {early:?}");
        drop(in_use);
        let data_dir = end.recv().expect("ends").expect("there is room");
        assert!(data_dir.starts_with(dir.path().join("cache/sets")));
    });
}

#[test]
fn what_nobody_has_is_told_with_who_was_asked_and_how_to_share_it() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = Item::Dataset("7".repeat(64).parse().expect("a hash"));
    let error = get(&open(dir.path(), 10_000), &world, &item).expect_err("nowhere").to_string();
    for part in ["the data set 777777777777…", "memory: it does not have it", "fleet data share"] {
        assert!(error.contains(part), "lacks {part}: {error}");
    }
}

#[test]
fn nobody_who_has_left_is_waited_for() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.weights(&[1; 50]);
    let (waiting, stop) = watch::channel(false);
    drop(waiting);
    let watch = Watch { tell: Box::new(|_, _| ()), stop };
    let got = open(dir.path(), 10_000).get(&item, &mut [Box::new(Memory(world))], &watch);
    assert!(matches!(got, Err(CacheError::Stopped)));
}

#[test]
fn a_shelf_gives_what_it_has_as_a_whole() {
    let (dir, world) = (tempfile::tempdir().expect("a folder"), Arc::new(World::default()));
    let item = world.weights(&[6; 90]);
    let shelf = dir.path().join("shelf");
    drop(get(&open(&shelf, 10_000), &world, &item).expect("comes"));
    let cache = open(&dir.path().join("cache"), 10_000);
    let (_waiting, stop) = watch::channel(false);
    let watch = Watch { tell: Box::new(|_, _| ()), stop };
    let mut sources: Vec<Box<dyn Source>> =
        vec![Box::new(Shelf::new(&dir.path().join("away"))), Box::new(Shelf::new(&shelf))];
    let kept = cache.get(&item, &mut sources, &watch).expect("comes from the second");
    assert_eq!(std::fs::read(&kept.place).expect("there"), [6; 90]);
    assert_eq!(world.served.load(Ordering::SeqCst), 90);
}
