//! The items that wait, by account and group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_common::id::{CampaignName, HardwareClass, TrialId};
use fleet_common::lease::Holder;
use fleet_common::spec::{Priority, Select};

use super::{KindId, Rank};

/// What the scheduler knows of a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Its share beside others.
    pub priority: Priority,
    /// Where its trials may run.
    pub select: Arc<Select>,
}

/// What trials have in common that nobody needs to tell apart: a choice looks at groups, not at trials.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The class asked for, if one was.
    pub colour: Option<HardwareClass>,
    /// Their size and length.
    pub kind: KindId,
    /// Where they failed.
    pub failed_on: BTreeSet<Holder>,
}

/// Where a trial stands in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its campaign.
    pub account: CampaignName,
    /// Its group there.
    pub group: GroupKey,
    /// Its rank there.
    pub rank: Rank,
}

/// Trials of one group, in line.
pub type Group = BTreeSet<(Rank, TrialId)>;

/// The trials that wait, in line. A function of its content: how they came to wait leaves no trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    accounts: BTreeMap<CampaignName, Account>,
    lines: BTreeMap<CampaignName, BTreeMap<GroupKey, Group>>,
    nobody: Account,
}

impl Queue {
    /// Says what an account is like; the latest word counts.
    pub fn open(&mut self, name: CampaignName, account: Account) {
        self.accounts.insert(name, account);
    }

    /// What an account is like.
    pub fn account(&self, name: &CampaignName) -> &Account {
        self.accounts.get(name).unwrap_or(&self.nobody)
    }

    /// Puts a trial in line.
    pub fn insert(&mut self, place: Place, trial: TrialId) {
        let Place { account, group, rank } = place;
        self.lines.entry(account).or_default().entry(group).or_default().insert((rank, trial));
    }

    /// Takes a trial out of line.
    pub fn remove(&mut self, place: &Place, trial: &TrialId) {
        let Some(line) = self.lines.get_mut(&place.account) else { return };
        let Some(group) = line.get_mut(&place.group) else { return };
        group.remove(&(place.rank, trial.clone()));
        if group.is_empty() {
            line.remove(&place.group);
            if line.is_empty() {
                self.lines.remove(&place.account);
            }
        }
    }

    /// Whether a trial is in line there.
    pub fn contains(&self, place: &Place, trial: &TrialId) -> bool {
        let group = self.lines.get(&place.account).and_then(|line| line.get(&place.group));
        group.is_some_and(|group| group.contains(&(place.rank, trial.clone())))
    }

    /// The accounts that have something waiting.
    pub fn lines(&self) -> impl Iterator<Item = (&CampaignName, &BTreeMap<GroupKey, Group>)> {
        self.lines.iter()
    }

    /// What waits of an account.
    pub fn line(&self, account: &CampaignName) -> Option<&BTreeMap<GroupKey, Group>> {
        self.lines.get(account)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}
