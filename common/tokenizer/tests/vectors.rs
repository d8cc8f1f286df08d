//! Against SentencePiece's own ids of the models in `samples` (`make.py` there made both), and open_clip's.

use std::path::{Path, PathBuf};

use fleet_tokenizer::{Tokenizer, TokenizerError, clip};
use serde_json::Value;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

/// A folder with this file under this name.
fn folder(file: &Path, name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(file, dir.path().join(name)).expect("copies");
    dir
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|n| n as u32).collect()
}

#[test]
fn sentence_piece_models_give_the_ids_that_sentence_piece_gives() {
    let text = std::fs::read_to_string(samples().join("vectors.json")).expect("vectors");
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    for (model, cases) in vectors.as_object().expect("models") {
        let dir = folder(&samples().join(format!("{model}.model")), "tokenizer.model");
        let tokenizer = Tokenizer::open(dir.path()).expect("opens");
        for case in cases.as_array().expect("cases") {
            let text = case["text"].as_str().expect("a text");
            // SentencePiece reads its own control symbols as text; tokenizers of models see them as what they are.
            if text.contains("<s>") {
                continue;
            }
            let found = tokenizer.encode(text).expect("reads");
            assert_eq!(found, ids(&case["ids"]), "{model}: {text:?}");
            let back = case["back"].as_str().expect("a text");
            // Where SentencePiece shows that it does not know something, there is nothing here.
            if !back.contains('\u{2047}') {
                assert_eq!(tokenizer.decode(&found).expect("decodes"), back, "{model}: {text:?}");
            }
        }
        assert_eq!(tokenizer.id("<s>"), Some(1));
    }
}

/// With open_clip's list of merges, where `FLEET_CLIP_MERGES` names one: it is not kept here.
#[test]
fn clip_gives_the_ids_that_open_clip_gives() {
    let Some(merges) = std::env::var_os("FLEET_CLIP_MERGES") else {
        println!("not run: FLEET_CLIP_MERGES does not name open_clip's {}", clip::FILE);
        return;
    };
    let tokenizer = Tokenizer::open(folder(Path::new(&merges), clip::FILE).path()).expect("opens");
    let fixture = samples().join("open_clip.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(fixture).expect("vectors")).expect("JSON");
    let [begin, end] = [clip::BEGIN, clip::END].map(|token| tokenizer.id(token).expect("there"));
    assert_eq!((u64::from(begin), u64::from(end)), (49406, 49407));
    let context = vectors["context_length"].as_u64().expect("a number") as usize;
    let mut cases = vectors["cases"].as_array().expect("cases").clone();
    cases.push(vectors["truncated"].clone());
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let found = clip::padded(&tokenizer.encode(text).expect("reads"), begin, end, context);
        // The fixture's are cut behind the first end; what is behind that is not read.
        let expected = ids(&case["ids"]);
        assert_eq!(found[..expected.len()], expected, "{text:?}");
    }
}

#[test]
fn what_is_no_tokenizer_says_what_was_expected() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = Tokenizer::open(dir.path()).expect_err("empty");
    assert!(matches!(error, TokenizerError::Absent { .. }) && error.to_string().contains("spiece.model"), "{error}");
    for name in ["spiece.model", "tokenizer.model", "tokenizer.json", clip::FILE] {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(name), b"\x0a\x05nonsense").expect("writes");
        let error = Tokenizer::open(dir.path()).expect_err("nonsense").to_string();
        assert!(error.contains(name) && error.contains("Fetch it again"), "{error}");
    }
}
