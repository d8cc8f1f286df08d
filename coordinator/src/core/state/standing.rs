//! Where a campaign's trials stand, kept up to date with every event: whoever asks for the status must not make the core
//! look at a million trials.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_common::id::{CampaignName, TrialId};
use fleet_common::lease::TrialState;
use fleet_common::record::OutcomeClass;

use super::TrialEntry;
use crate::scheduler::{GroupKey, Place};

/// Where a campaign's trials stand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Trials that wait.
    pub waiting: u64,
    /// Trials that run.
    pub leased: BTreeSet<TrialId>,
    /// Ended trials by class.
    pub finished: BTreeMap<OutcomeClass, u64>,
    /// Trials called off.
    pub cancelled: u64,
    /// Of those that wait, those that several campaigns ask for and that stand in another's line: by line and group.
    pub elsewhere: BTreeMap<(CampaignName, GroupKey), u64>,
}

impl Standing {
    /// Counts a trial of the campaign `of`, which waits at `place` if it waits.
    pub(super) fn add(&mut self, of: &CampaignName, id: &TrialId, entry: &TrialEntry, place: Option<&Place>) {
        match &entry.life.state {
            TrialState::Waiting => self.waiting += 1,
            TrialState::Leased { .. } => {
                self.leased.insert(id.clone());
            }
            TrialState::Finished => *self.finished.entry(class(entry)).or_default() += 1,
            TrialState::Cancelled => self.cancelled += 1,
        }
        if let Some(key) = elsewhere(of, entry, place) {
            *self.elsewhere.entry(key).or_default() += 1;
        }
    }

    /// The reverse, of a trial that is as it was when it was counted.
    pub(super) fn remove(&mut self, of: &CampaignName, id: &TrialId, entry: &TrialEntry, place: Option<&Place>) {
        match &entry.life.state {
            TrialState::Waiting => self.waiting -= 1,
            TrialState::Leased { .. } => {
                self.leased.remove(id);
            }
            TrialState::Finished => less(&mut self.finished, class(entry)),
            TrialState::Cancelled => self.cancelled -= 1,
        }
        if let Some(key) = elsewhere(of, entry, place) {
            less(&mut self.elsewhere, key);
        }
    }
}

fn class(entry: &TrialEntry) -> OutcomeClass {
    entry.class.unwrap_or(OutcomeClass::Crashed)
}

fn elsewhere(of: &CampaignName, entry: &TrialEntry, place: Option<&Place>) -> Option<(CampaignName, GroupKey)> {
    let place = place.filter(|place| entry.wanted_by.len() > 1 && place.account != *of)?;
    Some((place.account.clone(), place.group.clone()))
}

/// One less; nothing is left of what was the last.
fn less<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    if let std::collections::btree_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// Names that many trials have in common: most are asked for by one campaign, whose trials all hold the same list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::core) struct Names(Arc<BTreeSet<CampaignName>>);

impl Names {
    /// A list of one.
    pub(super) fn one(name: CampaignName) -> Self {
        Self(Arc::new(BTreeSet::from([name])))
    }

    /// A list of these.
    pub(super) fn of(names: BTreeSet<CampaignName>) -> Self {
        Self(Arc::new(names))
    }

    /// Adds the name of the list `one`.
    pub(super) fn add(&mut self, one: &Self) {
        if self.is_empty() {
            self.0 = one.0.clone();
        } else if !one.0.is_subset(&self.0) {
            Arc::make_mut(&mut self.0).extend(one.0.iter().cloned());
        }
    }

    /// Takes a name out.
    pub(super) fn remove(&mut self, name: &CampaignName) {
        if self.0.contains(name) {
            match self.0.len() {
                1 => *self = Self::default(),
                _ => {
                    Arc::make_mut(&mut self.0).remove(name);
                }
            }
        }
    }
}

impl std::ops::Deref for Names {
    type Target = BTreeSet<CampaignName>;

    fn deref(&self) -> &BTreeSet<CampaignName> {
        &self.0
    }
}
