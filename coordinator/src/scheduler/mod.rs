//! Which waiting trial a free slot gets.
//!
//! A queue of items, each with a rank and an optional colour. A server has one colour. It takes the item of lowest
//! rank among those of its own colour and those without one. See `README.md` beside this file.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::canonical::sha256_hex;
use fleet_common::id::{CampaignName, HardwareClass, TrialId};

/// The place of a trial in line: campaigns in the order of their submission, all first repeats before the second ones,
/// and within a repeat an order that looks random but is the campaign's own. Measured in the order of the matrix, a
/// machine that warms up or slows down over the night would look like a property of the last method.
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
}

/// The trials that wait, in line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// By the hardware class asked for.
    lines: BTreeMap<Option<HardwareClass>, BTreeSet<(Rank, TrialId)>>,
}

impl Queue {
    /// Puts a trial in line.
    pub fn insert(&mut self, rank: Rank, trial: TrialId) {
        self.lines.entry(trial.hardware.clone()).or_default().insert((rank, trial));
    }

    /// Takes a trial out of line.
    pub fn remove(&mut self, rank: Rank, trial: &TrialId) {
        if let Some(line) = self.lines.get_mut(&trial.hardware) {
            line.remove(&(rank, trial.clone()));
            if line.is_empty() {
                self.lines.remove(&trial.hardware);
            }
        }
    }

    /// The trials that a slot of class `hardware` could get, the next one first.
    pub fn line_for(&self, hardware: &HardwareClass) -> impl Iterator<Item = &TrialId> {
        let line = |class: Option<HardwareClass>| self.lines.get(&class).into_iter().flatten().peekable();
        let (mut any, mut own) = (line(None), line(Some(hardware.clone())));
        // Two ordered lines, merged.
        std::iter::from_fn(move || match (any.peek(), own.peek()) {
            (Some(a), Some(b)) if a <= b => any.next(),
            (_, Some(_)) => own.next(),
            _ => any.next(),
        })
        .map(|(_, trial)| trial)
    }

    /// Why a trial waits, given the classes of all known slots.
    pub fn reason(trial: &TrialId, classes: &BTreeSet<HardwareClass>) -> String {
        match &trial.hardware {
            _ if classes.is_empty() => "no agent is connected".to_owned(),
            Some(class) if !classes.contains(class) => format!("no connected agent has a {class}"),
            _ => "every slot that could run it is busy".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trial(cell: u32, hardware: Option<&str>, repeat: u32) -> TrialId {
        TrialId {
            cell: format!("{cell:032x}").parse().expect("an id"),
            hardware: hardware.map(|h| h.parse().expect("a class")),
            repeat,
        }
    }

    proptest! {
        /// Against the definition: by rank, those that may run on the class, whatever the order of insertion.
        #[test]
        fn the_line_is_those_that_fit_by_rank(
            items in prop::collection::vec((0u64..3, 0u32..2, 0u32..40, prop::option::of(0u8..3)), 0..60),
            class in 0u8..4,
        ) {
            let name: CampaignName = "c".parse().expect("a name");
            let class_name = |c: u8| ["A", "B", "C", "D"][usize::from(c)];
            let mut queue = Queue::default();
            let mut all: Vec<(Rank, TrialId)> = items
                .into_iter()
                .map(|(campaign, repeat, cell, hardware)| {
                    let t = trial(cell, hardware.map(class_name), repeat);
                    (Rank::of(campaign, &name, &t), t)
                })
                .collect();
            for (rank, t) in &all {
                queue.insert(*rank, t.clone());
            }
            let wanted: HardwareClass = class_name(class).parse().expect("a class");
            all.retain(|(_, t)| t.hardware.as_ref().is_none_or(|h| *h == wanted));
            all.sort();
            all.dedup();
            prop_assert_eq!(queue.line_for(&wanted).collect::<Vec<_>>(), all.iter().map(|(_, t)| t).collect::<Vec<_>>());
            for (rank, t) in &all {
                queue.remove(*rank, t);
            }
            prop_assert_eq!(queue.line_for(&wanted).next(), None);
        }
    }

    #[test]
    fn repeats_are_interleaved_and_the_order_is_the_campaigns_own() {
        let order = |name: &str| -> Vec<TrialId> {
            let name: CampaignName = name.parse().expect("a name");
            let mut ranked: Vec<_> = (0..20)
                .flat_map(|cell| (0..2).map(move |repeat| trial(cell, None, repeat)))
                .map(|t| (Rank::of(0, &name, &t), t))
                .collect();
            ranked.sort();
            ranked.into_iter().map(|(_, t)| t).collect()
        };
        let (a, b) = (order("a"), order("b"));
        assert!(a[..20].iter().all(|t| t.repeat == 0) && a[20..].iter().all(|t| t.repeat == 1));
        assert_ne!(a, b);
        assert_eq!(a, order("a"));
        assert!(a[..20].windows(2).any(|w| w[0] > w[1]), "not in the order of the matrix");
    }

    #[test]
    fn every_waiting_trial_has_a_reason() {
        let (a, b) = (trial(1, Some("A"), 0), trial(1, None, 0));
        let classes = |names: &[&str]| names.iter().map(|n| n.parse().expect("a class")).collect::<BTreeSet<_>>();
        assert_eq!(Queue::reason(&a, &classes(&[])), "no agent is connected");
        assert_eq!(Queue::reason(&a, &classes(&["B"])), "no connected agent has a A");
        assert_eq!(Queue::reason(&b, &classes(&["B"])), "every slot that could run it is busy");
    }
}
