//! Kind `tokenizer`: token ids of texts, in `vectors.json`.

use std::path::Path;

use anyhow::Context as _;
use fleet_tokenizer::{Tokenizer, TokenizerError};
use serde::Deserialize;

use super::VerifyError;
use super::compare::Checks;

/// Where CLIP's merges are, if not in the folder: they come in open_clip's package, and are in no model's folder.
const MERGES: &str = "FLEET_CLIP_MERGES";

#[derive(Deserialize)]
struct Vectors {
    /// What marks a beginning, where ids have it.
    sot: Option<i64>,
    /// What marks an end; a text that is cut ends in it, too.
    eot: Option<i64>,
    /// Most ids of a text.
    context_length: Option<usize>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<i64>,
    /// What the ids are decoded to, where that was asked.
    back: Option<String>,
}

pub(super) fn run(dir: &Path, checks: &mut Checks) -> Result<(), VerifyError> {
    let text = std::fs::read(dir.join("vectors.json")).context("cannot read vectors.json")?;
    let vectors: Vectors = serde_json::from_slice(&text).context("vectors.json is not what it should be")?;
    let tokenizer = match (Tokenizer::open(dir), std::env::var_os(MERGES)) {
        (Ok(tokenizer), _) => tokenizer,
        (Err(TokenizerError::Absent { .. }), Some(file)) => {
            let folder = Path::new(&file).parent().unwrap_or(Path::new("."));
            Tokenizer::open(folder).map_err(|e| VerifyError::Unsupported(e.to_string()))?
        }
        (Err(error), _) => {
            return Err(VerifyError::Unsupported(format!(
                "{error}; for CLIP's, {MERGES} names the bpe_simple_vocab_16e6.txt.gz of open_clip's package"
            )));
        }
    };
    for case in &vectors.cases {
        let mut ids: Vec<i64> = vectors.sot.into_iter().collect();
        ids.extend(tokenizer.encode(&case.text).map_err(anyhow::Error::from)?.into_iter().map(i64::from));
        if let (Some(most), Some(_)) = (vectors.context_length, vectors.eot) {
            ids.truncate(most - 1);
        }
        ids.extend(vectors.eot);
        // What is behind the first end, a model does not read.
        if let Some(end) = vectors.eot.and_then(|eot| ids.iter().position(|id| *id == eot)) {
            ids.truncate(end + 1);
        }
        checks.equal(&format!("ids of {:?}", case.text), &ids, &case.ids);
        if let Some(back) = &case.back {
            let ids: Vec<u32> = case.ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
            checks.equal(&format!("back to {back:?}"), &tokenizer.decode(&ids).map_err(anyhow::Error::from)?, back);
        }
    }
    Ok(())
}
