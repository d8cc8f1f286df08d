//! Text → token ids, and back, from whichever files a published model brings.
//!
//! | file | read by |
//! |---|---|
//! | `tokenizer.json` | the `tokenizers` crate, as it is |
//! | `tokenizer.model`, `spiece.model` | [`sentence_piece`]: rebuilt as one of that crate, behind its map of characters |
//! | `bpe_simple_vocab_16e6.txt.gz` | [`clip`]: OpenAI's merges, as open_clip brings them |

mod charsmap;
mod clean;
pub mod clip;
mod error;
pub mod sentence_piece;

use std::borrow::Cow;
use std::path::Path;

use charsmap::CharsMap;
pub use error::TokenizerError;
use tokenizers::Tokenizer as Inner;

/// A tokenizer of a published model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    first: First,
}

/// What is done to a text before it is read.
#[derive(Debug, Clone)]
enum First {
    /// Nothing.
    Nothing,
    /// It is cleaned as open_clip does.
    Cleaned,
    /// Characters become others, as a model of SentencePiece says.
    Mapped(CharsMap),
}

impl Tokenizer {
    /// The tokenizer in the folder of a model: the first of the files above that is there.
    ///
    /// # Errors
    /// None is there, or the one that is cannot be read.
    pub fn open(dir: &Path) -> Result<Self, TokenizerError> {
        let there = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        if let Some(path) = there("tokenizer.json") {
            let inner = Inner::from_file(&path).map_err(|e| TokenizerError::unusable(&path, e))?;
            return Ok(Self { inner, first: First::Nothing });
        }
        if let Some(path) = there("tokenizer.model").or_else(|| there("spiece.model")) {
            let (inner, map) = sentence_piece::read(&path)?;
            return Ok(Self { inner, first: map.map_or(First::Nothing, First::Mapped) });
        }
        if let Some(path) = there(clip::FILE) {
            return Ok(Self { inner: clip::read(&path)?, first: First::Cleaned });
        }
        Err(TokenizerError::Absent { dir: dir.to_owned() })
    }

    /// The ids of a text, without any that mark its beginning or end.
    ///
    /// # Errors
    /// The model has no token for something in it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let text = match &self.first {
            First::Nothing => Cow::Borrowed(text),
            First::Cleaned => Cow::Owned(clean::cleaned(text)),
            First::Mapped(map) => Cow::Owned(map.apply(text)),
        };
        let encoding = self.inner.encode(text.as_ref(), false);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| TokenizerError::Text(e.to_string()))
    }

    /// The text of some ids, without those that mean no text.
    ///
    /// # Errors
    /// An id is none of the vocabulary's.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(|e| TokenizerError::Text(e.to_string()))
    }

    /// The id of a token, such as `<image>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How many kinds of tokens there are.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
