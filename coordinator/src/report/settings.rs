//! Settings in words: what all trials of a comparison share, and what tells one row from another.
//!
//! Everything is read off the settings' own JSON form, so a method or a setting that is added there appears here by
//! itself and none can be forgotten.

use std::collections::BTreeMap;

use fleet_common::plan::{CellSettings, WeightsRef};
use serde_json::Value;

/// Settings by path, such as `train.batch` → `32`, without the seed.
pub(super) type Flat = BTreeMap<String, String>;

/// Paths that tables show in columns of their own, or that say nothing to a reader.
const SHOWN_ELSEWHERE: [&str; 8] = [
    "backbone",
    "checkpointing",
    "definition",
    "method.name",
    "dataset.name",
    "dataset.fingerprint",
    "weights.from",
    "weights.sha256",
];

/// The settings by path.
pub(super) fn flat(settings: &CellSettings) -> Flat {
    let mut out = Flat::new();
    if let Ok(value) = serde_json::to_value(settings) {
        flatten("", &value, &mut out);
    }
    out.remove("seed");
    out
}

/// A document of settings by path, all of it.
pub(super) fn flat_document(document: &Value) -> Flat {
    let mut out = Flat::new();
    flatten("", document, &mut out);
    out
}

/// A setting's value as tables show it.
pub(super) fn word(path: &str, value: &Value) -> String {
    let mut out = Flat::new();
    flatten(path, value, &mut out);
    let words: Vec<&str> = out.values().map(|v| short(v)).collect();
    words.join(" ")
}

fn flatten(path: &str, value: &Value, out: &mut Flat) {
    let text = match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&inner, field, out);
            }
            return;
        }
        Value::Null => "none".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Number(n) => number(path, n),
        Value::String(s) => s.clone(),
        Value::Array(items) => {
            items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned)).collect::<Vec<_>>().join(" ")
        }
    };
    out.insert(path.to_owned(), text);
}

fn number(path: &str, n: &serde_json::Number) -> String {
    match (n.as_u64(), n.as_f64()) {
        (Some(bytes), _) if path.ends_with("_bytes") => fleet_common::units::Bytes(bytes).to_string(),
        (None, Some(x)) if x != 0.0 && x.abs() < 0.01 => format!("{x:e}"),
        (None, Some(x)) => x.to_string(),
        _ => n.to_string(),
    }
}

/// A path as readers know it: `train.learning_rate` → "learning rate".
pub(super) fn name(path: &str) -> String {
    match path {
        "evaluated" => "images evaluated".to_owned(),
        "dataset.fingerprint" => "data of content".to_owned(),
        "weights.from" => "initial weights from".to_owned(),
        "weights.sha256" => "initial weights".to_owned(),
        "evaluate.batch" => "evaluation batch".to_owned(),
        "evaluate.limit" => "at most this many images evaluated".to_owned(),
        "budget_bytes" => "memory budget".to_owned(),
        "image_size" => "image side".to_owned(),
        "dataset.classes" => "classes".to_owned(),
        _ => path.rsplit('.').next().unwrap_or(path).replace('_', " "),
    }
}

/// What all have in common, in words; empty if there are none.
pub(super) fn common(all: &[Flat]) -> Vec<String> {
    let Some(first) = all.first() else { return Vec::new() };
    let shared = |path: &String, value: &String| all.iter().all(|other| other.get(path) == Some(value));
    first
        .iter()
        .filter(|(path, value)| {
            !SHOWN_ELSEWHERE.contains(&path.as_str()) && !path.starts_with("method.") && shared(path, value)
        })
        .map(|(path, value)| format!("{} {value}", name(path)))
        .collect()
}

/// What is particular to one of them, in words: its method's hyper-parameters, and whatever differs between them.
pub(super) fn particular(of: &Flat, all: &[Flat]) -> Vec<String> {
    of.iter()
        .filter(|(path, value)| {
            !SHOWN_ELSEWHERE.contains(&path.as_str())
                && (path.starts_with("method.") || all.iter().any(|other| other.get(*path) != Some(value)))
        })
        .map(|(path, value)| format!("{} {value}", name(path)))
        .collect()
}

/// What tells `of` from others of the same name: every differing setting, hashes cut short.
pub(super) fn distinction(of: &Flat, others: &[&Flat]) -> Vec<String> {
    of.iter()
        .filter(|(path, value)| others.iter().any(|other| other.get(*path) != Some(value)))
        .map(|(path, value)| match path.as_str() {
            "weights.sha256" => format!("weights {}", short(value)),
            "weights.from" if value == "file" => "from a file".to_owned(),
            "weights.from" => "from scratch".to_owned(),
            _ => format!("{} {}", name(path), short(value)),
        })
        .collect()
}

/// The first digits of a hash; anything else whole.
pub(super) fn short(text: &str) -> &str {
    let is_hash = text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash { &text[..8] } else { text }
}

/// Initial weights in a word.
pub(super) fn weights(settings: &CellSettings) -> String {
    match &settings.weights {
        WeightsRef::Scratch => "from scratch".to_owned(),
        WeightsRef::File { sha256 } => format!("weights {}", short(sha256)),
    }
}

/// A backbone's name without the input size that timm appends: `vit_tiny_patch16_224` → `vit_tiny`.
pub(super) fn brief_backbone(name: &str) -> &str {
    name.split("_patch").next().unwrap_or(name)
}
