//! On which slots a campaign's trials may run, and how much of a shared fleet it gets: the file's `priority` and
//! `[select]`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Axis;
use crate::tags::is_word;
use crate::units::Bytes;

/// How much of a fleet a campaign gets beside others. Each step doubles its share; nobody's share is nothing, so that a
/// small campaign ends however large its neighbours are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Priority(i8);

impl Priority {
    /// The lowest and the highest.
    pub const BOUNDS: (i8, i8) = (-4, 4);

    /// The number.
    pub const fn get(self) -> i8 {
        self.0
    }

    /// The share beside a campaign of priority 0.
    pub fn weight(self) -> f64 {
        f64::from(self.0).exp2()
    }
}

impl TryFrom<i64> for Priority {
    type Error = String;
    fn try_from(n: i64) -> Result<Self, String> {
        let (low, high) = Self::BOUNDS;
        let wrong = || {
            format!(
                "expected \"low\" (-1), \"normal\" (0), \"high\" (1) or a whole number from {low} to {high}, found {n}; each \
                 step doubles the share"
            )
        };
        i8::try_from(n).ok().filter(|n| (low..=high).contains(n)).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        match &value {
            toml::Value::Integer(n) => Self::try_from(*n).map_err(serde::de::Error::custom),
            toml::Value::String(s) if s == "low" => Ok(Self(-1)),
            toml::Value::String(s) if s == "normal" => Ok(Self(0)),
            toml::Value::String(s) if s == "high" => Ok(Self(1)),
            other => Err(serde::de::Error::custom(format!(
                "expected \"low\", \"normal\", \"high\" or a whole number from -4 to 4, found {other}"
            ))),
        }
    }
}

/// `[select]`: slots that a campaign's trials may run on. All of what is said must hold; nothing said allows every slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Select {
    /// Parts of device names, such as "RTX 4090"; one of them must be in the slot's, in upper or lower case.
    #[serde(deserialize_with = "models", skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<String>,
    /// Tags that agents were started with (`--tag`): each key must be there with one of its values.
    #[serde(deserialize_with = "labels", skip_serializing_if = "BTreeMap::is_empty")]
    pub label: BTreeMap<String, Vec<String>>,
    /// The slot's memory is at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// What of a selection a slot does not meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mismatch {
    /// Its device is none of those.
    Model {
        /// Those asked for.
        wanted: Vec<String>,
    },
    /// It has another value for the key, or none.
    Label {
        /// The key.
        key: String,
        /// The values asked for.
        wanted: Vec<String>,
        /// The slot's.
        found: Option<String>,
    },
    /// It has less memory.
    Memory {
        /// Asked for.
        wanted: Bytes,
        /// The slot's.
        found: Bytes,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { wanted } => write!(f, "model {}", wanted.join(" or ")),
            Self::Label { key, wanted, .. } => write!(f, "label {key}={}", wanted.join(" or ")),
            Self::Memory { wanted, .. } => write!(f, "at least {wanted} of memory"),
        }
    }
}

impl Select {
    /// Whether nothing is said.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// The first thing that a slot with this device, these tags and this memory does not meet.
    pub fn mismatch<'a>(
        &self,
        model: &str,
        tag: impl Fn(&str) -> Option<&'a str>,
        memory_bytes: u64,
    ) -> Option<Mismatch> {
        let model = model.to_lowercase();
        if !self.model.is_empty() && !self.model.iter().any(|part| model.contains(&part.to_lowercase())) {
            return Some(Mismatch::Model { wanted: self.model.clone() });
        }
        for (key, wanted) in &self.label {
            let found = tag(key);
            if !found.is_some_and(|found| wanted.iter().any(|w| w == found)) {
                let found = found.map(str::to_owned);
                return Some(Mismatch::Label { key: key.clone(), wanted: wanted.clone(), found });
            }
        }
        let wanted = self.memory.filter(|wanted| memory_bytes < wanted.0)?;
        Some(Mismatch::Memory { wanted, found: Bytes(memory_bytes) })
    }
}

/// One value or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl From<Words> for Vec<String> {
    fn from(words: Words) -> Self {
        match words {
            Words::One(word) => vec![word],
            Words::Many(words) => words,
        }
    }
}

fn models<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let models = Axis::<String>::deserialize(deserializer)?.values().to_vec();
    match models.iter().find(|m| m.trim().is_empty()) {
        None => Ok(models),
        Some(_) => Err(serde::de::Error::custom(
            "expected a part of a device's name such as \"RTX 4090\" (`fleet agents` shows the names), found an empty text",
        )),
    }
}

fn labels<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let raw = BTreeMap::<String, Words>::deserialize(deserializer)
        .map_err(|_| serde::de::Error::custom("expected labels such as { room = \"lab-2\", gpu = [\"a\", \"b\"] }"))?;
    raw.into_iter()
        .map(|(key, values)| {
            let values: Vec<String> = values.into();
            match std::iter::once(&key).chain(&values).find(|w| !is_word(w)) {
                None if values.is_empty() => {
                    Err(serde::de::Error::custom(format!("label {key} needs at least one value; this list is empty")))
                }
                None => Ok((key, values)),
                Some(word) => Err(serde::de::Error::custom(format!(
                    "expected label keys and values of 1 to 63 letters, digits, '-', '_' and '.', as in \
                     `fleet-agent run --tag room=lab-2`, found \"{word}\""
                ))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        priority: Priority,
        #[serde(default)]
        select: Select,
    }

    fn read(text: &str) -> Result<File, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_selection_is_met_by_what_it_names_and_nothing_else() {
        let select = read("[select]\nmodel = [\"rtx 4090\", \"L4\"]\nlabel = { room = \"lab\" }\nmemory = \"8GiB\"")
            .expect("valid");
        let of = |model: &str, room: Option<&'static str>, gib: u64| {
            select.select.mismatch(model, |key| room.filter(|_| key == "room"), gib << 30)
        };
        assert_eq!(of("NVIDIA GeForce RTX 4090", Some("lab"), 24), None);
        assert_eq!(of("NVIDIA L4", Some("lab"), 8), None);
        assert!(matches!(of("NVIDIA A100", Some("lab"), 80), Some(Mismatch::Model { .. })));
        assert!(matches!(of("NVIDIA L4", Some("home"), 24), Some(Mismatch::Label { found: Some(_), .. })));
        assert!(matches!(of("NVIDIA L4", None, 24), Some(Mismatch::Label { found: None, .. })));
        assert!(matches!(of("NVIDIA L4", Some("lab"), 7), Some(Mismatch::Memory { .. })));
        assert!(read("").expect("valid").select.is_everything());
        // What the journal keeps of it reads back.
        let json = serde_json::to_string(&select.select).expect("JSON");
        assert_eq!(serde_json::from_str::<Select>(&json).expect("reads"), select.select);
    }

    #[test]
    fn each_step_of_priority_doubles_the_share() {
        let of = |text: &str| read(text).expect(text).priority;
        assert_eq!(of("priority = \"high\"").weight(), 2.0);
        assert_eq!(of("").weight(), 1.0);
        assert_eq!(of("priority = -2").weight(), 0.25);
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        let cases = [
            ("priority = 9", "a whole number from -4 to 4, found 9"),
            ("priority = \"urgent\"", "\"high\""),
            ("[select]\nmodel = []", "at least one value"),
            ("[select]\nmodel = \" \"", "fleet agents"),
            ("[select]\nlabel = { room = \"a b\" }", "--tag room=lab-2"),
            ("[select]\nlabel = { room = [] }", "room needs at least one value"),
            ("[select]\nlabel = \"lab\"", "{ room ="),
            ("[select]\nmemory = \"8 gigs\"", "2GiB"),
            ("[select]\nmodle = \"x\"", "model"),
        ];
        for (text, expected) in cases {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
