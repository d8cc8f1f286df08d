//! Fairness between accounts: start-time fair queueing.
//!
//! Each account has a clock that advances by cost over weight with everything that it is granted; whoever's clock is
//! furthest behind is next. Two accounts that always have something waiting for the same servers drift apart by no more
//! than one item of each, whatever their numbers. An account that comes, or comes back, starts at the clock of those
//! that are there: it cannot save up for a burst while it asks for nothing.

use std::collections::BTreeMap;

use fleet_common::id::CampaignName;

use super::Queue;

/// The clocks. Not durable: after a restart all begin level.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares {
    clocks: BTreeMap<CampaignName, f64>,
}

impl Shares {
    /// Makes the accounts those that have something waiting.
    pub fn settle(&mut self, queue: &Queue) {
        if self.clocks.len() == queue.lines().count() && queue.lines().all(|(name, _)| self.clocks.contains_key(name)) {
            return;
        }
        let level = self.clocks.values().copied().reduce(f64::min).unwrap_or(0.0);
        let before = std::mem::take(&mut self.clocks);
        for (name, _) in queue.lines() {
            let clock = before.get(name).copied().unwrap_or(level);
            self.clocks.insert(name.clone(), clock);
        }
    }

    /// The accounts, those that are furthest behind first; of equals, those of higher priority, then by name.
    pub fn order<'q>(&self, queue: &'q Queue) -> Vec<&'q CampaignName> {
        let clock = |name| self.clocks.get(name).copied().unwrap_or(0.0);
        let mut order: Vec<_> = queue
            .lines()
            .map(|(name, _)| (clock(name), std::cmp::Reverse(queue.account(name).priority), name))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (&a.1, a.2).cmp(&(&b.1, b.2))));
        order.into_iter().map(|(_, _, name)| name).collect()
    }

    /// Charges an account for what it was granted, in seconds.
    pub fn charge(&mut self, queue: &Queue, name: &CampaignName, seconds: f64) {
        if let Some(clock) = self.clocks.get_mut(name) {
            *clock += seconds / queue.account(name).priority.weight();
        }
    }

    /// How far an account's clock is.
    pub fn clock(&self, name: &CampaignName) -> Option<f64> {
        self.clocks.get(name).copied()
    }
}
