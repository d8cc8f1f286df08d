//! What is always true, as sentences, and who watches over it.
//!
//! 1. What a caller was told is in the journal after any crash.
//! 2. No acknowledged record is ever lost.
//! 3. A trial has at most one current lease, and a slot holds at most one.
//! 4. An attempt number never falls, and belongs to one slot only.
//! 5. Every trial is recorded once; a report under an old attempt never changes the statistics.
//! 6. Nothing is granted to who is not registered.
//! 7. No lease is lost by a silence that is shorter than its time, nor by a restart that never was.
//! 8. A slot runs at most one worker.
//! 9. A record is durable on the agent's disk before the coordinator hears of it.
//! 10. A complete record that was durable is in the journal in the end, as the trial's or as superseded.
//! 11. A campaign always finishes once faults stop, and then nothing is left on either side.
//! 12. In the end the coordinator knows what data sets and weights each agent has.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::id::{AgentId, Attempt, SlotId, TrialId};
use fleet_common::lease::{Holder, LeaseTerms, Release};
use fleet_common::record::OutcomeClass;
use fleet_coordinator::core::{Event, Reported, State};

use crate::contract::short;
use crate::queue::At;

/// A trial as its events tell it.
#[derive(Debug, Clone, Default)]
struct Shadow {
    attempt: Option<Attempt>,
    leased: Option<Holder>,
    recorded: bool,
    /// When its lease was last renewed, on the coordinator's monotonic clock.
    renewed: u64,
}

/// The watch over everything that is promised.
#[derive(Debug, Default)]
pub(crate) struct Check {
    trials: BTreeMap<TrialId, Shadow>,
    /// All events that ever got a number that counts.
    history: Vec<(u64, Event)>,
    /// The number of the last event that somebody was told of.
    promised: u64,
    /// The highest attempt that an agent ever received.
    received: BTreeMap<TrialId, Attempt>,
    /// To whom an agent's attempt was given.
    given: BTreeMap<(TrialId, Attempt), Holder>,
    registered: BTreeSet<(AgentId, SlotId)>,
    /// Complete records that were durable on an agent's disk.
    kept: BTreeMap<Vec<u8>, (TrialId, Attempt)>,
    /// Stretches in the middle of what was written were lost: later events may not fit.
    pub holes: bool,
    violation: Option<String>,
}

impl Check {
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Notes that something is not as promised. The first one counts.
    pub(crate) fn violated(&mut self, sentence: u8, what: String) {
        self.violation.get_or_insert_with(|| format!("promise {sentence}: {what}"));
    }

    pub(crate) fn registered(&mut self, agent: &AgentId, slots: impl Iterator<Item = SlotId>) {
        self.registered.retain(|(a, _)| a != agent);
        self.registered.extend(slots.map(|slot| (agent.clone(), slot)));
    }

    /// The coordinator accepted a claim, or began or went on and gave every lease its full time.
    pub(crate) fn renewed(&mut self, trial: &TrialId, mono: u64) {
        if let Some(shadow) = self.trials.get_mut(trial) {
            shadow.renewed = mono;
        }
    }

    pub(crate) fn renewed_all(&mut self, mono: u64) {
        self.trials.values_mut().for_each(|shadow| shadow.renewed = mono);
    }

    /// Who holds a trial.
    pub(crate) fn holder(&self, trial: &TrialId) -> Option<Holder> {
        self.trials.get(trial)?.leased.clone()
    }

    /// The core said that this happened; it is not durable yet.
    pub(crate) fn event(&mut self, event: &Event, mono: u64, terms: &LeaseTerms) {
        match event {
            Event::LeaseGranted { trial, attempt, holder } => {
                if !self.registered.contains(&(holder.agent.clone(), holder.slot.clone())) {
                    self.violated(
                        6,
                        format!("{} is granted to {}, which is not registered", short(trial), holder.agent),
                    );
                }
                let shadow = self.trials.entry(trial.clone()).or_default();
                let (before, leased, recorded) = (shadow.attempt, shadow.leased.clone(), shadow.recorded);
                if leased.is_some() || recorded {
                    self.violated(3, format!("{} is granted while it is leased or recorded", short(trial)));
                }
                if before.is_some_and(|b| b >= *attempt) || self.received.get(trial).is_some_and(|r| r >= attempt) {
                    self.violated(4, format!("{} is granted under {attempt} again", short(trial)));
                }
            }
            Event::LeaseResumed { trial, attempt, .. } => {
                let shadow = self.trials.entry(trial.clone()).or_default();
                if shadow.leased.is_some() || shadow.recorded || shadow.attempt != Some(*attempt) {
                    self.violated(3, format!("{} attempt {attempt} is resumed, and is not free", short(trial)));
                }
            }
            Event::LeaseReleased { trial, cause: Release::Silent, .. } => {
                let renewed = self.trials.get(trial).map_or(0, |s| s.renewed);
                let silence = mono.saturating_sub(renewed);
                if silence < terms.time_ms || silence < terms.renew_every_ms * u64::from(terms.missed_renewals) {
                    self.violated(7, format!("{} is lost after {silence} ms of silence", short(trial)));
                }
            }
            Event::TrialRecorded { trial, attempt, record, class, .. } => {
                let shadow = self.trials.entry(trial.clone()).or_default();
                let (recorded, current, leased) = (shadow.recorded, shadow.attempt, shadow.leased.clone());
                if recorded {
                    self.violated(5, format!("{} is recorded twice", short(trial)));
                }
                let made_by = leased.map(|h| made_by(trial, *attempt, &h.agent, &h.slot)).unwrap_or_default();
                if current != Some(*attempt) || !record.starts_with(&made_by) || made_by.is_empty() {
                    self.violated(5, format!("attempt {attempt} of {} counts, which does not hold it", short(trial)));
                }
                if *class == OutcomeClass::Cancelled {
                    self.violated(5, format!("{} is recorded as cancelled", short(trial)));
                }
            }
            _ => {}
        }
        self.fold(event, mono);
    }

    fn fold(&mut self, event: &Event, mono: u64) {
        let trial = match event {
            Event::LeaseGranted { trial, .. }
            | Event::LeaseResumed { trial, .. }
            | Event::LeaseReleased { trial, .. }
            | Event::TrialRecorded { trial, .. }
            | Event::TrialRetried { trial, .. } => trial,
            _ => return,
        };
        let shadow = self.trials.entry(trial.clone()).or_default();
        match event {
            Event::LeaseGranted { attempt, holder, .. } | Event::LeaseResumed { attempt, holder, .. } => {
                (shadow.attempt, shadow.leased, shadow.renewed) = (Some(*attempt), Some(holder.clone()), mono);
            }
            Event::LeaseReleased { .. } => shadow.leased = None,
            Event::TrialRecorded { .. } => (shadow.leased, shadow.recorded) = (None, true),
            Event::TrialRetried { .. } => shadow.recorded = false,
            _ => {}
        }
    }

    /// Campaigns changed: what nobody wants any more is called off, and is no longer leased.
    pub(crate) fn called_off(&mut self, state: &State) {
        for (id, shadow) in self.trials.iter_mut().filter(|(_, shadow)| shadow.leased.is_some()) {
            if state.trial(id).is_none_or(|t| t.life.holder().is_none()) {
                shadow.leased = None;
            }
        }
    }

    /// An event got its number.
    pub(crate) fn numbered(&mut self, number: u64, event: Event) {
        self.history.push((number, event));
    }

    /// Somebody is told what depends on all events up to now.
    pub(crate) fn promised(&mut self) {
        self.promised = self.promised.max(self.history.last().map_or(0, |(number, _)| *number));
    }

    /// The coordinator goes on from what its disk holds.
    pub(crate) fn back_to(&mut self, state: &State, events: Vec<(u64, Event)>, misfits: &[String], mono: u64) {
        let told = self.history.partition_point(|(number, _)| *number <= self.promised);
        let lost = (0..told).find(|i| events.get(*i) != self.history.get(*i));
        if let Some(i) = lost {
            let (number, event) = &self.history[i];
            self.violated(1, format!("event {number} was told and is not in the journal: {event:?}"));
        }
        if !self.holes && !misfits.is_empty() {
            self.violated(1, format!("the journal does not fit together: {misfits:?}"));
        }
        self.trials.clear();
        for (_, event) in &events {
            self.fold(event, mono);
        }
        self.called_off(state);
        self.history = events;
    }

    /// The state, after anything that happened to the coordinator.
    pub(crate) fn state(&mut self, state: &State) {
        let mut seen = BTreeSet::new();
        for (holder, trial) in state.leases() {
            let life = state.trial(trial).map(|t| &t.life);
            let held = life.is_some_and(|l| l.attempt.is_some_and(|attempt| l.is_held(holder, attempt)));
            if !seen.insert(trial) || !held {
                self.violated(3, format!("{} is leased to {}, which does not hold it", short(trial), holder.agent));
                return;
            }
        }
    }

    /// An agent received a lease.
    pub(crate) fn received(&mut self, trial: &TrialId, attempt: Attempt, holder: Holder) {
        let highest = self.received.entry(trial.clone()).or_insert(attempt);
        *highest = (*highest).max(attempt);
        let to = self.given.entry((trial.clone(), attempt)).or_insert_with(|| holder.clone());
        if *to != holder {
            let text = format!("attempt {attempt} of {} is with {} and {}", short(trial), to.agent, holder.agent);
            self.violated(4, text);
        }
    }

    /// A record is durable on an agent's disk.
    pub(crate) fn kept(&mut self, trial: &TrialId, attempt: Attempt, class: OutcomeClass, bytes: &[u8]) {
        if class.is_result() {
            self.kept.insert(bytes.to_vec(), (trial.clone(), attempt));
        }
    }

    /// An agent was told what became of its record.
    pub(crate) fn acknowledged(&mut self, trial: &TrialId, class: OutcomeClass, reported: Reported) {
        if class.is_result() && reported == Reported::NotWanted {
            self.violated(2, format!("a complete record of {} is dropped", short(trial)));
        }
    }

    /// The end: all that ever was kept is in the journal.
    pub(crate) fn at_the_end(&mut self, events: &[(u64, Event)]) {
        let mut stored = BTreeSet::new();
        let mut attempts = BTreeSet::new();
        for (_, event) in events {
            match event {
                Event::TrialRecorded { trial, attempt, record, .. } => {
                    stored.insert(record);
                    attempts.insert((trial, attempt));
                }
                Event::ReportSuperseded { record, .. } => {
                    stored.insert(record);
                }
                _ => {}
            }
        }
        // One attempt may run twice in its slot, when the agent's release was lost; its first record counts.
        let missing = self
            .kept
            .iter()
            .find(|(bytes, (trial, attempt))| !stored.contains(bytes) && !attempts.contains(&(trial, attempt)));
        if let Some((_, (trial, attempt))) = missing {
            let text = format!("the record of {} attempt {attempt} was durable and is nowhere", short(trial));
            self.violated(10, text);
        }
    }
}

/// What a record of the simulation begins with.
pub(crate) fn made_by(trial: &TrialId, attempt: Attempt, agent: &AgentId, slot: &SlotId) -> Vec<u8> {
    format!("{trial} {attempt} {agent} {slot} ").into_bytes()
}

/// A moment for people.
pub(crate) fn clock(at: At) -> String {
    format!("{}:{:02}.{:03}", at / 60_000, at / 1_000 % 60, at % 1_000)
}
