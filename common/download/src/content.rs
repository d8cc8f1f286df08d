//! What a file must be, and whether it is.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use fleet_common::canonical::hex;
use md5::Md5;
use sha2::{Digest, Sha256};

/// How long a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Exactly(u64),
    /// Not known, but not more: so that a server that never stops does not fill the disk.
    AtMost(u64),
}

impl Size {
    /// The most bytes that it can be.
    pub const fn most(self) -> u64 {
        match self {
            Self::Exactly(n) | Self::AtMost(n) => n,
        }
    }

    /// Whether a file can have so many bytes.
    pub const fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(n) => bytes == n,
            Self::AtMost(n) => bytes <= n,
        }
    }

    /// The size, where it is known.
    pub const fn known(self) -> Option<u64> {
        match self {
            Self::Exactly(n) => Some(n),
            Self::AtMost(_) => None,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(n) => write!(f, "{n} bytes"),
            Self::AtMost(n) => write!(f, "at most {n} bytes"),
        }
    }
}

/// What a file must be. Hashes are in lower-case hexadecimal.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Its size.
    pub size: Size,
    /// Its SHA-256.
    pub sha256: &'a str,
    /// Its MD5, where that is what its publisher states.
    pub md5: Option<&'a str>,
}

/// How a file differs from what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// By its size.
    Size {
        /// What it must be.
        expected: Size,
        /// What it is.
        found: u64,
    },
    /// By a hash.
    Hash {
        /// Which.
        kind: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::Hash { kind, expected, found } => write!(f, "expected {kind} {expected}, found {found}"),
        }
    }
}

impl Content<'_> {
    /// Compares the file at `path`, which is read to its end only if its size can be right.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn compare(&self, path: &Path) -> io::Result<Result<(), Wrong>> {
        let mut file = File::open(path)?;
        let found = file.metadata()?.len();
        if !self.size.allows(found) {
            return Ok(Err(Wrong::Size { expected: self.size, found }));
        }
        let (mut sha256, mut md5) = (Sha256::new(), self.md5.map(|expected| (Md5::new(), expected)));
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
            if let Some((md5, _)) = &mut md5 {
                md5.update(&buffer[..read]);
            }
        }
        let hash = |kind, expected: &str, found: String| {
            if expected == found { Ok(()) } else { Err(Wrong::Hash { kind, expected: expected.to_owned(), found }) }
        };
        let same = hash("SHA-256", self.sha256, hex(&sha256.finalize()));
        Ok(match md5 {
            Some((md5, expected)) => same.and_then(|()| hash("MD5", expected, hex(&md5.finalize()))),
            None => same,
        })
    }

    /// What [`Self::compare`] compares, in words.
    pub fn checks(&self) -> &'static str {
        match (self.size, self.md5) {
            (Size::Exactly(_), Some(_)) => "size, SHA-256 and MD5",
            (Size::Exactly(_), None) => "size and SHA-256",
            (Size::AtMost(_), Some(_)) => "SHA-256 and MD5",
            (Size::AtMost(_), None) => "SHA-256",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: Content<'static> = Content {
        size: Size::Exactly(3),
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        md5: Some("900150983cd24fb0d6963f7d28e17f72"),
    };

    #[test]
    fn every_part_is_compared() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").expect("writes");
        let wrong = |content: Content<'_>| content.compare(&path).expect("reads").err().map(|w| w.to_string());
        assert_eq!(wrong(ABC), None);
        assert_eq!(wrong(Content { size: Size::AtMost(3), ..ABC }), None);
        for (content, part) in [
            (Content { size: Size::Exactly(4), ..ABC }, "expected 4 bytes, found 3"),
            (Content { size: Size::AtMost(2), ..ABC }, "expected at most 2 bytes, found 3"),
            (Content { sha256: "00", ..ABC }, "expected SHA-256 00, found ba7816bf"),
            (Content { md5: Some("00"), ..ABC }, "expected MD5 00, found 90015098"),
        ] {
            let found = wrong(content).expect("is wrong");
            assert!(found.contains(part), "{found}");
        }
    }
}
