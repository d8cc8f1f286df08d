//! What may go wrong, in classes that can be left out one by one.

use std::fmt;

/// A class of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Messages are lost.
    Loss,
    /// Messages take up to half a minute, and overtake each other.
    Delay,
    /// An agent's cable is pulled out for a while.
    Partition,
    /// The coordinator is killed at any moment.
    CoordinatorKilled,
    /// The coordinator's machine goes down between or within a write, a sync and an answer.
    CoordinatorTorn,
    /// The coordinator is stopped for a while, and goes on.
    CoordinatorPaused,
    /// A sync of the coordinator's disk takes very long.
    SlowDisk,
    /// The coordinator's disk refuses writes for a while.
    FullDisk,
    /// An agent's daemon is killed before or after anything that it does.
    AgentKilled,
    /// An agent's daemon is asked to end.
    AgentEnded,
    /// An agent's daemon is stopped for a while, for longer than a lease too.
    AgentPaused,
    /// An agent's machine sleeps for a while: its monotonic clock stands still.
    AgentSleeps,
    /// An agent's disk refuses records and samples.
    AgentDisk,
    /// Workers crash, or find bad input.
    Workers,
    /// Wall clocks are set, forwards and backwards.
    Clocks,
    /// People submit other files, cancel, retry.
    People,
}

impl Fault {
    /// Every class.
    pub const ALL: [Self; 16] = [
        Self::Loss,
        Self::Delay,
        Self::Partition,
        Self::CoordinatorKilled,
        Self::CoordinatorTorn,
        Self::CoordinatorPaused,
        Self::SlowDisk,
        Self::FullDisk,
        Self::AgentKilled,
        Self::AgentEnded,
        Self::AgentPaused,
        Self::AgentSleeps,
        Self::AgentDisk,
        Self::Workers,
        Self::Clocks,
        Self::People,
    ];
}

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// All of them.
    pub const ALL: Self = Self((1 << Fault::ALL.len()) - 1);

    /// Whether a class may happen.
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// The set without a class.
    #[must_use]
    pub const fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u32))
    }

    /// The classes.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|fault| format!("{fault:?}")).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}
