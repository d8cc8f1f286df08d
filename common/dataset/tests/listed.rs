//! DTD's layout: what is read from it, what is refused, and what its fingerprint depends on.

mod support;

use std::fs;
use std::path::Path;

use fleet_common::spec::DatasetName;
use fleet_dataset::{Dataset, Protocol, Split};
use support::{fingerprint, identity, listed, mentions, picture, refusal, text};

fn set() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    listed(&dir.path().join("dtd"));
    dir
}

/// What opening says after `spoil` changed the set.
fn spoilt(spoil: impl FnOnce(&Path)) -> String {
    let dir = set();
    spoil(&dir.path().join("dtd"));
    refusal(&DatasetName::Dtd, dir.path())
}

fn append(list: &Path, line: &str) {
    let old = fs::read_to_string(list).expect("a list");
    fs::write(list, old + line).expect("writes");
}

#[test]
fn train_is_train1_and_val1_and_images_are_sorted() {
    let dir = set();
    let dataset = Dataset::open(&DatasetName::Dtd, dir.path()).expect("opens");
    assert_eq!(dataset.classes(), ["dotted", "lined"]);
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Test)), (6, 3));
    assert_eq!(dataset.protocol(), Protocol::Crop);
    let labels = |split| (0..dataset.len(split)).map(|i| dataset.label(split, i)).collect::<Vec<_>>();
    assert_eq!(labels(Split::Train), [0, 0, 0, 0, 1, 1]);
    assert_eq!(labels(Split::Test), [0, 0, 1]);
    // dotted_10 (the second image written: shade 9) comes first, lined_30 (shade 54) last in the test set.
    let shade = |split, index| i32::from(dataset.decode(split, index).expect("decodes").get_pixel(0, 0).0[0]);
    assert!((shade(Split::Train, 0) - 9).abs() < 5 && (shade(Split::Test, 2) - 54).abs() < 5);
    let identity = identity(&dataset);
    assert_eq!((identity.classes, identity.train, identity.test), (2, 6, 3));
}

#[test]
fn textures_have_the_same_layout_under_their_own_name() {
    let dir = tempfile::tempdir().expect("a folder");
    listed(&dir.path().join("textures-b"));
    let dataset = Dataset::open(&DatasetName::Textures("textures-b".to_owned()), dir.path()).expect("opens");
    assert_eq!(dataset.len(Split::Train), 6);
    let error = refusal(&DatasetName::Textures("textures".to_owned()), dir.path());
    mentions(&error, &["textures is not there", "holds textures-b", "fleet data synth"]);
}

#[test]
fn an_absent_set_is_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    mentions(&refusal(&DatasetName::Dtd, dir.path()), &["Looked for", "/dtd", "is empty", "dtd-r1.0.1.tar.gz"]);
    for name in 0..20 {
        text(&dir.path().join(format!("file{name:02}")), "");
    }
    mentions(&refusal(&DatasetName::Dtd, dir.path()), &["file00, file01", "and 12 more"]);
    let nowhere = dir.path().join("nowhere");
    mentions(&refusal(&DatasetName::Dtd, &nowhere), &["There is no folder", "nowhere"]);
}

#[test]
fn an_incomplete_layout_is_named() {
    let error = spoilt(|root| fs::remove_dir_all(root.join("labels")).expect("removes"));
    mentions(&error, &["no folder labels/", "holds images"]);
    let error = spoilt(|root| fs::remove_file(root.join("labels/val1.txt")).expect("removes"));
    mentions(&error, &["labels/val1.txt: is not there", "test1.txt, train1.txt"]);
}

#[test]
fn a_listed_file_that_is_missing_is_named_with_its_line() {
    let error = spoilt(|root| fs::remove_file(root.join("images/dotted/dotted_20.jpg")).expect("removes"));
    mentions(&error, &["labels/val1.txt:2:", "dotted/dotted_20.jpg", "no file", "images/dotted/dotted_20.jpg"]);
}

#[test]
fn lines_that_are_not_a_class_and_a_file_are_refused() {
    for (line, reason) in [
        ("dotted_10.jpg", "has no '/'"),
        ("/etc/passwd", "absolute path"),
        ("../dotted_10.jpg", "\"..\""),
        ("dotted/..", "\"..\""),
        ("dotted/../lined/lined_10.jpg", "\"..\""),
        ("dotted/deep/dotted_10.jpg", "not a class and a file"),
        ("dotted/", "not a class and a file"),
        ("./dotted_10.jpg", "not a class and a file"),
    ] {
        let error = spoilt(|root| append(&root.join("labels/test1.txt"), &format!("\n{line}\n")));
        mentions(&error, &["labels/test1.txt:5:", line, reason, "expected CLASS/FILE"]);
    }
}

#[test]
fn an_image_listed_twice_is_refused() {
    let error = spoilt(|root| append(&root.join("labels/test1.txt"), "lined/lined_10.jpg\n"));
    mentions(&error, &["labels/test1.txt:4:", "lined/lined_10.jpg", "train1.txt:1 lists already"]);
}

#[test]
fn an_empty_half_is_refused() {
    let error = spoilt(|root| text(&root.join("labels/test1.txt"), "\n"));
    mentions(&error, &["test1.txt lists no image"]);
    let error = spoilt(|root| {
        text(&root.join("labels/train1.txt"), "");
        text(&root.join("labels/val1.txt"), "");
    });
    mentions(&error, &["train1.txt and val1.txt list no image"]);
}

#[test]
fn a_class_without_training_images_is_refused() {
    let error = spoilt(|root| {
        picture(&root.join("images/striped/striped_1.jpg"), 1);
        append(&root.join("labels/test1.txt"), "striped/striped_1.jpg\n");
    });
    mentions(&error, &["striped/striped_1.jpg", "no training image", "known classes: dotted, lined"]);
}

#[test]
fn a_list_that_is_not_text_is_refused() {
    let error = spoilt(|root| fs::write(root.join("labels/val1.txt"), [0xFF, 0xFE, 0x00]).expect("writes"));
    mentions(&error, &["labels/val1.txt", "read it as text"]);
}

#[test]
fn a_truncated_image_is_an_error_that_names_the_file() {
    let dir = set();
    let path = dir.path().join("dtd/images/dotted/dotted_10.jpg");
    let bytes = fs::read(&path).expect("an image");
    fs::write(&path, &bytes[..bytes.len() - 9]).expect("writes");
    let dataset = Dataset::open(&DatasetName::Dtd, dir.path()).expect("opening does not decode");
    let error = dataset.decode(Split::Train, 0).expect_err("truncated").to_string();
    mentions(&error, &["dotted_10.jpg", "truncated JPEG", &format!("{} bytes", bytes.len() - 9)]);
    fs::remove_file(&path).expect("removes");
    mentions(&dataset.decode(Split::Train, 0).expect_err("gone").to_string(), &["dotted_10.jpg", "cannot read it"]);
    let error = dataset.identify(&mut |_, _| ()).expect_err("gone").to_string();
    mentions(&error, &["dotted_10.jpg", "cannot look at it"]);
}

#[test]
fn the_fingerprint_is_that_of_the_content() {
    let one = set();
    let expected = fingerprint(&DatasetName::Dtd, one.path());

    // The same elsewhere, written at another time, listed in another order, with files that no list names.
    let two = set();
    let root = two.path().join("dtd");
    let list = root.join("labels/train1.txt");
    let mut lines: Vec<String> = fs::read_to_string(&list).expect("a list").lines().map(str::to_owned).collect();
    lines.reverse();
    text(&list, &lines.join("\n"));
    picture(&root.join("images/dotted/unlisted.jpg"), 3);
    let image = root.join("images/dotted/dotted_10.jpg");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().append(true).open(&image).and_then(|f| f.set_modified(old)).expect("touches");
    assert_eq!(fingerprint(&DatasetName::Dtd, two.path()), expected);

    // One byte of one image.
    let mut bytes = fs::read(&image).expect("an image");
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&image, &bytes).expect("writes");
    let changed = fingerprint(&DatasetName::Dtd, two.path());
    assert_ne!(changed, expected);
    bytes[last] ^= 1;
    fs::write(&image, &bytes).expect("writes");
    assert_eq!(fingerprint(&DatasetName::Dtd, two.path()), expected);

    // Two images that change places, and an image that changes halves.
    fs::rename(root.join("images/lined/lined_10.jpg"), root.join("spare")).expect("moves");
    fs::rename(root.join("images/lined/lined_20.jpg"), root.join("images/lined/lined_10.jpg")).expect("moves");
    fs::rename(root.join("spare"), root.join("images/lined/lined_20.jpg")).expect("moves");
    assert_ne!(fingerprint(&DatasetName::Dtd, two.path()), expected);
    let three = set();
    let labels = three.path().join("dtd/labels");
    fs::rename(labels.join("val1.txt"), labels.join("spare")).expect("moves");
    fs::rename(labels.join("test1.txt"), labels.join("val1.txt")).expect("moves");
    fs::rename(labels.join("spare"), labels.join("test1.txt")).expect("moves");
    assert_ne!(fingerprint(&DatasetName::Dtd, three.path()), expected);
}

#[test]
fn progress_grows_to_the_size_of_all_files() {
    let dir = set();
    let dataset = Dataset::open(&DatasetName::Dtd, dir.path()).expect("opens");
    let mut reports = Vec::new();
    dataset.identify(&mut |done, total| reports.push((done, total))).expect("identifies");
    assert_eq!(reports.len(), 9, "one report for each small file");
    assert!(reports.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 == w[1].1), "{reports:?}");
    let (done, total) = reports[8];
    assert_eq!(done, total);
}
