//! Which waiting trial a free slot gets, why a trial waits, and when a campaign will be done.
//!
//! Everything here is a function of its arguments. The problem is stated without domain words in `README.md` beside
//! this file; here items are trials, accounts campaigns, colours hardware classes and servers device slots.

mod choose;
mod estimate;
mod eta;
mod fleet;
mod queue;
mod rank;
mod reason;
mod shares;
mod tail;
#[cfg(test)]
mod tests;

pub use choose::{Affinity, Choice, Means, NoAffinity, View, choose};
pub(crate) use estimate::count;
pub use estimate::{Duration, Estimates, Figures, KindId, Peak, PeakBasis, TimeBasis};
pub use eta::{AtWork, Eta, eta};
pub use fleet::{Fleet, Obstacle, Server};
pub use queue::{Account, Group, GroupKey, Place, Queue};
pub use rank::Rank;
pub use reason::{Busy, Verdict, describe, reason, verdict};
pub use shares::Shares;
