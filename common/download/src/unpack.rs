//! An archive of a data set → a folder, trusting nothing in it.
//!
//! Only regular files and folders are made, below one folder, under names that stay there; links, devices and the
//! archive's ideas of owners and permissions are not followed. How much can be written is bounded.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;

use crate::DownloadError;

/// The most that an archive may unpack to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files, and of the archive around them.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u64,
}

impl Limits {
    /// DTD has 5,640 images of together 600 MB: several times that.
    pub const DTD: Self = Self { bytes: 3_000_000_000, entries: 50_000 };
}

/// A data set's paths have four parts at most; deeper ones are there to do harm.
const DEPTH: usize = 8;

/// Unpacks what the `.tar.gz` at `archive` has in its folder `root` into `target/root`. Other entries are left out.
/// `tell` gets the bytes written so far.
///
/// # Errors
/// The archive is damaged or not a harmless one, or the disk refuses. What was written by then stays in `target`.
pub fn unpack(
    archive: &Path,
    root: &str,
    target: &Path,
    limits: Limits,
    tell: &mut dyn FnMut(u64),
) -> Result<(), DownloadError> {
    let file = File::open(archive).map_err(DownloadError::io(archive, "open it"))?;
    // The archive's own bytes are bounded too, which bounds what lies between files.
    let mut stream = GzDecoder::new(BufReader::new(file)).take(limits.bytes);
    let result = entries(archive, root, target, limits, &mut stream, tell);
    if stream.limit() == 0 {
        return Err(DownloadError::layout(
            archive,
            format!("unpacks to more than {} bytes, which is not what it should hold; fetch it again", limits.bytes),
        ));
    }
    result?;
    // The checksum of the whole comes last.
    io::copy(&mut stream, &mut io::sink()).map_err(|e| broken(archive, &e))?;
    Ok(())
}

fn broken(archive: &Path, error: &io::Error) -> DownloadError {
    DownloadError::layout(archive, format!("is not a whole .tar.gz archive: {error}. Fetch it again"))
}

fn entries(
    archive: &Path,
    root: &str,
    target: &Path,
    limits: Limits,
    stream: &mut impl Read,
    tell: &mut dyn FnMut(u64),
) -> Result<(), DownloadError> {
    let mut made = BTreeSet::new();
    let mut written = 0;
    let mut number = 0;
    let mut tar = tar::Archive::new(stream);
    // Raw: no extension headers, whose content the tar reader would hold in memory whatever its length.
    for entry in tar.entries().map_err(|e| broken(archive, &e))?.raw(true) {
        let mut entry = entry.map_err(|e| broken(archive, &e))?;
        number += 1;
        if number > limits.entries {
            return Err(DownloadError::layout(
                archive,
                format!("has more than {} entries, which is not what it should hold; fetch it again", limits.entries),
            ));
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() || kind.is_pax_local_extensions() {
            // Times and owners, which nobody needs here.
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = harmless(&name).map_err(|why| DownloadError::layout(archive, format!("{name:?} {why}")))?;
        if !path.starts_with(root) {
            continue;
        }
        let place = target.join(&path);
        if kind.is_dir() {
            make(&place, &mut made)?;
        } else if kind.is_file() {
            make(place.parent().unwrap_or(target), &mut made)?;
            written += write(archive, &mut entry, &place)?;
            tell(written);
        } else {
            return Err(DownloadError::layout(
                archive,
                format!("{name:?} is neither a file nor a folder ({kind:?}); expected only these. Fetch it again"),
            ));
        }
    }
    Ok(())
}

/// The path of an entry, if it stays where it is unpacked.
fn harmless(name: &str) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err("leads out of the folder that it is unpacked to; such an archive is not unpacked".into());
            }
        }
    }
    let depth = path.components().count();
    if depth > DEPTH { Err(format!("lies {depth} folders deep; expected at most {DEPTH}")) } else { Ok(path) }
}

fn make(folder: &Path, made: &mut BTreeSet<PathBuf>) -> Result<(), DownloadError> {
    if !made.contains(folder) {
        fs::create_dir_all(folder).map_err(DownloadError::io(folder, "make the folder"))?;
        made.insert(folder.to_owned());
    }
    Ok(())
}

/// Writes one file, which must not be there yet, and returns its length.
fn write(archive: &Path, entry: &mut impl Read, place: &Path) -> Result<u64, DownloadError> {
    let mut file = File::create_new(place).map_err(DownloadError::io(place, "make the file"))?;
    let mut buffer = [0; 1 << 16];
    let mut written = 0;
    // Not io::copy: which side failed decides what to say.
    loop {
        let read = entry.read(&mut buffer).map_err(|e| broken(archive, &e))?;
        if read == 0 {
            return Ok(written);
        }
        io::Write::write_all(&mut file, &buffer[..read]).map_err(DownloadError::io(place, "write it"))?;
        written += read as u64;
    }
}
