//! Slots on which nothing new runs, and why.

use std::collections::BTreeMap;

use fleet_common::id::{AgentId, SlotId};
use fleet_common::lease::Holder;
use serde::{Deserialize, Serialize};

/// Why nothing new runs on a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// In words.
    pub reason: String,
    /// Its agent found something wrong with the device; otherwise an operator wanted it.
    pub fault: bool,
    /// Since when, milliseconds since 1970.
    pub since_unix_ms: u64,
}

impl Drain {
    /// Who drained it, and why: "drained by an operator: new fans".
    pub fn describe(&self) -> String {
        match (self.fault, self.reason.is_empty()) {
            (true, _) => format!("quarantined, because its agent found a fault: {}", self.reason),
            (false, true) => "drained by an operator".to_owned(),
            (false, false) => format!("drained by an operator: {}", self.reason),
        }
    }
}

/// What of an agent is drained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    whole: Option<Drain>,
    slots: BTreeMap<SlotId, Drain>,
    /// Faults that an operator has seen and dismissed: the same words again drain nothing.
    dismissed: BTreeMap<SlotId, String>,
}

/// All that is drained. Durable: an operator who drained a machine for the night must not find it at work after a
/// restart of the coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drains(BTreeMap<AgentId, Of>);

impl Drains {
    /// Why nothing new runs on a slot.
    pub fn of(&self, holder: &Holder) -> Option<&Drain> {
        let of = self.0.get(&holder.agent)?;
        of.slots.get(&holder.slot).or(of.whole.as_ref())
    }

    /// Whether anything is known of an agent here.
    pub fn knows(&self, agent: &AgentId) -> bool {
        self.0.get(agent).is_some_and(|of| of.whole.is_some() || !of.slots.is_empty())
    }

    /// Agents of which something is drained.
    pub fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.0.iter().filter(|(_, of)| of.whole.is_some() || !of.slots.is_empty()).map(|(agent, _)| agent)
    }

    /// Whether this fault is news.
    pub fn is_news(&self, holder: &Holder, fault: &str) -> bool {
        let Some(of) = self.0.get(&holder.agent) else { return true };
        let known = of.slots.get(&holder.slot).is_some_and(|d| d.fault && d.reason == fault);
        !known && of.dismissed.get(&holder.slot).is_none_or(|dismissed| dismissed != fault)
    }

    pub(super) fn drain(&mut self, agent: &AgentId, slot: Option<&SlotId>, drain: Drain) {
        let of = self.0.entry(agent.clone()).or_default();
        match slot {
            Some(slot) => {
                of.slots.insert(slot.clone(), drain);
            }
            None => of.whole = Some(drain),
        }
    }

    pub(super) fn undrain(&mut self, agent: &AgentId, slot: Option<&SlotId>) {
        let Some(of) = self.0.get_mut(agent) else { return };
        let ended: Vec<SlotId> = match slot {
            Some(slot) => vec![slot.clone()],
            None => of.slots.keys().cloned().collect(),
        };
        if slot.is_none() {
            of.whole = None;
        }
        for slot in ended {
            if let Some(drain) = of.slots.remove(&slot).filter(|d| d.fault) {
                of.dismissed.insert(slot, drain.reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_drained_by_itself_or_with_its_agent_and_a_dismissed_fault_stays_dismissed() {
        let holder = |slot: &str| Holder { agent: "a".parse().expect("an id"), slot: slot.parse().expect("a slot") };
        let (zero, one) = (holder("cuda:0"), holder("cuda:1"));
        let drain = |reason: &str, fault| Drain { reason: reason.into(), fault, since_unix_ms: 1 };
        let mut drains = Drains::default();
        drains.drain(&zero.agent, Some(&zero.slot), drain("Xid 79", true));
        assert!(drains.of(&one).is_none() && drains.of(&zero).is_some_and(|d| d.fault));
        assert!(!drains.is_news(&zero, "Xid 79") && drains.is_news(&zero, "Xid 48") && drains.is_news(&one, "Xid 79"));
        drains.drain(&zero.agent, None, drain("fans", false));
        assert_eq!(drains.of(&one).map(Drain::describe).as_deref(), Some("drained by an operator: fans"));
        drains.undrain(&zero.agent, None);
        assert!(drains.of(&one).is_none() && drains.of(&zero).is_none() && !drains.knows(&zero.agent));
        assert!(!drains.is_news(&zero, "Xid 79") && drains.is_news(&zero, "Xid 48"));
    }
}
