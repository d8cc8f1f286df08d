//! CLIP's tokenizer from OpenAI's list of merges (Radford et al., arXiv 2103.00020, and its public code): bytes as letters,
//! words that know where they end, and texts that are cleaned first.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::TokenizerError;

/// The file's name.
pub const FILE: &str = "bpe_simple_vocab_16e6.txt.gz";
/// Marks a text's beginning.
pub const BEGIN: &str = "<start_of_text>";
/// Marks a text's end.
pub const END: &str = "<end_of_text>";

/// Merges that count: the file has more.
const MERGES: usize = 49152 - 256 - 2;
/// The file unpacked has 3.2 MB; whoever has more has something else.
const MOST_BYTES: u64 = 16 << 20;
/// What ends a word.
const WORD_END: &str = "</w>";
/// What is a word. Case does not count even in small letters: a long s is one, too.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Reads the merges.
pub(crate) fn read(path: &Path) -> Result<Tokenizer, TokenizerError> {
    let wrong = |why: String| TokenizerError::unusable(path, why);
    let mut text = String::new();
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    GzDecoder::new(file).take(MOST_BYTES).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
    // The first line is a title.
    let pairs = text.lines().skip(1).take(MERGES).map(|line| line.split_once(' '));
    let merges: Option<Vec<(String, String)>> = pairs.map(|p| p.map(|(a, b)| (a.to_owned(), b.to_owned()))).collect();
    let merges = merges.filter(|m| m.len() == MERGES);
    let merges = merges.ok_or_else(|| wrong(format!("expected a title and {MERGES} merges of two tokens each")))?;
    let letters = letters();
    let ends = letters.iter().map(|letter| format!("{letter}{WORD_END}"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let tokens = letters.iter().map(char::to_string).chain(ends).chain(merged);
    let vocabulary: Vocab = tokens.zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).end_of_word_suffix(WORD_END.to_owned()).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| wrong(e.to_string()))?);
    // In place of what is no word there is nothing: the words themselves are what is matched.
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true);
    let words = words.map_err(|e| wrong(e.to_string()))?;
    let parts: Vec<PreTokenizerWrapper> = vec![words.into(), ByteLevel::new(false, false, false).into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = [BEGIN, END].map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special).map_err(|e| wrong(e.to_string()))?;
    Ok(tokenizer)
}

/// The letter that stands for each byte, in the order of the vocabulary: those that can be seen for themselves, then those
/// from 256 on for the rest (Radford et al., GPT-2's public code).
fn letters() -> Vec<char> {
    let seen = || (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff);
    let rest = (0..=255u8).filter(|byte| !seen().any(|s| s == *byte)).count() as u32;
    seen().map(char::from).chain((256..256 + rest).filter_map(char::from_u32)).collect()
}

/// Ids of a text as CLIP's encoder reads it: between a beginning and an end, filled up with zeros to `context`. One that is
/// too long is cut, and its last id is the end.
pub fn padded(ids: &[u32], begin: u32, end: u32, context: usize) -> Vec<u32> {
    let mut all: Vec<u32> = std::iter::once(begin).chain(ids.iter().copied()).chain(std::iter::once(end)).collect();
    if all.len() > context {
        all.truncate(context);
        if let Some(last) = all.last_mut() {
            *last = end;
        }
    }
    all.resize(context, 0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let mut letters = letters();
        assert_eq!((letters.len(), letters[0]), (256, '!'));
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), 256);
    }

    #[test]
    fn texts_are_filled_up_or_cut() {
        assert_eq!(padded(&[5, 6], 1, 2, 6), [1, 5, 6, 2, 0, 0]);
        assert_eq!(padded(&[5, 6, 7], 1, 2, 4), [1, 5, 6, 2]);
    }
}
