//! What can be wrong with a data set: every error says where, what was found, what was expected and what to do.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Why a data set cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Nothing is where the data set should be.
    #[error("{name} is not there. Looked for {looked}. {found}. {help}")]
    Missing {
        /// The data set's name.
        name: String,
        /// The paths that were tried, joined with " and ".
        looked: String,
        /// What the folder holds instead.
        found: String,
        /// How to get the data set.
        help: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// On what.
        path: PathBuf,
        /// What was to be done, such as "read it".
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Files are there, but not as the layout has them.
    #[error("{place}: {message}")]
    Layout {
        /// A file or folder, with a line number or byte offset where there is one.
        place: String,
        /// Expected, found, and what to do.
        message: String,
    },
    /// An image cannot be decoded.
    #[error("{path}: {message}")]
    Image {
        /// The image.
        path: PathBuf,
        /// Expected, found, and what to do.
        message: String,
    },
}

impl DatasetError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn layout(path: &Path, message: impl Into<String>) -> Self {
        Self::Layout { place: path.display().to_string(), message: message.into() }
    }

    /// An error on a line of a text file, counted from 1.
    pub(crate) fn line(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self::Layout { place: format!("{}:{line}", path.display()), message: message.into() }
    }

    pub(crate) fn missing(name: &str, looked: &[PathBuf], folder: &Path, help: &str) -> Self {
        let looked: Vec<String> = looked.iter().map(|p| p.display().to_string()).collect();
        Self::Missing {
            name: name.to_owned(),
            looked: looked.join(" and "),
            found: listing(folder),
            help: help.to_owned(),
        }
    }
}

/// One sentence on what a folder holds, short enough for an error message.
pub(crate) fn listing(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return format!("There is no folder {}", folder.display());
        }
        Err(error) => return format!("{} cannot be listed: {error}", folder.display()),
    };
    let mut names: Vec<String> = entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into())).collect();
    names.sort();
    if names.is_empty() {
        return format!("{} is empty", folder.display());
    }
    let mut text = format!("{} holds {}", folder.display(), names[..names.len().min(SHOWN)].join(", "));
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}
