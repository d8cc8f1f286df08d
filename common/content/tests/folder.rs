//! A folder of content: what goes in, what comes out, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fleet_checkpoint::ModelFolder;
use fleet_common::spec::DatasetName;
use fleet_content::{ContentError, Digest, Entry, Finished, Folder, Item, Local, Manifest, RelativePath};
use fleet_dataset::Dataset;
use fleet_dataset::synth::{self, TextureSet, TextureSpec};
use proptest::prelude::*;

fn textures(data: &Path) -> (DatasetName, String) {
    fs::create_dir_all(data).expect("a folder");
    let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 3, size: 32 };
    synth::write(&data.join("textures"), &spec, &mut |_, _| ()).expect("writes");
    let name = DatasetName::Textures("textures".into());
    let identity = Dataset::open(&name, data).expect("opens").identify(&mut |_, _| ()).expect("identifies");
    (name, identity.fingerprint)
}

/// Puts all blobs of something local into a folder.
fn fill(folder: &Folder, local: &Local) {
    for missing in folder.missing(&local.manifest) {
        let mut partial = folder.partial(&missing.sha256, missing.bytes).expect("opens").expect("free");
        partial.append(&fs::read(&local.places[&missing.sha256]).expect("reads")).expect("appends");
        assert_eq!(partial.finish().expect("finishes"), Finished::Kept);
    }
}

#[test]
fn a_set_comes_out_as_it_went_in_and_only_what_nothing_else_needs_leaves() {
    let dir = tempfile::tempdir().expect("a folder");
    let (name, fingerprint) = textures(&dir.path().join("data"));
    let local = Local::dataset(&name, &dir.path().join("data"), &fingerprint, &mut |_, _| ()).expect("reads");
    assert!(local.manifest.files.iter().any(|f| f.path.as_str() == "textures/labels/train1.txt"));
    assert_eq!(Manifest::parse(&local.manifest.to_json()).expect("reads"), local.manifest);
    let folder = Folder::create(&dir.path().join("content")).expect("makes");
    folder.keep(&local.manifest).expect("keeps");
    fill(&folder, &local);
    let item = local.manifest.item.clone();
    assert!(!folder.holds(&item));
    folder.assemble(&local.manifest, &mut |_, _| ()).expect("is what it is called");
    assert!(folder.holds(&item) && folder.items().expect("lists") == [item.clone()]);
    let root = folder.place(&item);
    let opened = local.manifest.opened_as(&root).expect("a data set");
    let again = Dataset::open(&opened, &root).expect("opens").identify(&mut |_, _| ()).expect("identifies");
    assert_eq!(again.fingerprint, fingerprint);

    let kept = local.manifest.files[0].sha256.clone();
    folder.remove(&item, &BTreeSet::from([kept.clone()])).expect("removes");
    assert!(!root.exists() && folder.blob(&kept).exists() && folder.items().expect("lists").is_empty());
    assert_eq!(folder.missing(&local.manifest).len(), local.manifest.blobs().len() - 1);
}

#[test]
fn an_image_folder_is_found_again_wherever_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("somebody's pictures");
    for (half, class) in [("train", "a"), ("train", "b"), ("val", "a")] {
        fs::create_dir_all(root.join(half).join(class)).expect("makes");
        fs::write(root.join(half).join(class).join("x.png"), half).expect("writes");
    }
    let name = DatasetName::Folder(root.to_str().expect("UTF-8").to_owned());
    let identity = Dataset::open(&name, dir.path()).expect("opens").identify(&mut |_, _| ()).expect("identifies");
    let local = Local::dataset(&name, dir.path(), &identity.fingerprint, &mut |_, _| ()).expect("reads");
    assert!(!String::from_utf8(local.manifest.to_json()).expect("text").contains("somebody"), "no path of theirs");
    let folder = Folder::create(&dir.path().join("content")).expect("makes");
    fill(&folder, &local);
    folder.assemble(&local.manifest, &mut |_, _| ()).expect("the same set");
    // "train" is the content of two files, and one blob.
    assert_eq!((local.manifest.files.len(), local.manifest.blobs().len()), (3, 2));
}

/// The folder of a model whose weights are in two files, with something beside them that nobody reads.
fn model(root: &Path) -> ModelFolder {
    fs::create_dir_all(root).expect("makes");
    let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    for (name, content) in [
        ("config.json", "{}"),
        ("model.safetensors.index.json", index),
        ("m-1.safetensors", "one"),
        ("m-2.safetensors", "two"),
        ("README.md", "read by people"),
    ] {
        fs::write(root.join(name), content).expect("writes");
    }
    ModelFolder::open(root).expect("a model")
}

#[test]
fn a_published_model_comes_out_as_the_folder_that_went_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let theirs = model(&dir.path().join("dinov2_small"));
    let fingerprint = theirs.fingerprint(&mut |_, _| ()).expect("reads");
    let mut told = 0;
    let local = Local::model(&theirs, &mut |done, _| told = done).expect("reads");
    let item = Item::Model(fingerprint.parse().expect("a hash"));
    assert_eq!((&local.manifest.item, local.manifest.name.as_str()), (&item, "dinov2_small"));
    assert_eq!((local.manifest.files.len(), told), (4, local.manifest.bytes()));
    assert_eq!(Manifest::parse(&local.manifest.to_json()).expect("reads"), local.manifest);
    let folder = Folder::create(&dir.path().join("content")).expect("makes");
    folder.keep(&local.manifest).expect("keeps");
    fill(&folder, &local);
    assert!(!folder.holds(&item) && local.manifest.opened_as(&folder.place(&item)).is_none());
    folder.assemble(&local.manifest, &mut |_, _| ()).expect("is what it is called");
    assert!(folder.holds(&item) && folder.items().expect("lists") == [item.clone()]);
    let place = folder.place(&item);
    let ours = ModelFolder::open(&place).expect("a model");
    assert_eq!(ours.fingerprint(&mut |_, _| ()).expect("reads"), fingerprint);
    assert!(place.starts_with(folder.root().join("models")) && !place.join("README.md").exists());
    folder.remove(&item, &BTreeSet::new()).expect("removes");
    assert!(!place.exists() && folder.missing(&local.manifest).len() == 4);
}

#[test]
fn files_that_are_no_model_together_get_no_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let theirs = dir.path().join("theirs");
    let local = Local::model(&model(&theirs), &mut |_, _| ()).expect("reads");
    // What they are together is its name, whoever says another.
    let other = Item::Model("5".repeat(64).parse().expect("a hash"));
    let error = Manifest::new(other, "m".into(), local.manifest.files.clone()).expect_err("another").to_string();
    assert!(error.contains(local.manifest.item.digest().as_str()), "{error}");
    type Change = dyn Fn(&mut Vec<(String, String)>);
    let files = |change: &Change| {
        let mut files: Vec<(String, String)> =
            local.manifest.files.iter().map(|f| (f.path.to_string(), f.sha256.to_string())).collect();
        change(&mut files);
        files.sort();
        let item = ModelFolder::fingerprint_of(files.iter().map(|(name, sha256)| (sha256.as_str(), name.as_str())));
        let length = |sha256: &str| {
            local.manifest.files.iter().find(|f| f.sha256.as_str() == sha256).map(|f| f.bytes).expect("one of them")
        };
        let entries = files.iter().map(|(name, sha256)| Entry {
            path: name.clone().try_into().expect("a path"),
            bytes: length(sha256),
            sha256: sha256.parse().expect("a hash"),
        });
        Manifest::new(Item::Model(item.parse().expect("a hash")), "m".into(), entries.collect())
    };
    let deep = files(&|files| files[0].0 = "onnx/config.json".into()).expect_err("deep").to_string();
    assert!(deep.contains("side by side") && deep.contains("onnx/config.json"), "{deep}");
    let folder = Folder::create(&dir.path().join("content")).expect("makes");
    fill(&folder, &local);
    let cases: [(&Change, &str); 2] = [
        (&|files| files.retain(|(name, _)| name != "m-2.safetensors"), "m-2.safetensors is not there"),
        (&|files| files.push(("run.sh".into(), files[0].1.clone())), "run.sh is none of the files that are read"),
    ];
    for (change, says) in cases {
        let manifest = files(change).expect("a manifest");
        let error = folder.assemble(&manifest, &mut |_, _| ()).expect_err("no model");
        assert!(matches!(&error, ContentError::Differs { .. }) && error.to_string().contains(says), "{error}");
        assert!(!folder.holds(&manifest.item));
    }
    for left in ["models", "tmp"] {
        assert_eq!(fs::read_dir(dir.path().join("content").join(left)).expect("there").count(), 0, "{left}");
    }
}

#[test]
fn files_that_are_not_the_set_together_get_no_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let (name, _) = textures(&dir.path().join("data"));
    let wrong = "0".repeat(64);
    let local = Local::dataset(&name, &dir.path().join("data"), &wrong, &mut |_, _| ()).expect("reads");
    let folder = Folder::create(&dir.path().join("content")).expect("makes");
    fill(&folder, &local);
    let error = folder.assemble(&local.manifest, &mut |_, _| ()).expect_err("another fingerprint");
    assert!(matches!(error, ContentError::Differs { .. }), "{error}");
    for left in ["sets", "tmp"] {
        assert_eq!(fs::read_dir(dir.path().join("content").join(left)).expect("there").count(), 0, "{left}");
    }
}

#[test]
fn what_a_killed_process_was_making_is_gone_when_the_folder_is_opened_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let tmp = dir.path().join("tmp");
    fs::create_dir_all(tmp.join("7-0/dtd")).expect("makes");
    fs::write(tmp.join("7-0/dtd/x"), "a link to a blob").expect("writes");
    fs::write(tmp.join("7-0.lock"), "").expect("writes");
    Folder::create(dir.path()).expect("opens");
    assert_eq!(fs::read_dir(&tmp).expect("there").count(), 0);
}

#[test]
fn a_blob_with_another_hash_is_thrown_away_and_a_longer_one_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Folder::create(dir.path()).expect("makes");
    let sha256: Digest = fleet_common::canonical::sha256_hex(b"right").parse().expect("a hash");
    let open = || folder.partial(&sha256, 5).expect("opens").expect("free");
    let mut partial = open();
    partial.append(b"wrong").expect("appends");
    assert!(matches!(partial.finish().expect("compares"), Finished::Wrong(_)));
    let mut partial = open();
    assert!(partial.is_empty());
    partial.append(b"rig").expect("appends");
    assert!(matches!(partial.append(b"htly"), Err(ContentError::TooLong { .. })));
    drop(partial);
    // After a break it goes on behind what is there, whose hash is made again.
    let mut partial = open();
    assert_eq!(partial.len(), 3);
    partial.append(b"ht").expect("appends");
    assert_eq!(partial.finish().expect("compares"), Finished::Kept);
    assert!(folder.has_blob(&sha256, 5));
}

fn entry(path: &str, sha256: char, bytes: u64) -> Option<Entry> {
    let sha256 = sha256.to_string().repeat(64).parse().expect("a hash");
    Some(Entry { path: RelativePath::try_from(path.to_owned()).ok()?, bytes, sha256 })
}

#[test]
fn manifests_that_lead_elsewhere_or_cannot_be_are_refused() {
    for path in
        ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb", &"x/".repeat(600), &"x".repeat(256)]
    {
        assert!(RelativePath::try_from(path.to_owned()).is_err(), "{path:?}");
    }
    let item = || Item::Dataset("a".repeat(64).parse().expect("a hash"));
    let refused = |item: Item, name: &str, files: Vec<Entry>| Manifest::new(item, name.into(), files).is_err();
    let e = |path: &str, sha256, bytes| entry(path, sha256, bytes).expect("a path");
    assert!(!refused(item(), "dtd", vec![e("dtd/a", 'a', 1)]));
    assert!(refused(item(), "dtd", vec![]), "nothing");
    assert!(refused(item(), "dtd", vec![e("a", 'a', 1), e("a", 'b', 1)]), "twice");
    assert!(refused(item(), "dtd", vec![e("a", 'a', 1), e("a/b", 'b', 1)]), "a file and a folder");
    assert!(refused(item(), "dtd", vec![e("a", 'a', 1), e("b", 'a', 2)]), "two lengths");
    assert!(refused(item(), "dtd", vec![e("a", 'a', u64::MAX), e("b", 'b', 2)]), "overflow");
    // Opened as what it says, it would be read where it says.
    assert!(refused(item(), "/etc/", vec![e("a", 'a', 1)]), "a path");
    assert!(refused(item(), "textures-\n", vec![e("a", 'a', 1)]), "a control character");
    assert!(refused(item(), "imagenet", vec![e("a", 'a', 1)]), "an unknown set");
    let weights = || Item::Weights("a".repeat(64).parse().expect("a hash"));
    assert!(!refused(weights(), "w", vec![e("w", 'a', 1)]));
    assert!(refused(weights(), "w", vec![e("w", 'b', 1)]), "another hash");
    // Too many files, and too long a document, told by their numbers.
    let many: Vec<Entry> = (0..=100_000).map(|n| e(&format!("dtd/{n}"), 'a', 1)).collect();
    let error = Manifest::new(item(), "dtd".into(), many).expect_err("too many").to_string();
    assert!(error.contains("100001") && error.contains("--no-share"), "{error}");
    let error = Manifest::parse(&vec![b' '; 16 << 20]).expect_err("too long").to_string();
    assert!(error.contains("16777216"), "{error}");
    // Within JSON, the same path is refused.
    let good = Manifest::new(item(), "dtd".into(), vec![e("dtd/a", 'a', 1)]).expect("good").to_json();
    let bad = String::from_utf8(good).expect("text").replace("dtd/a", "dtd/../../a");
    assert!(Manifest::parse(bad.as_bytes()).expect_err("traversal").to_string().contains("leads elsewhere"));
}

proptest! {
    #[test]
    fn no_bytes_make_a_manifest_that_leads_out(text in "\\PC{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(&bytes);
        if let Ok(path) = RelativePath::try_from(text) {
            let below = path.below(Path::new("/root/x"));
            prop_assert!(below.starts_with("/root/x") && below.components().count() > 3);
            prop_assert!(below.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
        }
    }
}
