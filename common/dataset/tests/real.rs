//! Real data, where it is: subsets of CIFAR-100 and DTD in their official layouts.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fleet_common::spec::DatasetName;
use fleet_dataset::{Dataset, Split};
use support::{identity, mentions};

/// `../shared/data` next to the repository, or `$FLEET_SHARED/data`.
fn data() -> Option<PathBuf> {
    let shared = match std::env::var_os("FLEET_SHARED") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let data = shared.join("data");
    if !data.is_dir() {
        println!("skipped: ../shared/data is absent (FLEET_SHARED names another place than ../shared)");
        return None;
    }
    Some(data)
}

fn per_class(dataset: &Dataset, split: Split) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for index in 0..dataset.len(split) {
        *counts.entry(dataset.label(split, index)).or_default() += 1;
    }
    counts
}

#[test]
fn cifar100() {
    let Some(data) = data() else { return };
    let dataset = Dataset::open(&DatasetName::Cifar100, &data).expect("opens");
    let identity = identity(&dataset);
    assert_eq!((identity.classes, identity.train, identity.test), (100, 10_000, 5_000));
    for (split, count) in [(Split::Train, 100), (Split::Test, 50)] {
        let counts = per_class(&dataset, split);
        assert!(counts.len() == 100 && counts.values().all(|c| *c == count), "{counts:?}");
    }
    // Apples: red against a white background, which a wrong order of planes would turn blue.
    let apples: Vec<usize> = (0..10_000).filter(|i| dataset.label(Split::Train, *i) == 0).collect();
    let mut sums = [0u64; 3];
    for index in apples {
        for pixel in dataset.decode(Split::Train, index).expect("decodes").pixels() {
            for (sum, channel) in sums.iter_mut().zip(pixel.0) {
                *sum += u64::from(channel);
            }
        }
    }
    assert!(sums[0] > sums[1] && sums[0] > sums[2], "{sums:?}");
}

#[test]
fn dtd() {
    let Some(data) = data() else { return };
    let dataset = Dataset::open(&DatasetName::Dtd, &data).expect("opens");
    let identity = identity(&dataset);
    assert_eq!((identity.classes, identity.train, identity.test), (10, 320, 160));
    assert_eq!((dataset.classes()[0].as_str(), dataset.classes()[9].as_str()), ("banded", "crystalline"));
    for (split, count) in [(Split::Train, 32), (Split::Test, 16)] {
        let counts = per_class(&dataset, split);
        assert!(counts.len() == 10 && counts.values().all(|c| *c == count), "{counts:?}");
    }
    // From many threads, as the trainer does.
    std::thread::scope(|scope| {
        for part in 0..4 {
            let dataset = &dataset;
            scope.spawn(move || {
                for index in (part..dataset.len(Split::Test)).step_by(4) {
                    let (width, height) = dataset.decode(Split::Test, index).expect("decodes").dimensions();
                    assert!((200..=1200).contains(&width) && (200..=1200).contains(&height), "{width} × {height}");
                }
            });
        }
    });
}

#[test]
fn a_real_jpeg_cut_anywhere_is_an_error() {
    let Some(data) = data() else { return };
    let whole = std::fs::read(data.join("dtd/images/banded/banded_0002.jpg")).expect("an image");
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("set");
    let image = root.join("train/banded/cut.jpg");
    support::picture(&root.join("test/banded/x.png"), 0);
    support::picture(&image, 0);
    let name = DatasetName::Folder(root.to_str().expect("UTF-8").to_owned());
    let dataset = Dataset::open(&name, dir.path()).expect("opens");
    let length = whole.len();
    for cut in [1, 2, 3, 10, 100, 1000].into_iter().map(|n| length - n).chain((1..40).map(|n| length * n / 40)) {
        std::fs::write(&image, &whole[..cut]).expect("writes");
        let error = dataset.decode(Split::Train, 0).expect_err("cut").to_string();
        mentions(&error, &["cut.jpg", &format!("{cut} bytes")]);
    }
    std::fs::write(&image, &whole).expect("writes");
    dataset.decode(Split::Train, 0).expect("whole");
}
