//! Data sets and weights by content: what they consist of, and a folder that keeps it by hash.
//!
//! | module | what it holds |
//! |---|---|
//! | [`item`] | what a cell names: a data set or published model by fingerprint, weights by SHA-256 |
//! | [`manifest`] | the files that an item consists of, with sizes and hashes |
//! | [`folder`] | a folder of blobs and items, the same on the coordinator, on agents and on a shared disk |
//! | [`partial`] | a blob on its way: checked while it is written, gone on with after a break |
//! | [`local`] | the manifest of what lies in a data or weights folder |
//! | `work` | places to work in, swept up after processes that were killed |

pub mod folder;
pub mod item;
pub mod local;
pub mod manifest;
pub mod partial;
mod work;

use std::io;
use std::path::{Path, PathBuf};

pub use folder::Folder;
pub use item::{Digest, Item};
pub use local::Local;
pub use manifest::{Entry, Manifest, RelativePath};
pub use partial::{Finished, Partial};

/// Why content cannot be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A manifest is not what it should be.
    #[error("a manifest is refused: {0}")]
    Manifest(String),
    /// No room.
    #[error("{path}: the disk is full; make room there, then try again")]
    DiskFull {
        /// What was written.
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
    /// More bytes came than the blob has.
    #[error("blob {sha256}: expected {expected} bytes, more came")]
    TooLong {
        /// The blob.
        sha256: Digest,
        /// Its length.
        expected: u64,
    },
    /// All files are there, and together they are not what they are said to be.
    #[error("the files of {item} are not it: {why}")]
    Differs {
        /// What they should be.
        item: Item,
        /// How they differ.
        why: String,
    },
    /// What lies here cannot be read as the data set that it is called.
    #[error(transparent)]
    Dataset(#[from] fleet_dataset::DatasetError),
}

impl ContentError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), action, source },
        }
    }
}
