//! A small real data set: procedural textures, a few per class.

use std::path::Path;

use fleet_dataset::synth::{TextureSet, TextureSpec, write};

/// Writes `DIR/NAME`: 8 classes with 6 training and 3 test images each... as many as make trials short.
pub fn textures(dir: &Path, name: &str) {
    let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 9, size: 64 };
    write(&dir.join(name), &spec, &mut |_, _| {}).expect("textures are written");
}

/// Cuts one training JPEG of a texture set in half and returns its file name.
pub fn break_jpeg(set: &Path) -> String {
    let labels = std::fs::read_to_string(set.join("labels/train1.txt")).unwrap();
    let name = labels.lines().next().unwrap().to_owned();
    let path = set.join("images").join(&name);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    name
}
