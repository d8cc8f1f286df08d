//! What belongs to a level of a factor, and what two groups must share to be set against each other.
//!
//! Both are cut out of the settings' JSON form, so that a setting which is added there must be shared by itself.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::canonical;
use crate::plan::{CellSettings, LoraSettings, MethodSettings, QLoraSettings};
use crate::record::Record;
use crate::spec::{Backbone, Checkpointing, Method};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// Hardware classes.
    Hardware,
    /// Methods, each with its hyper-parameters and its learning rate: full fine-tuning and adapters want other ones.
    Method,
    /// Backbones, each with its input size and its initial weights.
    Backbone,
    /// Checkpointing strategies.
    Checkpointing,
}

impl Factor {
    /// Every factor.
    pub const ALL: [Self; 4] = [Self::Hardware, Self::Method, Self::Backbone, Self::Checkpointing];

    /// The name, as `--by` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Method => "method",
            Self::Backbone => "backbone",
            Self::Checkpointing => "checkpointing",
        }
    }
}

/// A trial's settings, in two.
pub(super) struct Point {
    /// What makes its level.
    pub level: Value,
    /// What must be shared.
    pub rest: Value,
}

/// A level of the factor.
pub(super) struct Level {
    pub key: Value,
    pub name: String,
}

/// Stands for what the campaign did not choose of an adapter, its targets or its dropout: each backbone has its own,
/// and they go with it.
const USUAL: &str = "that of the backbone";

/// The settings as one object, without the seed, with where it ran and how much was evaluated.
pub(super) fn document(settings: &CellSettings, hardware: &str, evaluated: u64) -> Value {
    let mut document = serde_json::to_value(settings).unwrap_or_default();
    if let Value::Object(fields) = &mut document {
        fields.remove("seed");
        fields.insert("hardware".to_owned(), hardware.into());
        fields.insert("evaluated".to_owned(), evaluated.into());
    }
    if let Some(targets) = settings.method.targets() {
        let mut usual: Vec<&str> = settings.backbone.lora_targets().to_vec();
        usual.sort_unstable();
        if *targets == *usual {
            document["method"]["targets"] = USUAL.into();
        }
    }
    if let MethodSettings::Lora(LoraSettings { dropout, .. }) | MethodSettings::QLora(QLoraSettings { dropout, .. }) =
        &settings.method
        && *dropout == settings.backbone.lora_dropout()
    {
        document["method"]["dropout"] = USUAL.into();
    }
    document
}

/// Cuts a trial's settings in two.
pub(super) fn split(factor: Factor, record: &Record) -> Point {
    let mut rest = document(&record.settings, record.machine.hardware.as_str(), record.training.evaluated);
    let taken: &[&[&str]] = match factor {
        Factor::Hardware => &[&["hardware"]],
        Factor::Method => &[&["method"], &["train", "learning_rate"]],
        // From a file or from scratch must be shared; which file cannot be.
        Factor::Backbone => &[&["backbone"], &["image_size"], &["weights", "sha256"]],
        Factor::Checkpointing => &[&["checkpointing"], &["adaptive_ratio"], &["planned_margin"]],
    };
    let level: Map<String, Value> =
        taken.iter().filter_map(|path| Some((path.join("."), take(&mut rest, path)?))).collect();
    Point { level: Value::Object(level), rest }
}

/// Removes what stands at a path.
pub(super) fn take(from: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut at = from;
    for name in parents {
        at = at.get_mut(*name)?;
    }
    at.as_object_mut()?.remove(*last)
}

/// The levels that occur, in the order of tables, each under a name of its own.
pub(super) fn levels(factor: Factor, points: &[(Point, &Record)]) -> Vec<Level> {
    let mut found: Vec<(usize, String, Level)> = Vec::new();
    for (point, record) in points {
        if !found.iter().any(|(_, _, l)| l.key == point.level) {
            let (place, name) = base(factor, record);
            found.push((place, canonical::json(&point.level), Level { key: point.level.clone(), name }));
        }
    }
    found.sort_by(|a, b| (a.0, &a.2.name, &a.1).cmp(&(b.0, &b.2.name, &b.1)));
    let mut levels: Vec<Level> = found.into_iter().map(|(_, _, level)| level).collect();
    let names: Vec<String> = levels
        .iter()
        .map(|level| {
            let twins: Vec<&Value> =
                levels.iter().filter(|o| o.name == level.name && o.key != level.key).map(|o| &o.key).collect();
            let details = details(&level.key, &twins);
            if details.is_empty() { level.name.clone() } else { format!("{} ({})", level.name, details.join(", ")) }
        })
        .collect();
    levels.iter_mut().zip(names).for_each(|(level, name)| level.name = name);
    levels
}

/// Place among the levels, and the name without what tells it from others of that name.
fn base(factor: Factor, record: &Record) -> (usize, String) {
    fn among<T: PartialEq>(all: &[T], one: &T) -> usize {
        all.iter().position(|x| x == one).unwrap_or(all.len())
    }
    let s = &record.settings;
    match factor {
        Factor::Hardware => (0, record.machine.hardware.to_string()),
        Factor::Method => (among(&Method::ALL, &s.method.method()), s.method.method().name().to_owned()),
        Factor::Backbone => {
            let place = Backbone::all().position(|b| b == s.backbone);
            (place.unwrap_or(usize::MAX), s.backbone.name().to_owned())
        }
        Factor::Checkpointing => (among(&Checkpointing::ALL, &s.checkpointing), s.checkpointing.name().to_owned()),
    }
}

/// What tells a level from its twins, in words.
fn details(of: &Value, twins: &[&Value]) -> Vec<String> {
    let others: Vec<Vec<(String, Value)>> = twins.iter().map(|t| flat(t)).collect();
    let mut out = Vec::new();
    for (path, value) in flat(of) {
        if others.iter().all(|o| o.contains(&(path.clone(), value.clone()))) {
            continue;
        }
        let name = path.rsplit('.').next().unwrap_or(&path).replace('_', " ");
        out.push(match &value {
            Value::String(hash) if name == "sha256" => format!("weights {}", hash.get(..8).unwrap_or(hash)),
            Value::String(text) => format!("{name} {text}"),
            Value::Array(items) => {
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                format!("{name} {}", words.join(" "))
            }
            other => format!("{name} {other}"),
        });
    }
    if out.is_empty() && !twins.is_empty() && of.get("weights.sha256").is_none() && of.get("backbone").is_some() {
        out.push("from scratch".to_owned());
    }
    out
}

/// The leaves of a document by path, such as `train.batch`, in order.
pub(super) fn flat(document: &Value) -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, field, out);
                }
            }
            leaf => out.push((path.to_owned(), leaf.clone())),
        }
    }
    let mut out = Vec::new();
    walk("", document, &mut out);
    out
}

/// What tables show of a group, without the factor: groups that agree in it look alike.
pub(super) fn looks(factor: Factor, settings: &CellSettings, hardware: &str) -> String {
    let mut looks = json!({
        "hardware": hardware, "method": settings.method.method(), "backbone": settings.backbone,
        "checkpointing": settings.checkpointing, "dataset": settings.dataset.name
    });
    take(&mut looks, &[factor.name()]);
    canonical::json(&looks)
}

/// The SHA-256 of the initial weights, if they came from a file.
pub(super) fn weights_hash(settings: &CellSettings) -> Option<&str> {
    settings.weights.sha256()
}
