//! The official archive, read straight into memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::{Content, MAX_BYTES, NAMES, too_long};
use crate::DatasetError;

/// A bound on what is unpacked in all, so that a hostile archive cannot keep us busy; the official one has 185 MB.
const MAX_UNPACKED: u64 = 2 * MAX_BYTES + 100_000_000;

const WANTED: [&str; 3] = ["train.bin", "test.bin", NAMES];

/// What was found of [`WANTED`], with the archive's path and the member's for errors.
type Members = [Option<(PathBuf, Vec<u8>)>; 3];

/// Reads the members that the reader uses.
pub(super) fn read(path: &Path) -> Result<Content, DatasetError> {
    let file = File::open(path).map_err(DatasetError::io(path, "open it"))?;
    let mut unpacked = GzDecoder::new(io::BufReader::new(file)).take(MAX_UNPACKED);
    let found = members(path, &mut unpacked);
    // Whatever else went wrong is because of this.
    if unpacked.limit() == 0 {
        return Err(DatasetError::layout(
            path,
            format!("unpacks to more than {MAX_UNPACKED} bytes; expected CIFAR-100's 185 MB. Fetch it again"),
        ));
    }
    let [train, test, names] = found?;
    let lacks = |file: &str| {
        DatasetError::layout(
            path,
            format!(
                "has no member cifar-100-binary/{file}; expected the official cifar-100-binary.tar.gz (the binary \
                 version, not the Python one). Fetch it again"
            ),
        )
    };
    let files = vec![("cifar-100-binary.tar.gz".to_owned(), path.to_owned())];
    let (train, test) = (train.ok_or_else(|| lacks("train.bin"))?, test.ok_or_else(|| lacks("test.bin"))?);
    Ok(Content { train, test, names, files })
}

fn members(path: &Path, unpacked: &mut impl Read) -> Result<Members, DatasetError> {
    let broken = |error: io::Error| {
        DatasetError::layout(path, format!("is not a whole .tar.gz archive: {error}. Fetch it again"))
    };
    let mut found: Members = [None, None, None];
    let mut archive = tar::Archive::new(&mut *unpacked);
    // Raw: no extension headers, whose content the tar reader would hold in memory whatever its length.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.trim_start_matches("./");
        let Some(file) = name.strip_prefix("cifar-100-binary/") else { continue };
        let Some(slot) = WANTED.iter().position(|w| *w == file).map(|at| &mut found[at]) else { continue };
        let place = path.join(name);
        if !entry.header().entry_type().is_file() {
            return Err(DatasetError::layout(&place, "is not a regular file in the archive; fetch it again"));
        }
        if slot.is_some() {
            return Err(DatasetError::layout(&place, "is in the archive twice; expected once. Fetch it again"));
        }
        let expected = entry.size();
        if expected > MAX_BYTES {
            return Err(too_long(&place));
        }
        let mut bytes = Vec::new();
        entry.take(MAX_BYTES).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 != expected {
            return Err(DatasetError::layout(
                &place,
                format!("has {} bytes, the archive says {expected}. Fetch it again", bytes.len()),
            ));
        }
        *slot = Some((place, bytes));
    }
    // The checksum of the whole comes last.
    io::copy(unpacked, &mut io::sink()).map_err(broken)?;
    Ok(found)
}
