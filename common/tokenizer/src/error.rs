//! Why a text has no ids.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// There is no tokenizer.
    #[error(
        "{dir} has no tokenizer: expected tokenizer.json, tokenizer.model, spiece.model or {}, as the model's publisher has \
         it beside the weights",
        crate::clip::FILE
    )]
    Absent {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The file is not what its name says.
    #[error("{path} cannot be used as a tokenizer: {why}. Fetch it again")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A text cannot be read.
    #[error("the tokenizer cannot read a text: {0}")]
    Text(String),
}

impl TokenizerError {
    pub(crate) fn unusable(path: &Path, why: impl Display) -> Self {
        Self::Unusable { path: path.to_owned(), why: why.to_string() }
    }
}
