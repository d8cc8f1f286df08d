//! The slots as the scheduler sees them, and draining them.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::id::{AgentId, HardwareClass, SlotId, TrialId};
use fleet_common::lease::{Holder, Release};
use fleet_common::spec::Select;
use fleet_common::tags::Tags;

use super::{Core, Event, Refusal, Reply, SlotInfo, Token};
use crate::scheduler::{Fleet, Server};

/// What a process on a GPU takes of it beside its tensors: the CUDA context, 300–500 MB.
const CONTEXT: u64 = 512 << 20;

/// What a slot says of itself beyond its class and memory; nothing where its agent is of an earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotAbout {
    /// The device's name, without what an operator appended to its class.
    pub model: String,
    /// Version of the GPU's driver; empty for a CPU.
    pub driver: String,
    /// Such as "8.9"; empty for a CPU.
    pub compute_capability: String,
    /// What the operator says of it.
    pub tags: Tags,
    /// Budgets above this are not for it.
    pub limit_bytes: Option<u64>,
    /// What is wrong with the device.
    pub fault: Option<String>,
}

/// What draining or undraining changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Slots.
    pub slots: u64,
    /// Trials at work on them.
    pub running: u64,
    /// Of them, those that were given back.
    pub returned: u64,
}

impl SlotInfo {
    /// The device's name.
    pub fn model(&self) -> &str {
        if self.about.model.is_empty() { self.hardware.as_str() } else { &self.about.model }
    }

    /// Whether a campaign that selects so may run here.
    pub fn is_selected(&self, select: &Select) -> bool {
        select.mismatch(self.model(), |key| self.about.tags.get(key), self.memory_bytes).is_none()
    }

    fn server(&self, drained: Option<String>) -> Server {
        Server {
            class: self.hardware.clone(),
            model: self.model().to_owned(),
            memory_bytes: self.memory_bytes,
            overhead_bytes: if self.about.driver.is_empty() { 0 } else { CONTEXT },
            limit_bytes: self.about.limit_bytes,
            tags: self.about.tags.clone(),
            drained,
        }
    }
}

impl Core {
    /// The classes of all connected slots that meet a selection, each once.
    pub(super) fn classes(&self, select: &Select) -> BTreeSet<HardwareClass> {
        let slots = self.agents.values().flat_map(|a| &a.slots).filter(|s| s.is_selected(select));
        slots.map(|s| s.hardware.clone()).collect()
    }

    /// What the scheduler sees follows what agents say and what is drained.
    pub(super) fn refresh_fleet(&mut self) {
        let mut servers = BTreeMap::new();
        for (agent, known) in &self.agents {
            for slot in &known.slots {
                let holder = Holder { agent: agent.clone(), slot: slot.slot.clone() };
                let drained = self.state.drains().of(&holder).map(super::Drain::describe);
                servers.insert(holder, slot.server(drained));
            }
        }
        self.fleet = Fleet::new(servers, self.closed);
        self.questions.wake_all();
    }

    /// Takes the slots on which agents found something wrong out of work.
    pub(super) fn quarantine(&mut self, agent: &AgentId, slots: &[SlotInfo]) {
        for slot in slots {
            let Some(fault) = &slot.about.fault else { continue };
            let holder = Holder { agent: agent.clone(), slot: slot.slot.clone() };
            if self.state.drains().is_news(&holder, fault) {
                let (agent, slot) = (agent.clone(), Some(holder.slot));
                self.record(Event::SlotsDrained { agent, slot, reason: fault.clone(), fault: true });
            }
        }
    }

    /// Whether a slot was taken out of work for a fault of its device.
    pub(super) fn is_quarantined(&self, holder: &Holder) -> bool {
        self.state.drains().of(holder).is_some_and(|d| d.fault)
    }

    /// The slots that a request is about, or why there are none.
    fn meant(&self, agent: &AgentId, slot: Option<&SlotId>) -> Result<Vec<Holder>, Refusal> {
        let holder = |slot: &SlotId| Holder { agent: agent.clone(), slot: slot.clone() };
        let Some(known) = self.agents.get(agent) else {
            if self.state.drains().knows(agent) {
                return Ok(slot.map(holder).into_iter().collect());
            }
            let names = self.agents.keys().chain(self.state.drains().agents()).map(AgentId::as_str);
            let names: BTreeSet<&str> = names.collect();
            let hint = match fleet_common::spec::nearest(agent.as_str(), names.iter().copied()) {
                Some(nearest) => format!("did you mean \"{nearest}\"?"),
                None if names.is_empty() => "no agent is connected".to_owned(),
                None => format!("there are {}", names.into_iter().collect::<Vec<_>>().join(", ")),
            };
            return Err(Refusal::NotNow(format!("no agent is called \"{agent}\"; {hint} (`fleet agents` lists them)")));
        };
        match slot {
            Some(slot) if known.slots.iter().all(|s| s.slot != *slot) => {
                let slots: Vec<&str> = known.slots.iter().map(|s| s.slot.as_str()).collect();
                let has = slots.join(", ");
                Err(Refusal::NotNow(format!("agent {agent} has no slot \"{slot}\"; it has {has}")))
            }
            Some(slot) => Ok(vec![holder(slot)]),
            None => Ok(known.slots.iter().map(|s| holder(&s.slot)).collect()),
        }
    }

    pub(super) fn drain(&mut self, token: Token, agent: AgentId, slot: Option<SlotId>, reason: String, now: bool) {
        let holders = match self.meant(&agent, slot.as_ref()) {
            Ok(holders) => holders,
            Err(refusal) => return self.reply(token, Reply::Drained(Err(refusal))),
        };
        let open = |core: &Self| holders.iter().filter(|h| core.state.drains().of(h).is_none()).count() as u64;
        let before = open(self);
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        self.record(Event::SlotsDrained { agent, slot, reason, fault: false });
        self.refresh_fleet();
        let running: Vec<(Holder, TrialId)> =
            holders.iter().filter_map(|h| Some((h.clone(), self.state.held_by(h)?.clone()))).collect();
        let mut outcome = Drained { slots: before - open(self), running: running.len() as u64, returned: 0 };
        for (holder, trial) in running.into_iter().filter(|_| now) {
            let attempt = self.state.trial(&trial).and_then(|t| t.life.attempt);
            if let Some(attempt) = attempt {
                let reason = format!("{} on {} was drained at once{why}", holder.slot, holder.agent);
                self.progress.remove(&trial);
                self.record(Event::LeaseReleased { trial, attempt, cause: Release::Returned, reason });
                outcome.returned += 1;
            }
        }
        self.reply(token, Reply::Drained(Ok(outcome)));
    }

    pub(super) fn undrain(&mut self, token: Token, agent: AgentId, slot: Option<SlotId>) {
        let holders = match self.meant(&agent, slot.as_ref()) {
            Ok(holders) => holders,
            Err(refusal) => return self.reply(token, Reply::Drained(Err(refusal))),
        };
        let drained = |core: &Self| holders.iter().filter(|h| core.state.drains().of(h).is_some()).count() as u64;
        let before = drained(self);
        let known = self.state.drains().knows(&agent);
        if known {
            self.record(Event::SlotsUndrained { agent: agent.clone(), slot: slot.clone() });
            self.refresh_fleet();
        }
        let after = drained(self);
        if slot.is_some() && before > 0 && after == before {
            let refusal = Refusal::NotNow(format!(
                "all of agent {agent} is drained, so this slot cannot be undrained alone; `fleet agents undrain {agent}` \
                 opens all of its slots"
            ));
            return self.reply(token, Reply::Drained(Err(refusal)));
        }
        self.reply(token, Reply::Drained(Ok(Drained { slots: before - after, ..Drained::default() })));
    }
}
