//! Why a file did not get here: every error says what was expected, what was found and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::content::{Size, Wrong};

/// Why a file did not get here.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The address is none.
    #[error("\"{url}\" is not an address that can be fetched: {message}; expected http:// or https:// and a host")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The server answered, but with something else than the file.
    #[error("{url}: expected the file, the server answered {status}. {help}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status, with its usual name.
        status: String,
        /// What to do.
        help: &'static str,
    },
    /// What the server has is too long or too short to be the file; nothing of it was kept.
    #[error(
        "{url}: expected {expected}, the server {said}. It is another file, or a page in place of it: look at the \
         address in a browser, or name another one with --from"
    )]
    Length {
        /// What was asked for.
        url: String,
        /// What the file has.
        expected: Size,
        /// What the server said or did.
        said: String,
    },
    /// The connection broke, and did so again and again.
    #[error("{url}: {reason}; tried {tries} times without getting on. {kept}")]
    Broken {
        /// What was asked for.
        url: String,
        /// What happened last.
        reason: String,
        /// How often in a row.
        tries: u32,
        /// What is kept, and what to do.
        kept: String,
    },
    /// No connection can be made at all, whatever one tries.
    #[error("{url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// All of it came, and is not what it must be.
    #[error(
        "{url}: what came is not the file: {wrong}. It was thrown away; what was here before is untouched. Either the \
         file was replaced at its source, or something between here and there changed it"
    )]
    Wrong {
        /// What was asked for.
        url: String,
        /// How it differs.
        wrong: Wrong,
    },
    /// No room.
    #[error("{path}: the disk is full. What has come is kept; make room, then the same command goes on")]
    DiskFull {
        /// What was written.
        path: PathBuf,
    },
    /// Another command fetches the same file.
    #[error("{path} is being written by another command; wait for it, or end it")]
    Busy {
        /// The file that both want.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// On what.
        path: PathBuf,
        /// What was to be done, such as "write it".
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// An archive or a weights file is not what it should be.
    #[error("{path}: {message}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// Expected, found, and what to do.
        message: String,
    },
    /// A checkpoint is not what it should be.
    #[error(transparent)]
    Checkpoint(#[from] fleet_checkpoint::CheckpointError),
}

impl DownloadError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), action, source },
        }
    }

    pub(crate) fn layout(path: &Path, message: impl Into<String>) -> Self {
        Self::Layout { path: path.to_owned(), message: message.into() }
    }
}
