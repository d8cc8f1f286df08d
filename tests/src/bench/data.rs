//! The images that our side reads: procedural textures, dealt to 100 classes so that the head has CIFAR-100's size.

use std::fs;
use std::io;
use std::path::PathBuf;

use fleet_dataset::synth::{TextureSet, TextureSpec, write};

/// Classes of the head, on both sides.
pub(super) const CLASSES: u32 = 100;

/// An image folder of [`CLASSES`] classes with one image each to train on and one to test on.
#[derive(Debug)]
pub struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    /// Draws them.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn draw() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 27, size: 64 };
        let textures = dir.path().join("textures");
        write(&textures, &spec, &mut |_, _| {}).map_err(io::Error::other)?;
        let mut files = Vec::new();
        for family in fs::read_dir(textures.join("images"))? {
            for file in fs::read_dir(family?.path())? {
                files.push(file?.path());
            }
        }
        files.sort();
        for (n, file) in files.iter().take(2 * CLASSES as usize).enumerate() {
            let half = ["train", "test"][n % 2];
            let class = dir.path().join("dealt").join(half).join(format!("class-{:02}", n / 2));
            fs::create_dir_all(&class)?;
            fs::rename(file, class.join("image.jpg"))?;
        }
        Ok(Self { dir })
    }

    /// Where they are.
    pub(super) fn folder(&self) -> PathBuf {
        self.dir.path().join("dealt")
    }
}
