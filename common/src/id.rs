//! Names of things. Each kind of id is a type of its own, so that one cannot stand where another belongs.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::canonical::sha256_hex;

/// Why a text is not the id it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found \"{found}\"")]
pub struct IdError {
    /// What would have been right.
    pub expected: &'static str,
    /// What was there.
    pub found: String,
}

impl IdError {
    fn new(expected: &'static str, found: &str) -> Self {
        // An id arrives from a network: do not echo a megabyte of it.
        Self { expected, found: found.chars().take(80).collect() }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(IdError::new($expected, text)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Names end up in file names and tables, so they stay short and plain.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

text_id! {
    /// A campaign, by the name that its file gives it.
    CampaignName, "a name of at most 64 letters, digits, '-', '_' and '.', starting with a letter or digit", is_name
}

/// A cell: the hash of its fully resolved settings (see [`crate::plan::CellSettings`]), 32 hexadecimal digits. There may
/// be a million of them, each in several places, so the text is held without an allocation of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CellId([u8; 32]);

impl CellId {
    /// The id of these bytes, the first half of a SHA-256.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(text)
    }

    /// The bytes that its digits stand for.
    pub fn bytes(&self) -> [u8; 16] {
        let digit = |c: u8| if c <= b'9' { c - b'0' } else { c - b'a' + 10 };
        std::array::from_fn(|i| digit(self.0[2 * i]) << 4 | digit(self.0[2 * i + 1]))
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only digits and letters get in")
    }

    /// Enough of the id for a table.
    pub fn short(&self) -> &str {
        &self.as_str()[..8]
    }
}

impl FromStr for CellId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits: Option<[u8; 32]> = text.as_bytes().try_into().ok();
        let digits = digits.filter(|d| d.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')));
        digits.map(Self).ok_or_else(|| IdError::new("a cell id of 32 hexadecimal digits", text))
    }
}

impl TryFrom<String> for CellId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<CellId> for String {
    fn from(id: CellId) -> String {
        id.as_str().to_owned()
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

text_id! {
    /// An agent: made once per state folder, kept there.
    AgentId, "an agent id of letters, digits, '-', '_' and '.'", is_name
}

text_id! {
    /// Whom a certificate is for: an agent by its id, or a person.
    PeerName, "a name of at most 64 letters, digits, '-', '_' and '.', starting with a letter or digit", is_name
}

text_id! {
    /// A device slot of an agent, such as `cpu` or `cuda:0`.
    SlotId, "a device slot such as \"cpu\" or \"cuda:0\"",
    |t| t == "cpu" || t.strip_prefix("cuda:").is_some_and(|n| n.parse::<u8>().is_ok())
}

text_id! {
    /// A class of hardware whose measurements may be averaged: a device model, such as `NVIDIA GeForce RTX 2060`.
    HardwareClass, "a hardware class of 1 to 120 printable characters",
    |t| (1..=120).contains(&t.chars().count()) && t.trim() == t && !t.chars().any(|c| c.is_control() || c == '/')
}

/// One measurement that a campaign asks for. Records belong to trials.
///
/// `hardware` is `None` where any hardware will do; it is not in the cell because nobody knows it at planning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrialId {
    /// The settings.
    pub cell: CellId,
    /// The class of hardware asked for.
    pub hardware: Option<HardwareClass>,
    /// Which repeat, from 0.
    pub repeat: u32,
}

impl fmt::Display for TrialId {
    /// `CELL/REPEAT` or `CELL/REPEAT/HARDWARE`: the class comes last because it may hold almost anything but '/'.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cell, self.repeat)?;
        self.hardware.iter().try_for_each(|class| write!(f, "/{class}"))
    }
}

impl TrialId {
    /// A name for files, unlike every other trial's: the class may hold spaces and brackets, so it becomes a hash.
    pub fn file_stem(&self) -> String {
        let class = self.hardware.as_ref().map(|h| format!("-{}", &sha256_hex(h.as_str().as_bytes())[..8]));
        format!("{}-{}{}", self.cell, self.repeat, class.unwrap_or_default())
    }
}

impl FromStr for TrialId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("a trial id CELL/REPEAT or CELL/REPEAT/HARDWARE", text);
        let mut parts = text.splitn(3, '/');
        let cell = parts.next().ok_or_else(wrong)?.parse()?;
        let repeat = parts.next().and_then(|r| r.parse().ok()).ok_or_else(wrong)?;
        let hardware = parts.next().map(str::parse).transpose()?;
        Ok(Self { cell, hardware, repeat })
    }
}

/// Which grant of a trial's lease this is, from 1. A report with an older attempt is late: the number fences it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt(NonZeroU32);

impl Attempt {
    /// The first grant.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The grant after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for Attempt {
    type Error = IdError;
    fn try_from(n: u32) -> Result<Self, IdError> {
        NonZeroU32::new(n).map(Self).ok_or_else(|| IdError::new("an attempt number from 1", "0"))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trial_ids_survive_the_round_trip() {
        let cell: CellId = "0123456789abcdef0123456789abcdef".parse().expect("a cell id");
        for hardware in [None, Some("NVIDIA GeForce RTX 4090 (24 GiB)".parse().expect("a class"))] {
            let id = TrialId { cell: cell.clone(), hardware, repeat: 3 };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn a_cells_id_is_sixteen_bytes_in_digits() {
        let text = "00ff10a95b7c3d2e4f60718293a4b5c6";
        let id: CellId = text.parse().expect("an id");
        assert_eq!(CellId::from_bytes(id.bytes()), id);
        assert_eq!((id.to_string().as_str(), id.short()), (text, "00ff10a9"));
        assert!("é".repeat(16).parse::<CellId>().is_err(), "32 bytes are not 32 digits");
    }

    #[test]
    fn ids_from_outside_are_checked() {
        assert!("0123".parse::<CellId>().is_err());
        assert!("0123456789ABCDEF0123456789abcdef".parse::<CellId>().is_err());
        assert!("../etc".parse::<CampaignName>().is_err());
        assert!("".parse::<CampaignName>().is_err());
        assert!("cuda:x".parse::<SlotId>().is_err());
        assert!("cuda:0".parse::<SlotId>().is_ok());
        assert!("RTX/4090".parse::<HardwareClass>().is_err());
        assert!(Attempt::try_from(0).is_err());
        let long = "x".repeat(10_000);
        assert!(long.parse::<CampaignName>().expect_err("too long").to_string().len() < 300);
    }
}
