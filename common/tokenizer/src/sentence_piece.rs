//! Models of SentencePiece (Kudo & Richardson, arXiv 1808.06226), rebuilt as tokenizers of the `tokenizers` crate.
//!
//! A model is a list of pieces with scores, of one of two kinds: `unigram` (the pieces whose scores add up to the most) or
//! `bpe` (merges; a piece's score says when it is merged). Spaces are written `▁`.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer};

use crate::TokenizerError;
use crate::charsmap::CharsMap;

/// How a space is written.
const SPACE: &str = "\u{2581}";
/// A model has 4.3 MB at most among those that are read here (Gemma's).
const MOST_BYTES: u64 = 64 << 20;

/// `sentencepiece_model.proto`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    /// What it is: one of the numbers below; an ordinary piece if nothing is said.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    /// 1: unigram, 2: bpe.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
}

/// Reads a model, and what it does to characters first.
pub(crate) fn read(path: &Path) -> Result<(Tokenizer, Option<CharsMap>), TokenizerError> {
    let wrong = |why: String| TokenizerError::unusable(path, why);
    let length = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(wrong(format!("expected at most {MOST_BYTES} bytes, found {length}")));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let model = Model::decode(&*bytes).map_err(|e| wrong(e.to_string()))?;
    if model.pieces.is_empty() {
        return Err(wrong("it has no pieces".to_owned()));
    }
    build(model).map_err(wrong)
}

fn build(model: Model) -> Result<(Tokenizer, Option<CharsMap>), String> {
    let trainer = model.trainer.unwrap_or_default();
    let byte_fallback = trainer.byte_fallback.unwrap_or(false);
    let unknown = model.pieces.iter().position(|piece| piece.kind == Some(UNKNOWN));
    let mut tokenizer = match trainer.model_type.unwrap_or(1) {
        1 => {
            let pieces = model.pieces.iter().map(|p| (p.piece.clone(), f64::from(p.score))).collect();
            Tokenizer::new(Unigram::from(pieces, unknown, byte_fallback).map_err(|e| e.to_string())?)
        }
        2 => Tokenizer::new(bpe(&model.pieces, unknown, byte_fallback)?),
        other => return Err(format!("expected a model of the kind unigram (1) or bpe (2), found {other}")),
    };
    let spec = model.normalizer.unwrap_or_default();
    // The crate's own reader of such maps takes the shortest entry, and a character with its accents as one.
    let map = spec.precompiled_charsmap.filter(|map| !map.is_empty()).map(|map| CharsMap::read(&map)).transpose()?;
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    let replace = |from: &str, to: &str| -> Result<NormalizerWrapper, String> {
        Ok(Replace::new(from, to).map_err(|e| e.to_string())?.into())
    };
    if spec.remove_extra_whitespaces.unwrap_or(true) {
        // Spaces only: other white space is text to SentencePiece, where its map has not made spaces of it.
        for (what, by) in [("^ +| +$", ""), (" {2,}", " ")] {
            steps.push(Replace::new(ReplacePattern::Regex(what.to_owned()), by).map_err(|e| e.to_string())?.into());
        }
    }
    let prefixes = spec.add_dummy_prefix.unwrap_or(true);
    if prefixes {
        steps.push(Prepend::new(SPACE.to_owned()).into());
    }
    steps.push(replace(" ", SPACE)?);
    tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(|e| e.to_string())?;
    let back = Replace::new(SPACE, " ").map_err(|e| e.to_string())?;
    let mut decoders: Vec<DecoderWrapper> = vec![back.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefixes {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    let of = |kinds: &[i32], special: bool| -> Vec<AddedToken> {
        let those = model.pieces.iter().filter(|p| p.kind.is_some_and(|kind| kinds.contains(&kind)));
        those.map(|p| AddedToken::from(p.piece.clone(), special).normalized(false)).collect()
    };
    tokenizer.add_special_tokens(of(&[UNKNOWN, CONTROL], true)).map_err(|e| e.to_string())?;
    tokenizer.add_tokens(of(&[USER_DEFINED], false)).map_err(|e| e.to_string())?;
    Ok((tokenizer, map))
}

/// A model of merges. The file has pieces only: each that is made of two others is a merge, in the order of scores.
fn bpe(pieces: &[Piece], unknown: Option<usize>, byte_fallback: bool) -> Result<BPE, String> {
    let places: HashMap<&str, u32> = pieces.iter().map(|p| p.piece.as_str()).zip(0..).collect();
    let mut merges: Vec<(f32, u32, u32, (String, String))> = Vec::new();
    for piece in pieces.iter().filter(|p| p.kind.unwrap_or(1) == 1) {
        let cuts = piece.piece.char_indices().skip(1).map(|(at, _)| piece.piece.split_at(at));
        for (left, right) in cuts {
            if let (Some(l), Some(r)) = (places.get(left), places.get(right)) {
                merges.push((piece.score, *l, *r, (left.to_owned(), right.to_owned())));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Merges = merges.into_iter().map(|(_, _, _, pair)| pair).collect();
    let vocabulary: Vocab = pieces.iter().map(|p| p.piece.clone()).zip(0..).collect();
    let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true).byte_fallback(byte_fallback);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(pieces[unknown].piece.clone());
    }
    builder.build().map_err(|e| e.to_string())
}
