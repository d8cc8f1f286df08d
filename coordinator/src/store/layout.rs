//! The layout of a state folder, with its version.
//!
//! | version | |
//! |---|---|
//! | 1 | the journal is one file, `journal`; no file says the version |
//! | 2 | the journal is a folder of segments, `journal/`; snapshots beside it; `version` says "2" |
//!
//! The files of samples and the index have versions of their own.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use super::journal::{JournalError, View, sync_folder};

/// The layout that this version writes.
pub const LAYOUT: u32 = 2;

/// Segments of the journal.
pub(crate) const JOURNAL: &str = "journal";
/// Where a journal of one file stays while the folder that it goes into is made.
const MOVING: &str = "journal.1";
const VERSION: &str = "version";

/// What a folder's layout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// There is nothing yet.
    Empty,
    /// One that this version can read.
    Known(u32),
    /// One of a later version.
    Newer(u32),
}

/// Looks at a folder.
///
/// # Errors
/// It cannot be read, or the file that says the version says something else.
pub(crate) fn look(dir: &Path) -> io::Result<Layout> {
    match fs::read_to_string(dir.join(VERSION)) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(version) if version > LAYOUT => Ok(Layout::Newer(version)),
            Ok(version) => Ok(Layout::Known(version)),
            Err(_) => Err(io::Error::other(format!("the file {VERSION} holds {:?}, expected a number", text.trim()))),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let moving = dir.join(JOURNAL).is_file() || dir.join(MOVING).is_file();
            let begun = dir.join(JOURNAL).is_dir();
            Ok(if moving {
                Layout::Known(1)
            } else if begun {
                Layout::Known(LAYOUT)
            } else {
                Layout::Empty
            })
        }
        Err(e) => Err(e),
    }
}

/// The journal of a folder of any known layout, without changing anything.
///
/// # Errors
/// It cannot be read.
pub(crate) fn journal(dir: &Path) -> Result<View, JournalError> {
    match [JOURNAL, MOVING].map(|name| dir.join(name)).into_iter().find(|path| path.is_file()) {
        Some(file) => View::of_file(&file),
        None => View::of_folder(&dir.join(JOURNAL)),
    }
}

/// Brings a folder of an earlier layout to this one; a crash at any point leaves what the next call goes on from. Says
/// whether there was anything to do.
///
/// # Errors
/// The disk refused.
pub(crate) fn migrate(dir: &Path) -> io::Result<bool> {
    let (journal, moving) = (dir.join(JOURNAL), dir.join(MOVING));
    let is_old = journal.is_file() || moving.is_file();
    if journal.is_file() {
        fs::rename(&journal, &moving)?;
        sync_folder(&moving)?;
    }
    if moving.is_file() {
        fs::create_dir_all(&journal)?;
        fs::rename(&moving, journal.join(super::journal::file_name(1)))?;
        sync_folder(&journal.join("x"))?;
        sync_folder(&journal)?;
    }
    if !dir.join(VERSION).is_file() {
        let beside = dir.join("version.new");
        let mut file = fs::File::create(&beside)?;
        writeln!(file, "{LAYOUT}")?;
        file.sync_all()?;
        fs::rename(&beside, dir.join(VERSION))?;
        sync_folder(&beside)?;
    }
    Ok(is_old)
}
