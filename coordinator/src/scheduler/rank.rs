//! The place of an item in its account's line.

use fleet_common::canonical::sha256_hex;
use fleet_common::id::{CampaignName, TrialId};

/// The place of a trial in its campaign's line: all first repeats before the second ones, and within a repeat an order
/// that looks random but is the campaign's own. Measured in the order of the matrix, a machine that warms up or slows
/// down over the night would look like a property of the last method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    campaign: u64,
    repeat: u32,
    shuffled: u64,
}

impl Rank {
    /// The rank of a trial that came with the `campaign`-th submission, of the campaign called `name`.
    pub fn of(campaign: u64, name: &CampaignName, trial: &TrialId) -> Self {
        let hash = sha256_hex(format!("{name}/{trial}").as_bytes());
        let shuffled = u64::from_str_radix(&hash[..16], 16).unwrap_or(0);
        Self { campaign, repeat: trial.repeat, shuffled }
    }

    /// What it consists of, for keeping: campaign, repeat, shuffled.
    pub fn parts(&self) -> (u64, u32, u64) {
        let Self { campaign, repeat, shuffled } = *self;
        (campaign, repeat, shuffled)
    }

    /// The rank of these parts.
    pub fn from_parts(campaign: u64, repeat: u32, shuffled: u64) -> Self {
        Self { campaign, repeat, shuffled }
    }

    /// The number of the submission that it came with.
    pub fn submission(&self) -> u64 {
        self.campaign
    }
}
