//! States in the artifact store, from which trials go on that were interrupted: also on another machine, of the same
//! hardware class.

use fleet_common::id::{AgentId, Attempt, HardwareClass, TrialId};
use fleet_common::lease::{CALLED_OFF, FINISHED, Holder, TrialState};
use fleet_common::wire::{WireError, v1};

use super::{Core, Event};

/// States of one trial are noted this often at most, milliseconds. Agents save once a minute; the journal must not
/// grow because one of them does not know when to stop.
const LEAST_BETWEEN_MS: u64 = 500;
/// The longest name that an artifact has.
const LONGEST_NAME: usize = 512;

/// A state in the artifact store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumable {
    /// The attempt that left it.
    pub attempt: Attempt,
    /// Optimiser steps done.
    pub step: u32,
    /// Its name in the store.
    pub artifact: String,
    /// Its length.
    pub bytes: u64,
    /// The hardware class that it was made on.
    pub hardware: HardwareClass,
}

/// What became of a state that an agent told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// It is what the trial goes on from.
    Noted {
        /// The artifact that nobody wants any more.
        replaced: Option<String>,
    },
    /// It is not, for this reason.
    NotWanted {
        /// The reason.
        reason: String,
        /// Another attempt has begun, or the trial has its record: nobody will want it later.
        overtaken: bool,
    },
    /// The one before was told of a moment ago: again later.
    TooSoon,
}

impl Core {
    /// A state is in the store. It counts if its attempt is the trial's latest, and nobody has begun another since.
    pub(super) fn saved(&mut self, holder: &Holder, trial: TrialId, state: Resumable) -> Saved {
        let Some(entry) = self.state.trial(&trial) else {
            let reason = "the coordinator does not know this trial".to_owned();
            return Saved::NotWanted { reason, overtaken: false };
        };
        let (life, attempt) = (&entry.life, state.attempt);
        let is_latest = life.is_held(holder, attempt) || life.waits_after(attempt);
        if !is_latest {
            let (reason, overtaken) = match life.state {
                TrialState::Finished => (FINISHED.to_owned(), true),
                TrialState::Cancelled => (CALLED_OFF.to_owned(), false),
                _ => (format!("attempt {attempt} is over"), life.attempt > Some(attempt)),
            };
            return Saved::NotWanted { reason, overtaken };
        }
        let before = self.state.resumable(&trial);
        if before == Some(&state) {
            return Saved::Noted { replaced: None };
        }
        if let Some(before) = before.filter(|b| (b.attempt, b.step) >= (attempt, state.step)) {
            let reason = format!("step {} of attempt {} is there already", before.step, before.attempt);
            return Saved::NotWanted { reason, overtaken: false };
        }
        if self.saved.get(&trial).is_some_and(|at| self.now.mono.0.saturating_sub(at.0) < LEAST_BETWEEN_MS) {
            return Saved::TooSoon;
        }
        let replaced = before.map(|b| b.artifact.clone()).filter(|name| *name != state.artifact);
        self.saved.insert(trial.clone(), self.now.mono);
        self.record(Event::StateSaved { trial, state });
        Saved::Noted { replaced }
    }

    /// What a holder goes on from: joules of unlike hardware are not added up, so a slot of another class starts over.
    pub(super) fn resume_for(&self, trial: &TrialId, holder: &Holder) -> Option<Result<Resumable, String>> {
        let state = self.state.resumable(trial)?;
        Some(if self.class_of(holder) == Some(&state.hardware) {
            Ok(state.clone())
        } else {
            Err(format!(
                "the state that attempt {} left at step {} is of other hardware ({})",
                state.attempt, state.step, state.hardware
            ))
        })
    }

    /// Whether there is any state that a trial would go on from.
    pub(super) fn has_states(&self) -> bool {
        self.state.resumables().next().is_some()
    }

    /// 3 where a trial goes on from a state that is there already, 2 where its state has to be fetched, 1 if it has none,
    /// 0 where it would start over although it has one.
    pub(super) fn is_where_its_state_counts(&self, trial: &TrialId, holder: &Holder) -> u32 {
        match (self.state.resumable(trial), self.class_of(holder)) {
            (None, _) => 1,
            (Some(state), Some(class)) if *class == state.hardware => {
                2 + u32::from(self.state.granted_to(trial, state.attempt) == Some(&holder.agent))
            }
            (Some(_), _) => 0,
        }
    }

    fn class_of(&self, holder: &Holder) -> Option<&HardwareClass> {
        let slots = &self.agents.get(&holder.agent)?.slots;
        slots.iter().find(|slot| slot.slot == holder.slot).map(|slot| &slot.hardware)
    }

    /// Whether an agent may read a state: one that a trial of its own would go on from.
    pub(super) fn may_read(&self, agent: &AgentId, artifact: &str) -> bool {
        let mut its_own = self.state.held_by_agent(agent).map(|(_, trial)| trial);
        its_own.any(|trial| self.state.resumable(trial).is_some_and(|state| state.artifact == artifact))
    }

    /// Forgets when states were noted that need no longer be waited for.
    pub(super) fn forget_saves(&mut self) {
        let now = self.now.mono.0;
        self.saved.retain(|_, at| now.saturating_sub(at.0) < LEAST_BETWEEN_MS);
    }
}

impl From<&Resumable> for v1::ResumableState {
    fn from(state: &Resumable) -> Self {
        Self {
            attempt: state.attempt.get(),
            step: state.step,
            artifact: state.artifact.clone(),
            bytes: state.bytes,
            hardware: state.hardware.to_string(),
        }
    }
}

impl TryFrom<v1::ResumableState> for Resumable {
    type Error = WireError;
    fn try_from(state: v1::ResumableState) -> Result<Self, WireError> {
        if state.artifact.is_empty() || state.artifact.len() > LONGEST_NAME {
            return Err(WireError::Invalid(format!(
                "expected the name of an artifact of 1 to {LONGEST_NAME} bytes, found {}",
                state.artifact.len()
            )));
        }
        Ok(Self {
            attempt: state.attempt.try_into()?,
            step: state.step,
            artifact: state.artifact,
            bytes: state.bytes,
            hardware: state.hardware.parse()?,
        })
    }
}
