//! Settings in words: what all trials of a comparison share, and what tells one row from another.
//!
//! Everything is read off the settings' own JSON form, so a method or a setting that is added there appears here by
//! itself and none can be forgotten.

use std::collections::BTreeMap;

use fleet_common::plan::{CellSettings, KnnSettings, MethodSettings, WeightsRef};
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

/// The sentences of zero-shot classification.
const TEMPLATES: &str = "method.templates";
/// What only those have that train.
const TRAIN: &str = "train.";

/// The settings by path.
pub(super) fn flat(settings: &CellSettings) -> Flat {
    let mut out = Flat::new();
    if let Ok(value) = serde_json::to_value(settings) {
        flatten("", &value, &mut out);
    }
    out.remove("seed");
    // What a published model sees is its folder's processor's to say.
    if settings.train.is_none() {
        out.remove("image_size");
    }
    if let MethodSettings::Knn(KnnSettings { temperature: None, .. }) = settings.method {
        out.insert("method.temperature".to_owned(), "none".to_owned());
    }
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
        Value::Array(items) if path == TEMPLATES => {
            let sentences: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            format!("{}: {}", sentences.len(), sentences.join(" | "))
        }
        Value::Array(items) => {
            let words = items.iter().map(|item| match item {
                Value::String(s) => s.clone(),
                Value::Number(n) => number(path, n),
                other => other.to_string(),
            });
            words.collect::<Vec<_>>().join(" ")
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

/// Whether there are settings of training among them.
fn trains(flat: &Flat) -> bool {
    flat.keys().any(|path| path.starts_with(TRAIN))
}

/// Whether only what is trained has this setting.
fn of_training(path: &str) -> bool {
    path.starts_with(TRAIN) || path == "image_size"
}

/// Whether all that could have this setting have it with this value.
fn shared(path: &str, value: &str, all: &[Flat]) -> bool {
    let mut others = all.iter().filter(|other| !of_training(path) || trains(other));
    others.all(|other| other.get(path).is_some_and(|v| v == value))
}

/// A setting in words.
fn phrase(path: &str, value: &str) -> String {
    match (path, value) {
        (TEMPLATES, _) => match value.split(':').next() {
            Some("1") | None => "one template".to_owned(),
            Some(n) => format!("{n} templates"),
        },
        ("method.prompt", _) => format!("prompt “{value}”"),
        ("method.new_tokens", _) => format!("answers of at most {value} tokens"),
        ("method.k", _) => format!("{value} neighbours"),
        ("method.temperature", "none") => "whose votes weigh the same".to_owned(),
        ("method.rates", _) => {
            let rates: Vec<&str> = value.split_whitespace().collect();
            match rates[..] {
                [first, .., last] => format!("the best of {} rates from {first} to {last}", rates.len()),
                _ => format!("rate {value}"),
            }
        }
        ("method.batch" | "method.steps", _) => format!("probe's {} {value}", name(path)),
        ("method.held_back", _) => format!("{value} of each class held back"),
        _ => format!("{} {value}", name(path)),
    }
}

/// What all have in common, in words; empty if there are none.
pub(super) fn common(all: &[Flat]) -> Vec<String> {
    let mixed = all.iter().any(trains) && !all.iter().all(trains);
    let words = |path: &str, value: &str| match of_training(path) && mixed {
        true => format!("training {}", phrase(path, value)),
        false => phrase(path, value),
    };
    let Some(first) = all.iter().find(|flat| trains(flat)).or_else(|| all.first()) else { return Vec::new() };
    first
        .iter()
        .filter(|(path, value)| {
            !SHOWN_ELSEWHERE.contains(&path.as_str()) && !path.starts_with("method.") && shared(path, value, all)
        })
        .map(|(path, value)| words(path, value))
        .collect()
}

/// What is particular to one of them, in words: its method's hyper-parameters, and whatever differs between them.
pub(super) fn particular(of: &Flat, all: &[Flat]) -> Vec<String> {
    of.iter()
        .filter(|(path, value)| {
            !SHOWN_ELSEWHERE.contains(&path.as_str()) && (path.starts_with("method.") || !shared(path, value, all))
        })
        .map(|(path, value)| phrase(path, value))
        .collect()
}

/// What tells `of` from others of the same name: every differing setting, hashes cut short.
pub(super) fn distinction(of: &Flat, others: &[&Flat]) -> Vec<String> {
    of.iter()
        .filter(|(path, value)| others.iter().any(|other| other.get(*path) != Some(value)))
        .map(|(path, value)| match path.as_str() {
            "weights.sha256" => format!("weights {}", short(value)),
            "weights.from" if value == "file" => "from a file".to_owned(),
            "weights.from" if value == "folder" => "as published".to_owned(),
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
        WeightsRef::Folder { sha256 } => format!("published {}", short(sha256)),
    }
}

/// The strategy of checkpointing in a word; "–" where nothing is trained, and so nothing kept for going back.
pub(super) fn checkpointing(settings: &CellSettings) -> &'static str {
    settings.train.as_ref().map_or("–", |_| settings.checkpointing.name())
}

/// A backbone's name without the input size that timm appends: `vit_tiny_patch16_224` → `vit_tiny`.
pub(super) fn brief_backbone(name: &str) -> &str {
    name.split("_patch").next().unwrap_or(name)
}
