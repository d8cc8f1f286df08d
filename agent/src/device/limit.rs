//! How much of a device trials may be given: `SLOT=SIZE`.

use fleet_common::id::SlotId;
use fleet_common::units::Bytes;

/// Trials whose budget is larger do not run in this slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The slot.
    pub slot: SlotId,
    /// The largest budget.
    pub memory: Bytes,
}

/// Why a text is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected SLOT=SIZE such as cuda:0=6GiB or cpu=8GiB, found \"{0}\"")]
pub struct BadLimit(String);

impl std::str::FromStr for Limit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let parts = text.split_once('=').and_then(|(slot, size)| Some((slot.parse().ok()?, size.parse().ok()?)));
        match parts {
            Some((slot, memory @ Bytes(1..))) => Ok(Self { slot, memory }),
            _ => Err(BadLimit(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_and_a_size_are_expected() {
        let limit: Limit = "cuda:0=6GiB".parse().expect("a limit");
        assert_eq!((limit.slot.as_str(), limit.memory), ("cuda:0", Bytes(6 << 30)));
        for text in ["6GiB", "cuda:0", "gpu=6GiB", "cpu=0", "cpu=much"] {
            let error = text.parse::<Limit>().expect_err(text).to_string();
            assert!(error.contains("cuda:0=6GiB") && error.contains(text), "{error}");
        }
    }
}
