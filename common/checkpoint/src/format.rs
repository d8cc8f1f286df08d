//! Which kind of weights file: decided by content, because names differ from publisher to publisher.

use std::path::Path;

use crate::error::{CheckpointError, Read};
use crate::source::Source;

/// Kinds of weights files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A length, a header of JSON, numbers.
    Safetensors,
    /// What `torch.save` writes since 1.6: a zip archive with a pickle and a file per storage.
    Zip,
    /// What `torch.save` wrote before: pickles, and then the storages.
    Legacy,
}

/// How a zip archive begins.
const ZIP: &[u8] = b"PK\x03\x04";

impl Format {
    /// What the file at `path` is, judged by its first bytes; `None` where it begins like none of them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(path: &Path) -> Result<Option<Self>, CheckpointError> {
        Source::open(path).and_then(|source| Self::sniff(&source)).map_err(|fault| fault.in_file(path))
    }

    /// Whether [`Checkpoint`](crate::Checkpoint) reads it.
    pub fn is_pickle(self) -> bool {
        matches!(self, Self::Zip | Self::Legacy)
    }

    pub(crate) fn sniff(source: &Source) -> Read<Option<Self>> {
        let head = source.read(0, source.len().min(9))?;
        // A header's length may look like the beginning of a pickle, but a pickle has no brace there.
        Ok(match head.as_slice() {
            [_, _, _, _, _, _, _, _, b'{'] => Some(Self::Safetensors),
            start if start.starts_with(ZIP) => Some(Self::Zip),
            [0x80, 2..=5, ..] => Some(Self::Legacy),
            _ => None,
        })
    }
}
