//! A folder of images: `train/CLASS/FILE` and `test/CLASS/FILE` (or `val/`, where there is no `test/`).

use std::fs::DirEntry;
use std::path::Path;

use crate::DatasetError;
use crate::error::listing;
use crate::files::{Files, Found};

const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// What the layout is, for messages.
const EXPECTED: &str = "expected train/CLASS/FILE and test/CLASS/FILE (or val/), files ending in .jpg, .jpeg, .png, \
                        .webp or .bmp";

/// Opens the folder at `root`.
pub(crate) fn open(root: &Path) -> Result<Files, DatasetError> {
    let looked = [root.join("train"), root.join("test"), root.join("val")];
    if !root.is_dir() {
        let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Err(DatasetError::missing(
            &format!("the image folder {}", root.display()),
            &looked,
            parent,
            "Name a folder that has train/ and test/; a relative path starts from the current folder",
        ));
    }
    let [train, test, val] = looked;
    let test = if test.is_dir() { test } else { val };
    if !train.is_dir() || !test.is_dir() {
        let lacks = if train.is_dir() { "neither a folder test/ nor val/" } else { "no folder train/" };
        return Err(DatasetError::layout(root, format!("has {lacks}; {EXPECTED}. {}", listing(root))));
    }
    Files::new(root, "images", half(&train)?, half(&test)?)
}

fn half(folder: &Path) -> Result<Found, DatasetError> {
    let mut images = Vec::new();
    for class in visible(folder)? {
        // Through the path, so that a link to a folder counts as one.
        if class.path().is_dir() {
            let name = utf8(&class)?;
            for file in class_files(&class.path())? {
                images.push((name.clone(), file));
            }
        }
    }
    if images.is_empty() {
        return Err(DatasetError::layout(folder, format!("has no class folder; {EXPECTED}. {}", listing(folder))));
    }
    Ok(Found { folder: folder.to_owned(), images })
}

/// The images of one class. Files of other kinds are left alone; folders and classes without images are mistakes.
fn class_files(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let mut files = Vec::new();
    for entry in visible(folder)? {
        let path = entry.path();
        if path.is_dir() {
            return Err(DatasetError::layout(
                &path,
                format!("is a folder within a class; {EXPECTED}. Move its images up or the folder away"),
            ));
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        if EXTENSIONS.contains(&extension.as_str()) {
            files.push(utf8(&entry)?);
        }
    }
    if files.is_empty() {
        return Err(DatasetError::layout(folder, format!("has no image; {EXPECTED}. {}", listing(folder))));
    }
    Ok(files)
}

/// A folder's entries that are not hidden.
fn visible(folder: &Path) -> Result<Vec<DirEntry>, DatasetError> {
    let entries: Result<Vec<DirEntry>, _> = std::fs::read_dir(folder).and_then(Iterator::collect);
    let mut entries = entries.map_err(DatasetError::io(folder, "list it (expected a folder that may be read)"))?;
    entries.retain(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
    Ok(entries)
}

/// Names are part of fingerprints and tables, so they must be text.
fn utf8(entry: &DirEntry) -> Result<String, DatasetError> {
    entry
        .file_name()
        .into_string()
        .map_err(|_| DatasetError::layout(&entry.path(), "has a name that is not UTF-8; rename it"))
}
