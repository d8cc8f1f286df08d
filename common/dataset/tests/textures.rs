//! Procedural textures: the same bits everywhere, whole or not at all, and told apart by structure alone.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fleet_common::spec::DatasetName;
use fleet_dataset::synth::{self, TextureSet, TextureSpec};
use fleet_dataset::{Dataset, Split};
use image::RgbImage;
use support::{fingerprint, mentions};

const SMALL: TextureSpec = TextureSpec { seed: 7, set: TextureSet::A, per_class: 3, size: 32 };

fn write(dir: &Path, spec: &TextureSpec) {
    synth::write(dir, spec, &mut |_, _| ()).expect("writes");
}

fn refusal(dir: &Path, spec: &TextureSpec) -> String {
    synth::write(dir, spec, &mut |_, _| ()).expect_err("must be refused").to_string()
}

fn textures() -> DatasetName {
    DatasetName::Textures("textures".to_owned())
}

fn written(spec: &TextureSpec) -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().expect("a folder");
    write(&dir.path().join("textures"), spec);
    let dataset = Dataset::open(&textures(), dir.path()).expect("opens");
    (dir, dataset)
}

/// Golden: a change here makes every data set that was written before a different one, and needs a new version in
/// `noise` and in the marker.
#[test]
fn the_bits_are_the_same_everywhere() {
    for (set, expected) in [
        (TextureSet::A, "f08b886bd1194b133c81a0670d1841387308e4a38d316e088593441a94809165"),
        (TextureSet::B, "9cbbb7932b671f0111a9ba051d74717fb969f57ebe3f10f9fc40a842cd35495d"),
    ] {
        let (dir, _) = written(&TextureSpec { set, size: 64, ..SMALL });
        assert_eq!(fingerprint(&textures(), dir.path()), expected, "set {}", set.name());
    }
}

#[test]
fn seed_set_and_size_change_the_data() {
    let mut seen = BTreeSet::new();
    for spec in [SMALL, TextureSpec { seed: 8, ..SMALL }, TextureSpec { size: 33, ..SMALL }] {
        for spec in [spec, TextureSpec { set: TextureSet::B, ..spec }] {
            let (dir, _) = written(&spec);
            assert!(seen.insert(fingerprint(&textures(), dir.path())), "{spec:?} is like another");
        }
    }
}

#[test]
fn a_longer_set_begins_with_the_shorter_one() {
    let ((short, _), (long, _)) = (written(&SMALL), written(&TextureSpec { per_class: 5, ..SMALL }));
    let (short, long) = (short.path().join("textures"), long.path().join("textures"));
    for list in ["train1.txt", "val1.txt", "test1.txt"] {
        let lines = |root: &Path| -> BTreeSet<String> {
            let text = fs::read_to_string(root.join("labels").join(list)).expect("a list");
            text.lines().map(str::to_owned).collect()
        };
        let (few, many) = (lines(&short), lines(&long));
        assert!(few.len() == 8 && few.is_subset(&many), "{list}");
        for image in few {
            let bytes = |root: &Path| fs::read(root.join("images").join(&image)).expect("an image");
            assert_eq!(bytes(&short), bytes(&long), "{image}");
        }
    }
}

#[test]
fn the_sets_have_no_class_in_common() {
    let names: BTreeSet<&str> = TextureSet::ALL.iter().flat_map(|set| set.classes()).collect();
    assert_eq!(names.len(), 16);
    for set in TextureSet::ALL {
        assert!(set.classes().is_sorted());
        assert_eq!(set.name().to_lowercase().parse(), Ok(set));
        let (_dir, dataset) = written(&TextureSpec { set, ..SMALL });
        assert_eq!(dataset.classes(), set.classes());
    }
    assert!("C".parse::<TextureSet>().expect_err("no such set").contains("Known: A, B"));
}

#[test]
fn a_third_is_for_testing_and_sides_vary() {
    let (_dir, dataset) = written(&TextureSpec { per_class: 6, size: 96, ..SMALL });
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Test)), (8 * 4, 8 * 2));
    let sides: BTreeSet<(u32, u32)> =
        (0..32).map(|i| dataset.decode(Split::Train, i).expect("decodes").dimensions()).collect();
    assert!(sides.len() > 20, "{sides:?}");
    assert!(sides.iter().all(|(w, h)| (80..=96).contains(w) && (80..=96).contains(h)), "{sides:?}");
}

#[test]
fn progress_counts_images() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut reports = Vec::new();
    synth::write(&dir.path().join("t"), &SMALL, &mut |done, total| reports.push((done, total))).expect("writes");
    assert_eq!(reports, (1..=24).map(|done| (done, 24)).collect::<Vec<_>>());
}

#[test]
fn what_is_there_already_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let textures = dir.path().join("deep/textures");
    write(&textures, &SMALL);
    let removed = textures.join("images/wavy/wavy_00000.jpg");
    fs::remove_file(&removed).expect("removes");
    write(&textures, &SMALL);
    assert!(!removed.exists(), "the same textures: nothing was written");

    let error = refusal(&textures, &TextureSpec { seed: 8, ..SMALL });
    mentions(&error, &["deep/textures", "set A, seed 7, 3 per class, size 32", "wanted version 1, set A, seed 8"]);
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("makes a folder");
    fs::write(other.join("thesis.tex"), "precious").expect("writes");
    mentions(&refusal(&other, &SMALL), &["something else", "holds thesis.tex", "Choose another name"]);
    mentions(&refusal(&other.join("thesis.tex"), &SMALL), &["thesis.tex", "Choose another name"]);
    assert_eq!(fs::read(other.join("thesis.tex")).expect("still there"), b"precious");
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let textures = dir.path().join("textures");
    let panic = std::panic::catch_unwind(|| {
        synth::write(&textures, &SMALL, &mut |done, _| {
            assert!(!textures.exists(), "nothing has the final name before the end");
            assert!(done < 5, "interrupted");
        })
    });
    assert!(panic.is_err());
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn impossible_sizes_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    for (spec, part) in [
        (TextureSpec { per_class: 2, ..SMALL }, "2 images per class; expected 3 to 100000"),
        (TextureSpec { size: 31, ..SMALL }, "31 pixels on a side; expected 32 to 1024"),
        (TextureSpec { size: 1025, ..SMALL }, "1025 pixels"),
    ] {
        mentions(&refusal(&dir.path().join("x"), &spec), &[part]);
    }
    mentions(&refusal(Path::new(".."), &SMALL), &["something else is there already"]);
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

/// Share of test images whose class has the nearest mean of `features` over the training images.
fn nearest_centroid(dataset: &Dataset, features: fn(&RgbImage) -> Vec<f32>) -> f32 {
    let all = |split| -> Vec<(usize, Vec<f32>)> {
        (0..dataset.len(split))
            .map(|i| (dataset.label(split, i) as usize, features(&dataset.decode(split, i).expect("decodes"))))
            .collect()
    };
    let train = all(Split::Train);
    let width = train[0].1.len();
    let mut centroids = vec![vec![0.0; width]; dataset.classes().len()];
    let per_class = (train.len() / centroids.len()) as f32;
    for (class, features) in &train {
        for (sum, feature) in centroids[*class].iter_mut().zip(features) {
            *sum += feature / per_class;
        }
    }
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let test = all(Split::Test);
    let right = test.iter().filter(|(class, features)| {
        let nearest = (0..centroids.len())
            .min_by(|a, b| distance(&centroids[*a], features).total_cmp(&distance(&centroids[*b], features)));
        nearest == Some(*class)
    });
    right.count() as f32 / test.len() as f32
}

fn mean_colour(image: &RgbImage) -> Vec<f32> {
    let count = (image.width() * image.height()) as f32;
    (0..3).map(|c| image.pixels().map(|p| f32::from(p.0[c])).sum::<f32>() / count).collect()
}

/// How often each number of changes of sign occurs on a circle around a pixel, at three radii: local structure,
/// whatever the colours, the contrast and the rotation.
fn local_structure(image: &RgbImage) -> Vec<f32> {
    let grey = |x: i32, y: i32| image.get_pixel(x as u32, y as u32).0.iter().map(|c| i32::from(*c)).sum::<i32>();
    let blurred = |x: i32, y: i32| (0..9).map(|k| grey(x + k % 3 - 1, y + k / 3 - 1)).sum::<i32>();
    let (width, height) = (image.width() as i32, image.height() as i32);
    let mut histogram = vec![0.0; 3 * 36];
    for (slot, radius) in [2, 5, 9].into_iter().enumerate() {
        let d = radius * 7 / 10;
        let circle = [(radius, 0), (d, d), (0, radius), (-d, d), (-radius, 0), (-d, -d), (0, -radius), (d, -d)];
        for y in (radius + 1..height - radius - 1).step_by(2) {
            for x in (radius + 1..width - radius - 1).step_by(2) {
                let centre = blurred(x, y);
                let signs = circle.map(|(dx, dy)| blurred(x + dx, y + dy) > centre);
                let changes = (0..8).filter(|i| signs[*i] != signs[(i + 1) % 8]).count() / 2;
                let above = signs.iter().filter(|s| **s).count().min(signs.iter().filter(|s| !**s).count());
                histogram[slot * 36 + changes * 7 + above] += 1.0 / (width * height) as f32;
            }
        }
    }
    histogram
}

#[test]
fn structure_tells_the_class_and_mean_colour_does_not() {
    for set in TextureSet::ALL {
        let (_dir, dataset) = written(&TextureSpec { per_class: 90, size: 96, set, ..SMALL });
        // 240 test images of 8 classes: chance is 0.125, with a standard deviation of 0.021.
        let colour = nearest_centroid(&dataset, mean_colour);
        let structure = nearest_centroid(&dataset, local_structure);
        println!("set {}: by mean colour {colour:.3}, by local structure {structure:.3}", set.name());
        assert!(colour < 0.125 + 4.0 * 0.021, "set {}: mean colour tells the class: {colour}", set.name());
        assert!(structure > 0.5, "set {}: structure does not tell the class: {structure}", set.name());
    }
}
