//! A folder of images: what is read from it, and what is refused.

mod support;

use std::fs;
use std::path::Path;

use fleet_common::spec::DatasetName;
use fleet_dataset::{Dataset, Protocol, Split};
use support::{fingerprint, mentions, picture, refusal, text};

fn name(root: &Path) -> DatasetName {
    DatasetName::Folder(root.to_str().expect("UTF-8").to_owned())
}

/// Two classes, every extension, and files that do not count.
fn write(root: &Path) {
    for (file, shade) in [
        ("train/cats/a.jpg", 10),
        ("train/cats/b.JPEG", 20),
        ("train/cats/c.webp", 30),
        ("train/dogs/a.png", 40),
        ("train/dogs/b.bmp", 50),
        ("test/cats/z.png", 60),
        ("test/dogs/y.png", 70),
    ] {
        picture(&root.join(file), shade);
    }
    text(&root.join("train/cats/notes.txt"), "not an image");
    text(&root.join("train/README"), "not a class");
    text(&root.join("train/cats/.hidden.png"), "hidden");
    text(&root.join("train/.cache/x.png"), "hidden");
}

fn spoilt(spoil: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path());
    spoil(dir.path());
    refusal(&name(dir.path()), Path::new("unused"))
}

#[test]
fn classes_are_the_folders_of_train() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path());
    let dataset = Dataset::open(&name(dir.path()), Path::new("unused")).expect("opens");
    assert_eq!(dataset.classes(), ["cats", "dogs"]);
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Test)), (5, 2));
    assert_eq!(dataset.protocol(), Protocol::Crop);
    for (index, (label, shade)) in [(0, 10), (0, 20), (0, 30), (1, 40), (1, 50)].into_iter().enumerate() {
        assert_eq!(dataset.label(Split::Train, index), label);
        let found = dataset.decode(Split::Train, index).expect("decodes").get_pixel(0, 0).0[0];
        assert!(i32::from(found).abs_diff(shade) < 6, "image {index}: {found} instead of {shade}");
    }
}

#[test]
fn val_stands_in_for_test_and_is_the_same_data() {
    let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write(one.path());
    write(two.path());
    fs::rename(two.path().join("test"), two.path().join("val")).expect("renames");
    let unused = Path::new("unused");
    assert_eq!(fingerprint(&name(one.path()), unused), fingerprint(&name(two.path()), unused));
    fs::rename(two.path().join("val/cats/z.png"), two.path().join("val/cats/x.png")).expect("renames");
    assert_ne!(fingerprint(&name(one.path()), unused), fingerprint(&name(two.path()), unused), "names count");
}

#[test]
fn the_fingerprint_tells_training_from_test() {
    // The same images in the same order; only where training ends differs.
    let print = |second: &str| {
        let dir = tempfile::tempdir().expect("a folder");
        for (file, shade) in [("train/cats/1.png", 1), (second, 2), ("test/cats/3.png", 3)] {
            picture(&dir.path().join(file), shade);
        }
        fingerprint(&name(dir.path()), Path::new("unused"))
    };
    assert_ne!(print("train/cats/2.png"), print("test/cats/2.png"));
    assert_eq!(print("test/cats/2.png"), print("test/cats/2.png"));
}

#[test]
fn a_folder_that_is_not_there_is_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    text(&dir.path().join("neighbour"), "");
    let error = refusal(&name(&dir.path().join("gone")), Path::new("unused"));
    mentions(&error, &["gone is not there", "gone/train", "holds neighbour", "current folder"]);
}

#[test]
fn incomplete_folders_are_refused() {
    let error = spoilt(|root| fs::rename(root.join("train"), root.join("training")).expect("renames"));
    mentions(&error, &["no folder train/", "holds test, training", "expected train/CLASS/FILE"]);
    let error = spoilt(|root| fs::remove_dir_all(root.join("test")).expect("removes"));
    mentions(&error, &["neither a folder test/ nor val/", "holds train"]);
    let error = spoilt(|root| {
        fs::remove_dir_all(root.join("test")).expect("removes");
        picture(&root.join("test/z.png"), 1);
    });
    mentions(&error, &["/test: has no class folder", "holds z.png", "expected train/CLASS/FILE"]);
    let error = spoilt(|root| text(&root.join("train/empty/notes.txt"), ""));
    mentions(&error, &["train/empty: has no image", "holds notes.txt", ".webp"]);
    let error = spoilt(|root| picture(&root.join("train/cats/more/x.png"), 1));
    mentions(&error, &["train/cats/more: is a folder within a class"]);
}

#[test]
fn a_class_that_is_only_in_test_is_refused() {
    let error = spoilt(|root| picture(&root.join("test/birds/x.png"), 1));
    mentions(&error, &["birds/x.png", "class \"birds\"", "known classes: cats, dogs"]);
}

#[cfg(target_os = "linux")]
#[test]
fn names_must_be_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let error = spoilt(|root| {
        let file = root.join("train/cats").join(std::ffi::OsStr::from_bytes(b"\xFF.png"));
        fs::copy(root.join("train/dogs/a.png"), file).expect("copies");
    });
    mentions(&error, &["train/cats", "not UTF-8"]);
}
