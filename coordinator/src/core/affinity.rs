//! What trials prefer among the slots that they fit, of what the core knows.

use fleet_common::id::TrialId;
use fleet_common::lease::Holder;

use super::Core;
use crate::scheduler::Affinity;

/// One reason to be in one slot rather than in another.
struct Preference {
    /// Whether it makes any difference now; it is not asked otherwise.
    matters: fn(&Core) -> bool,
    /// 0 to [`MOST`]; more is better.
    score: fn(&Core, &TrialId, &Holder) -> u32,
}

/// The best score of one preference.
const MOST: u32 = 15;

/// The most important first.
const PREFERENCES: &[Preference] = &[
    Preference { matters: Core::has_states, score: Core::is_where_its_state_counts },
    Preference { matters: Core::contents_differ, score: Core::is_where_its_content_is },
];

/// All of them, as the scheduler asks.
pub(super) struct Preferences<'a> {
    core: &'a Core,
    matter: Vec<&'static Preference>,
}

impl Core {
    pub(super) fn preferences(&self) -> Preferences<'_> {
        Preferences { core: self, matter: PREFERENCES.iter().filter(|p| (p.matters)(self)).collect() }
    }
}

impl Affinity for Preferences<'_> {
    fn score(&self, trial: &TrialId, holder: &Holder) -> u32 {
        self.matter.iter().fold(0, |sum, p| sum * (MOST + 1) + (p.score)(self.core, trial, holder).min(MOST))
    }

    fn is_empty(&self) -> bool {
        self.matter.is_empty()
    }
}
