//! Textures → files, whole or not at all.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;

use super::{TextureSpec, image};
use crate::DatasetError;
use crate::error::listing;

const QUALITY: u8 = 90;

/// Says in the folder what was written there; the last file to be written.
const MARKER: &str = "textures.txt";

/// Writes the textures to the folder `dir`, such as `DATA/textures`; `progress` gets images done and images in all.
///
/// Everything is written to a hidden folder next to it, which is renamed at the end: an interrupted run leaves no half
/// of a data set. Where the same textures are already, there is nothing to do; anything else is left alone, and an
/// error.
pub fn write(dir: &Path, spec: &TextureSpec, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DatasetError> {
    check(dir, spec)?;
    if fs::symlink_metadata(dir).is_ok() {
        return already(dir, spec);
    }
    let Some(name) = dir.file_name() else {
        return Err(DatasetError::layout(dir, "does not end in a folder's name; expected one such as data/textures"));
    };
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(DatasetError::io(parent, "make the folder"))?;
    let partial = Partial::new(parent, &name.to_string_lossy())?;
    fill(&partial.0, spec, progress)?;
    match fs::rename(&partial.0, dir) {
        Ok(()) => Ok(()),
        // Someone else was faster; that is fine if it was the same.
        Err(_) if dir.is_dir() => already(dir, spec),
        Err(error) => Err(DatasetError::io(dir, "rename the finished folder to it")(error)),
    }
}

fn check(dir: &Path, spec: &TextureSpec) -> Result<(), DatasetError> {
    for (what, found, bounds) in [
        ("images per class", spec.per_class, TextureSpec::PER_CLASS),
        ("pixels on a side", spec.size, TextureSpec::SIZE),
    ] {
        if !bounds.contains(&found) {
            return Err(DatasetError::layout(
                dir,
                format!("cannot write textures with {found} {what}; expected {} to {}", bounds.start(), bounds.end()),
            ));
        }
    }
    Ok(())
}

fn already(dir: &Path, spec: &TextureSpec) -> Result<(), DatasetError> {
    let what = match fs::read_to_string(dir.join(MARKER)) {
        Ok(text) if text == marker(spec) => return Ok(()),
        Ok(text) => format!("other textures are there already ({}); wanted {}", settings(&text), parameters(spec)),
        Err(_) => format!("something else is there already: {}", listing(dir)),
    };
    Err(DatasetError::layout(dir, format!("{what}. Choose another name, or remove it")))
}

/// The marker's content: what it is, and what it was written with.
fn marker(spec: &TextureSpec) -> String {
    format!("Procedural textures, as `fleet data synth` wrote them; the next line says how.\n{}\n", parameters(spec))
}

fn parameters(spec: &TextureSpec) -> String {
    let TextureSpec { seed, set, per_class, size } = spec;
    format!("version 1, set {}, seed {seed}, {per_class} per class, size {size}", set.name())
}

/// The parameters in a marker, bounded in case that it is something else.
fn settings(text: &str) -> String {
    text.lines().nth(1).unwrap_or("unknown settings").chars().take(120).collect()
}

fn fill(root: &Path, spec: &TextureSpec, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DatasetError> {
    let families = spec.set.families();
    let total = u64::from(spec.per_class) * families.len() as u64;
    let mut done = 0;
    let mut lists = [("train1.txt", String::new()), ("val1.txt", String::new()), ("test1.txt", String::new())];
    for family in &families {
        let class = root.join("images").join(family.name);
        fs::create_dir_all(&class).map_err(DatasetError::io(&class, "make the folder"))?;
        for index in 0..spec.per_class {
            let file = format!("{}_{index:05}.jpg", family.name);
            jpeg(&class.join(&file), &image(spec, family, index))?;
            let list = &mut lists[index as usize % 3].1;
            list.push_str(&format!("{}/{file}\n", family.name));
            done += 1;
            progress(done, total);
        }
    }
    let labels = root.join("labels");
    fs::create_dir(&labels).map_err(DatasetError::io(&labels, "make the folder"))?;
    for (name, text) in &lists {
        text_file(&labels.join(name), text)?;
    }
    text_file(&root.join(MARKER), &marker(spec))
}

fn text_file(path: &Path, text: &str) -> Result<(), DatasetError> {
    fs::write(path, text).map_err(DatasetError::io(path, "write it"))
}

fn jpeg(path: &Path, image: &image::RgbImage) -> Result<(), DatasetError> {
    let file = fs::File::create(path).map_err(DatasetError::io(path, "create it"))?;
    let mut out = BufWriter::new(file);
    JpegEncoder::new_with_quality(&mut out, QUALITY)
        .encode_image(image)
        .map_err(io::Error::other)
        .and_then(|()| out.flush())
        .map_err(DatasetError::io(path, "write it"))
}

/// A folder that removes itself unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn new(parent: &Path, name: &str) -> Result<Self, DatasetError> {
        // A name of its own for each run: in containers that share a data folder, process ids come twice.
        let unique = RandomState::new().build_hasher().finish();
        let path = parent.join(format!(".{name}.partial-{unique:016x}"));
        fs::create_dir(&path).map_err(DatasetError::io(&path, "make the folder"))?;
        Ok(Self(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing here; after an error, that error is what matters.
        let _ = fs::remove_dir_all(&self.0);
    }
}
