//! Small data sets written by hand.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::fs;
use std::path::Path;

use fleet_common::plan::DatasetIdentity;
use fleet_common::spec::DatasetName;
use fleet_dataset::Dataset;
use image::{Rgb, RgbImage};

/// Writes a small image in the format that the path's extension names, and the folders above it.
pub fn picture(path: &Path, shade: u8) {
    make_parent(path);
    RgbImage::from_fn(12, 10, |x, y| Rgb([shade, (x * 20) as u8, (y * 25) as u8])).save(path).expect("writes");
}

/// Writes a text file and the folders above it.
pub fn text(path: &Path, text: &str) {
    make_parent(path);
    fs::write(path, text).expect("writes");
}

fn make_parent(path: &Path) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("makes folders");
}

/// A set in DTD's layout with two classes and three images in each list, under `root`.
pub fn listed(root: &Path) {
    let mut shade = 0;
    for (list, number) in [("train1", 1), ("val1", 2), ("test1", 3)] {
        let mut lines = String::new();
        // Not in sorted order, and with Windows' line ends in one list: neither may matter.
        for (class, copy) in [("lined", 0), ("dotted", 0), ("dotted", 1)] {
            let file = format!("{class}/{class}_{number}{copy}.jpg");
            picture(&root.join("images").join(&file), shade);
            lines += &file;
            lines += if list == "val1" { "\r\n" } else { "\n" };
            shade += 9;
        }
        text(&root.join("labels").join(format!("{list}.txt")), &lines);
    }
}

/// The identity of a data set, without progress.
pub fn identity(dataset: &Dataset) -> DatasetIdentity {
    dataset.identify(&mut |_, _| ()).expect("identifies")
}

/// The fingerprint of a data set that can be opened.
pub fn fingerprint(name: &DatasetName, data_dir: &Path) -> String {
    identity(&Dataset::open(name, data_dir).expect("opens")).fingerprint
}

/// The error's text when a data set is opened that cannot be.
pub fn refusal(name: &DatasetName, data_dir: &Path) -> String {
    Dataset::open(name, data_dir).expect_err("must be refused").to_string()
}

/// Asserts that a message has every part.
#[track_caller]
pub fn mentions(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "expected \"{part}\" in: {message}");
    }
}
