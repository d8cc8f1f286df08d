//! A data set of image files: classes, and for each half the images in sorted order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{DatasetError, Split, fingerprint};

/// The index of a data set of image files.
#[derive(Debug)]
pub(crate) struct Files {
    /// Names in sorted order.
    pub(crate) classes: Vec<String>,
    train: Half,
    test: Half,
    root: PathBuf,
    /// What the root is called below a data folder.
    called: String,
    /// Files that say which images are used.
    lists: Vec<PathBuf>,
}

/// One half: images at `FOLDER/CLASS/FILE`.
#[derive(Debug)]
pub(crate) struct Half {
    folder: PathBuf,
    /// Sorted by class and file name.
    pub(crate) images: Vec<Image>,
}

/// One image.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Image {
    /// Index into the classes.
    pub(crate) class: u32,
    /// File name within its class's folder.
    pub(crate) file: String,
}

/// A half as a layout's reader found it: images as (class, file name), in any order, below a folder.
pub(crate) struct Found {
    pub(crate) folder: PathBuf,
    pub(crate) images: Vec<(String, String)>,
}

impl Files {
    /// Numbers the classes. `root` is where errors say they are, and `called` its name below a data folder.
    pub(crate) fn new(root: &Path, called: &str, train: Found, test: Found) -> Result<Self, DatasetError> {
        let classes: BTreeSet<&str> = train.images.iter().map(|(class, _)| class.as_str()).collect();
        if let Some((class, file)) = test.images.iter().find(|(class, _)| !classes.contains(class.as_str())) {
            return Err(DatasetError::layout(
                root,
                format!(
                    "test image {class}/{file} is of class \"{class}\", of which there is no training image; known \
                     classes: {}. Add training images or take the class out of the test set",
                    shortened(&classes)
                ),
            ));
        }
        let classes: Vec<String> = classes.into_iter().map(str::to_owned).collect();
        Ok(Self {
            train: Half::new(&classes, train),
            test: Half::new(&classes, test),
            classes,
            root: root.to_owned(),
            called: called.to_owned(),
            lists: Vec::new(),
        })
    }

    /// Names the lists that the images were found in.
    pub(crate) fn listed_in(mut self, lists: Vec<PathBuf>) -> Self {
        self.lists = lists;
        self
    }

    /// All files that are read, with their places below a data folder.
    pub(crate) fn places(&self) -> Vec<(String, PathBuf)> {
        let images = Split::ALL.into_iter().flat_map(|s| (0..self.half(s).images.len()).map(move |i| self.path(s, i)));
        let all = self.lists.iter().cloned().chain(images);
        let named = all.map(|path| {
            let below = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
            (format!("{}/{below}", self.called), path)
        });
        named.collect()
    }

    pub(crate) fn half(&self, split: Split) -> &Half {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    pub(crate) fn path(&self, split: Split, index: usize) -> PathBuf {
        let half = self.half(split);
        let image = &half.images[index];
        half.folder.join(&self.classes[image.class as usize]).join(&image.file)
    }

    pub(crate) fn fingerprint(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<String, DatasetError> {
        fingerprint::of_files(self, progress)
    }
}

impl Half {
    /// `classes` is sorted and has every class of `found`.
    fn new(classes: &[String], found: Found) -> Self {
        let number = |class: &String| classes.binary_search(class).unwrap_or_default() as u32;
        let mut images: Vec<Image> =
            found.images.into_iter().map(|(class, file)| Image { class: number(&class), file }).collect();
        images.sort();
        Self { folder: found.folder, images }
    }
}

fn shortened(classes: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&str> = classes.iter().copied().take(SHOWN).collect();
    let more = classes.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}
