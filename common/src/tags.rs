//! What operators say about a machine: `key=value` pairs that campaigns select by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most characters of a key or a value.
const MOST: usize = 63;
/// Most tags of a slot.
pub const MOST_TAGS: usize = 32;

/// Why a text is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a tag KEY=VALUE such as room=lab-2, each of 1 to 63 letters, digits, '-', '_' and '.', found \"{0}\""
)]
pub struct BadTag(String);

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// What is said.
    pub key: String,
    /// What is said of it.
    pub value: String,
}

/// Whether a text may be a key or a value: they end up in commands and tables.
pub(crate) fn is_word(text: &str) -> bool {
    (1..=MOST).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

impl FromStr for Tag {
    type Err = BadTag;

    fn from_str(text: &str) -> Result<Self, BadTag> {
        let (key, value) = text.split_once('=').unwrap_or_default();
        if is_word(key) && is_word(value) {
            Ok(Self { key: key.to_owned(), value: value.to_owned() })
        } else {
            Err(BadTag(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// The tags of a slot; a key has one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Tag> for Tags {
    /// The last of several values of a key counts, and no more than [`MOST_TAGS`] keys do.
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        let all: BTreeMap<String, String> = tags.into_iter().map(|t| (t.key, t.value)).collect();
        Self(all.into_iter().take(MOST_TAGS).collect())
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_people_write_them_and_nothing_else_is() {
        let tags: Tags = ["room=lab-2", "gpu=rtx", "room=lab-3"].iter().map(|t| t.parse().expect("a tag")).collect();
        assert_eq!(tags.to_string(), "gpu=rtx, room=lab-3");
        assert_eq!(tags.get("room"), Some("lab-3"));
        for text in ["", "room", "=x", "room=", "a b=c", "a=b=c", "a=\u{1b}[2J", &format!("a={}", "x".repeat(64))] {
            let error = text.parse::<Tag>().expect_err(text).to_string();
            assert!(error.contains("KEY=VALUE") && error.len() < 250, "{error}");
        }
    }
}
