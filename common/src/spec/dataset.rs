//! Data sets by name, or by the path of a folder of images.

use serde::{Deserialize, Serialize};

use super::error::unknown;

/// Which data set: one of the known names, found under the agent's data folder, or a path to an image folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DatasetName {
    /// CIFAR-100 in its official binary layout, under `cifar-100-binary/` or as `cifar-100-binary.tar.gz`.
    Cifar100,
    /// The Describable Textures Dataset in its official layout, under `dtd/`; split 1, trained on train1 + val1.
    Dtd,
    /// Procedural textures, written by `fleet data synth` in DTD's layout under `textures/` (or a name that starts
    /// with `textures-`).
    Textures(String),
    /// A folder with one sub-folder per class under `train/` and `test/`.
    Folder(String),
}

impl DatasetName {
    /// The known names; anything with a '/' is a path.
    pub const KNOWN: [&'static str; 3] = ["cifar100", "dtd", "textures"];

    /// What tables call it.
    pub fn label(&self) -> &str {
        match self {
            Self::Cifar100 => "cifar100",
            Self::Dtd => "dtd",
            Self::Textures(name) => name,
            Self::Folder(path) => path.trim_end_matches('/').rsplit('/').next().unwrap_or(path),
        }
    }
}

impl DatasetName {
    /// Whether its classes are textures rather than things.
    const fn is_of_textures(&self) -> bool {
        matches!(self, Self::Dtd | Self::Textures(_))
    }

    /// Sentences that describe an image of a class, with `{}` for its name: the study's.
    pub fn templates(&self) -> &'static [&'static str] {
        if self.is_of_textures() {
            return &[
                "a texture that is {}.",
                "a photo of a {} texture.",
                "a {} pattern.",
                "a surface that looks {}.",
                "{}.",
            ];
        }
        &["a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a photograph of {}.", "a photo of the {}."]
    }

    /// The question that a model which answers in words is asked, with `{}` for the list of classes: the study's.
    pub fn question(&self) -> &'static str {
        if self.is_of_textures() {
            return "What texture or pattern does this image show? Choose exactly one from: {}. Answer with ONLY the \
                    texture name, nothing else.";
        }
        "Classify this image into exactly one of these categories: {}. Answer with ONLY the category name, nothing else."
    }
}

impl TryFrom<String> for DatasetName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "cifar100" => Ok(Self::Cifar100),
            "dtd" => Ok(Self::Dtd),
            n if n == "textures" || (n.starts_with("textures-") && !n.contains('/')) => Ok(Self::Textures(name)),
            n if n.contains('/') => Ok(Self::Folder(name)),
            n => Err(format!("{} (a path to an image folder contains a '/', such as \"./{n}\")", {
                unknown("data set", n, &Self::KNOWN)
            })),
        }
    }
}

impl From<DatasetName> for String {
    fn from(name: DatasetName) -> String {
        match name {
            DatasetName::Cifar100 => "cifar100".to_owned(),
            DatasetName::Dtd => "dtd".to_owned(),
            DatasetName::Textures(name) | DatasetName::Folder(name) => name,
        }
    }
}
