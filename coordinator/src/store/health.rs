//! What of the storage does not work right now, in words: for the log, the metrics and `fleet status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What may fail while the coordinator goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Requests that change something are refused.
    Journal,
    /// Records cannot be shown.
    Index,
    /// Samples are refused; agents keep them.
    Samples,
    /// The next start takes longer.
    Snapshot,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Journal, Self::Index, Self::Samples, Self::Snapshot];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Index => "index",
            Self::Samples => "samples",
            Self::Snapshot => "snapshot",
        }
    }

    const fn cost(self) -> &'static str {
        match self {
            Self::Journal => "requests that change something are refused for now, and nothing confirmed is lost",
            Self::Index => "records cannot be shown for now, and nothing is lost",
            Self::Samples => "agents keep their samples and send them again",
            Self::Snapshot => "serving goes on, and the next start takes longer",
        }
    }
}

/// What fails, shared by those who write and those who tell.
#[derive(Debug, Default)]
pub struct Health {
    failing: Mutex<BTreeMap<Part, String>>,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part failed.
    pub fn fails(&self, part: Part, why: &impl ToString) {
        let why = why.to_string();
        if self.lock().insert(part, why.clone()).is_none() {
            tracing::error!(part = part.name(), why, "the storage refuses: {}", part.cost());
        }
    }

    /// A part works.
    pub fn works(&self, part: Part) {
        if self.lock().remove(&part).is_some() {
            tracing::info!(part = part.name(), "the storage works again");
        }
    }

    /// Whether a part failed when it was last tried.
    pub fn is_failing(&self, part: Part) -> bool {
        self.lock().contains_key(&part)
    }

    /// What fails, with what that costs.
    pub fn problems(&self) -> Vec<String> {
        self.lock().iter().map(|(part, why)| format!("{}: {why} ({})", part.name(), part.cost())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_told_until_it_works_again() {
        let health = Health::default();
        health.fails(Part::Snapshot, &"no space");
        health.fails(Part::Index, &"no space");
        health.works(Part::Index);
        assert!(health.is_failing(Part::Snapshot) && !health.is_failing(Part::Index));
        let problems = health.problems();
        assert!(problems.len() == 1 && problems[0].starts_with("snapshot: no space (serving goes on"), "{problems:?}");
    }
}
