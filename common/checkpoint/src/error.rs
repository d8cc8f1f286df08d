//! Why a checkpoint could not be read.

use std::path::{Path, PathBuf};

/// Why a checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system could not read the file.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file contradicts itself, or goes beyond what is read.
    #[error("{path}, byte {place}: {problem}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// The byte, and of what, where it is not of the file itself.
        place: String,
        /// What was expected, what was found and what to do.
        problem: String,
    },
    /// The file was read, but does not hold what was asked for.
    #[error("{path}: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What was expected, what was found and what to do.
        problem: String,
    },
    /// Several files could be meant.
    #[error(
        "{one} and {other} are both there, and either could be meant; keep the one that is, and move the other away"
    )]
    Ambiguous {
        /// The one.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
}

/// What went wrong at a byte, before anybody has said in which file.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(std::io::Error),
    /// A byte of the file, or of the unpacked entry `of`.
    At {
        offset: u64,
        of: Option<String>,
        problem: String,
    },
}

/// What reading gives.
pub(crate) type Read<T> = Result<T, Fault>;

impl Fault {
    /// A fault at byte `offset` of the file.
    pub(crate) fn at(offset: u64, problem: impl Into<String>) -> Self {
        Self::At { offset, of: None, problem: problem.into() }
    }

    /// Says that bytes are counted from the beginning of `entry`.
    pub(crate) fn within(self, entry: &str) -> Self {
        match self {
            Self::At { offset, problem, .. } => Self::At { offset, of: Some(entry.to_owned()), problem },
            io @ Self::Io(_) => io,
        }
    }

    /// Says in which file.
    pub(crate) fn in_file(self, path: &Path) -> CheckpointError {
        match self {
            Self::Io(source) => CheckpointError::Io { path: path.into(), source },
            Self::At { offset, of, problem } => {
                let place = of.map_or_else(|| offset.to_string(), |entry| format!("{offset} of its {entry}"));
                CheckpointError::Format { path: path.into(), place, problem }
            }
        }
    }
}
