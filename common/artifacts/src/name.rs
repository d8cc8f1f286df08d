//! What a stored file is called.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(String);

/// A folder, and the SHA-256 of the content: `states/0123…-0/ab12…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    folder: String,
    sha256: Sha256,
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found \"{found}\"")]
pub struct NameError {
    expected: &'static str,
    found: String,
}

const HASH: &str = "64 hexadecimal digits in lower case (a SHA-256)";
const FOLDER: &str = "a folder of letters, digits, '-', '_' and '.', with '/' between its parts";
const NAME: &str = "the name of an artifact, FOLDER/SHA256";
/// Keys of S3 are at most 1024 bytes, with the store's prefix.
const LONGEST_FOLDER: usize = 400;

impl Sha256 {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn of_digest(digest: impl AsRef<[u8]>) -> Self {
        Self(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Name {
    /// The content `sha256` in `folder`.
    ///
    /// # Errors
    /// The folder has a part that is not plain.
    pub fn new(folder: &str, sha256: Sha256) -> Result<Self, NameError> {
        // No part is "." or "..", or begins with what a store or a shell might understand.
        let is_plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if folder.len() <= LONGEST_FOLDER && folder.split('/').all(is_plain) {
            Ok(Self { folder: folder.to_owned(), sha256 })
        } else {
            Err(NameError { expected: FOLDER, found: folder.chars().take(LONGEST_FOLDER).collect() })
        }
    }

    /// The folder.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The hash of the content.
    pub fn sha256(&self) -> &Sha256 {
        &self.sha256
    }
}

impl FromStr for Sha256 {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_right = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match is_right {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError { expected: HASH, found: text.chars().take(80).collect() }),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError { expected: NAME, found: text.chars().take(LONGEST_FOLDER).collect() };
        let (folder, sha256) = text.rsplit_once('/').ok_or_else(wrong)?;
        Self::new(folder, sha256.parse()?)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder, self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_leads_out_of_the_store() {
        let hash = "ab".repeat(32);
        let name: Name = format!("states/0123-0.A_1/{hash}").parse().expect("a name");
        assert_eq!((name.folder(), name.sha256().as_str()), ("states/0123-0.A_1", hash.as_str()));
        assert_eq!(name.to_string().parse(), Ok(name));
        for folder in ["", "/etc", "a//b", "..", "a/../b", "a/.b", "a b", "a\\b", "-rf", "a/%2e%2e", "a\0"] {
            assert!(format!("{folder}/{hash}").parse::<Name>().is_err(), "{folder:?}");
        }
        for hash in ["", "AB", &"g".repeat(64), &"AB".repeat(32), &"a".repeat(65)] {
            assert!(format!("a/{hash}").parse::<Name>().is_err(), "{hash:?}");
        }
        let error = "a/b".parse::<Name>().expect_err("no hash").to_string();
        assert!(error.contains("64 hexadecimal digits") && error.contains("\"b\""), "{error}");
    }

    proptest! {
        /// Whatever text is a name, it stays below the store's folder and reads back as itself.
        #[test]
        fn any_name_stays_inside(folder in "[a-z./\\-_%]{0,20}", digits in "[0-9a-f]{64}") {
            if let Ok(name) = format!("{folder}/{digits}").parse::<Name>() {
                prop_assert!(name.folder().split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
                prop_assert_eq!(name.to_string().parse(), Ok(name));
            }
        }
    }
}
