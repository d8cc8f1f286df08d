//! Why a store did not do what it was asked.

use std::path::{Path, PathBuf};

use crate::name::{Name, Sha256};

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one.
    #[error(
        "expected the address of a store, such as file:///srv/fleet or s3://bucket/prefix, found \"{found}\"{hint}"
    )]
    Address {
        /// What was given, without secrets.
        found: String,
        /// What may have been meant.
        hint: String,
    },
    /// The store cannot be opened.
    #[error("the store {store} cannot be opened: {why}")]
    Open {
        /// Which.
        store: String,
        /// Why.
        why: String,
    },
    /// It is not there.
    #[error("{name} is not in the store {store}; it was removed, or put into another store")]
    Absent {
        /// What.
        name: Name,
        /// Where.
        store: String,
    },
    /// What is there, or was to be put there, is not what its name says.
    #[error("{name} is damaged: expected content with the SHA-256 of its name, found {found} ({bytes} bytes)")]
    Damaged {
        /// What.
        name: Name,
        /// Hash of what is there.
        found: Sha256,
        /// Length of it.
        bytes: u64,
    },
    /// It is larger than such a file is.
    #[error("{name} in the store {store} has {bytes} bytes; expected at most {most}")]
    TooLarge {
        /// What.
        name: String,
        /// Where.
        store: String,
        /// Bytes that it may have.
        most: u64,
        /// Bytes that it has.
        bytes: u64,
    },
    /// Nobody is let in.
    #[error(
        "the store {store} refuses: {why}; expected credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in \
         the file that AWS_SHARED_CREDENTIALS_FILE names (~/.aws/credentials), that may read and write there"
    )]
    Refused {
        /// Which.
        store: String,
        /// Why.
        why: String,
    },
    /// It does not answer, or fails.
    #[error("the store {store} does not work now: {why}")]
    Unavailable {
        /// Which.
        store: String,
        /// Why.
        why: String,
    },
    /// A file here cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl StoreError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
