//! Footnotes: a reason stands once, however many cells of however many tables refer to it.

use fleet_common::compare::{Comparison, Cost, ScoreSummaries};
use fleet_common::contrast::{Contrast, Quantity};
use fleet_common::record::{Reading, Record};

/// Reasons in order of appearance; the first is note 1.
#[derive(Debug, Default)]
pub(super) struct Notes {
    reasons: Vec<String>,
}

impl Notes {
    /// Every reason for a missing value in `comparison` and `records`.
    ///
    /// They are gathered before anything is written, so that the list can stand directly under the first table.
    pub(super) fn of(comparison: &Comparison, records: &[Record]) -> Self {
        let mut notes = Self::default();
        for cost in comparison.groups.iter().flat_map(|g| [&g.training, &g.inference]) {
            notes.take_cost(cost);
        }
        for phase in records.iter().flat_map(|r| &r.phases) {
            notes.take(&phase.energy);
        }
        notes
    }

    /// Every reason for a missing value in `contrast`.
    pub(super) fn of_contrast(contrast: &Contrast) -> Self {
        let mut notes = Self::default();
        for cost in contrast.combinations.iter().flat_map(|c| &c.sides).flat_map(|s| [&s.training, &s.inference]) {
            notes.take_cost(cost);
        }
        for ratios in contrast.ratios.iter().flat_map(|p| [&p.training, &p.inference]) {
            Quantity::ALL.into_iter().for_each(|quantity| notes.take(ratios.of(quantity)));
        }
        contrast.agreement.iter().flat_map(|a| &a.measures).for_each(|m| notes.take(&m.tau_b));
        notes
    }

    fn take_cost(&mut self, cost: &Cost) {
        self.take(&cost.joules);
        if cost.joules.value().is_some() {
            // Otherwise they lack what the joules lack.
            [&cost.above_idle_joules, &cost.joules_per_image].into_iter().for_each(|reading| self.take(reading));
        }
        let ScoreSummaries { ns, ns_e, ns_m, ns_sharp } = &cost.scores;
        [ns, ns_e, ns_m, ns_sharp].into_iter().for_each(|score| self.take(score));
    }

    fn take<T>(&mut self, reading: &Reading<T>) {
        if let Reading::Unavailable(reason) = reading
            && !self.reasons.contains(reason)
        {
            self.reasons.push(reason.clone());
        }
    }

    /// The number of a reason, which is a new one if it was not there.
    pub(super) fn add(&mut self, reason: &str) -> usize {
        self.number(reason).unwrap_or_else(|| {
            self.reasons.push(reason.to_owned());
            self.reasons.len()
        })
    }

    /// The number of a reason.
    pub(super) fn number(&self, reason: &str) -> Option<usize> {
        self.reasons.iter().position(|r| r == reason).map(|i| i + 1)
    }

    /// The numbered reasons.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        self.reasons.iter().enumerate().map(|(i, r)| (i + 1, r.as_str()))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }
}
