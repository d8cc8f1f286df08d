//! What a cell names, and hashes.

use std::fmt;
use std::str::FromStr;

use fleet_common::plan::{CellSettings, WeightsRef};
use serde::{Deserialize, Serialize};

/// A SHA-256 as 64 lower-case hexadecimal digits. It is safe as a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits, which are enough for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(Self(text));
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!("expected a SHA-256 as 64 lower-case hexadecimal digits, found \"{shown}\""))
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What can be shared, cached and fetched. Written `dataset-FINGERPRINT`, `weights-SHA256` or
/// `model-FINGERPRINT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Item {
    /// A data set, by its fingerprint.
    Dataset(Digest),
    /// A file of weights, by its SHA-256.
    Weights(Digest),
    /// The folder of a published model, by its fingerprint; see `fleet_checkpoint::ModelFolder`.
    Model(Digest),
}

impl Item {
    /// What a cell needs: its data set, and its weights where it does not begin from scratch.
    ///
    /// # Errors
    /// The settings name something by what is no hash.
    pub fn wanted(settings: &CellSettings) -> Result<Vec<Self>, String> {
        let mut wanted = vec![Self::Dataset(settings.dataset.fingerprint.parse()?)];
        match &settings.weights {
            WeightsRef::Scratch => {}
            WeightsRef::File { sha256 } => wanted.push(Self::Weights(sha256.parse()?)),
            WeightsRef::Folder { sha256 } => wanted.push(Self::Model(sha256.parse()?)),
        }
        Ok(wanted)
    }

    /// Its hash.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Dataset(digest) | Self::Weights(digest) | Self::Model(digest) => digest,
        }
    }

    /// What it is, for people, with the beginning of its hash.
    pub fn words(&self) -> String {
        match self {
            Self::Dataset(digest) => format!("the data set {}…", digest.short()),
            Self::Weights(digest) => format!("the weights {}…", digest.short()),
            Self::Model(digest) => format!("the model {}…", digest.short()),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset(digest) => write!(f, "dataset-{digest}"),
            Self::Weights(digest) => write!(f, "weights-{digest}"),
            Self::Model(digest) => write!(f, "model-{digest}"),
        }
    }
}

impl TryFrom<String> for Item {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('-') {
            Some(("dataset", digest)) => Ok(Self::Dataset(digest.parse()?)),
            Some(("weights", digest)) => Ok(Self::Weights(digest.parse()?)),
            Some(("model", digest)) => Ok(Self::Model(digest.parse()?)),
            _ => {
                let shown: String = text.chars().take(80).collect();
                Err(format!("expected dataset-FINGERPRINT, weights-SHA256 or model-FINGERPRINT, found \"{shown}\""))
            }
        }
    }
}

impl FromStr for Item {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl From<Item> for String {
    fn from(item: Item) -> Self {
        item.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_wants_its_data_and_what_its_weights_are() {
        let wanted = |weights: &str| {
            let settings = format!(
                r#"{{"definition":2,"method":{{"name":"bitfit"}},"backbone":"vit_micro","image_size":64,
                "checkpointing":"none","dataset":{{"name":"dtd","fingerprint":"{0}","classes":8}},"weights":{weights},
                "seed":0,"budget_bytes":null,"evaluate":{{"batch":64}}}}"#,
                "a".repeat(64)
            );
            let wanted = Item::wanted(&serde_json::from_str(&settings).expect("settings"))?;
            Ok::<_, String>(wanted.iter().map(|item| item.to_string()[..8].to_owned()).collect::<Vec<_>>())
        };
        let of = |from: &str, sha256: &str| wanted(&format!(r#"{{"from":"{from}","sha256":"{sha256}"}}"#));
        assert_eq!(wanted(r#"{"from":"scratch"}"#).expect("hashes"), ["dataset-"]);
        assert_eq!(of("file", &"b".repeat(64)).expect("hashes"), ["dataset-", "weights-"]);
        assert_eq!(of("folder", &"b".repeat(64)).expect("hashes"), ["dataset-", "model-bb"]);
        assert!(of("folder", "../x").is_err());
    }

    #[test]
    fn only_hashes_are_names() {
        let digest = "0123456789abcdef".repeat(4);
        for text in ["dataset", "weights", "model"].map(|kind| format!("{kind}-{digest}")) {
            assert_eq!(text.parse::<Item>().expect("an item").to_string(), text);
        }
        let wrong = ["", "dataset-", "weights-../../etc", &digest, &format!("dataset-{}", digest.to_uppercase())];
        for text in wrong {
            assert!(text.parse::<Item>().is_err(), "{text}");
        }
    }
}
