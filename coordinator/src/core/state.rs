//! What the coordinator knows that must survive: a fold over the events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fleet_common::id::{AgentId, Attempt, CampaignName, CellId, TrialId};
use fleet_common::lease::{Holder, InvalidTransition, Millis, Release, Trial, TrialState};
use fleet_common::record::OutcomeClass;
use fleet_common::spec::Output;

use super::event::{CellEntry, Event};
use super::imports::Imports;
use super::resumable::Resumable;
use crate::scheduler::{Queue, Rank};

/// A campaign.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// Its file.
    pub toml: String,
    /// Its trials, in the order of the plan.
    pub trials: Vec<TrialId>,
    /// Combinations left out, as JSON.
    pub excluded_json: Vec<String>,
    /// The planner's warnings.
    pub warnings: Vec<String>,
    /// What agents keep.
    pub keep: Output,
    /// When it was (last) submitted, milliseconds since 1970.
    pub submitted_unix_ms: u64,
    /// It was called off.
    pub cancelled: bool,
}

/// A trial and what surrounds it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialEntry {
    /// Its life so far.
    pub life: Trial,
    /// Its place in line when it waits.
    pub rank: Rank,
    /// Class of its outcome, once it has ended with one.
    pub class: Option<OutcomeClass>,
    /// Why it was last released or given up.
    pub note: Option<String>,
    /// Reports that came too late.
    pub superseded: u32,
    /// Energy that attempts took and that is in no record, as documents.
    pub wasted: BTreeMap<Attempt, Vec<u8>>,
    /// Slots on which it failed: others are tried first.
    pub failed_on: BTreeSet<Holder>,
    /// Campaigns that ask for it and were not called off.
    wanted_by: BTreeSet<CampaignName>,
}

/// Everything that the journal says, folded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    campaigns: BTreeMap<CampaignName, Campaign>,
    cells: HashMap<CellId, Arc<CellEntry>>,
    trials: BTreeMap<TrialId, TrialEntry>,
    /// Which trial a slot holds.
    held: BTreeMap<Holder, TrialId>,
    queue: Queue,
    submissions: u64,
    imports: Imports,
    /// The state that each trial would go on from.
    resumables: BTreeMap<TrialId, Resumable>,
}

/// An event that does not follow from what went before: a slip of the core, or a journal with a hole in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The drawing of `fleet_common::lease` has no such arrow.
    #[error("trial {trial}: {source}")]
    Transition {
        /// Which trial.
        trial: TrialId,
        /// What was tried.
        source: InvalidTransition,
    },
    /// The event names something that was never introduced.
    #[error("{0} is not known")]
    Unknown(String),
}

impl State {
    /// Folds one event in. `now` is when leases count as renewed; `at_unix_ms` is when the event happened.
    ///
    /// # Errors
    /// The event does not fit; the state is then as before, but for submissions, which always fit.
    pub fn apply(&mut self, event: &Event, now: Millis, at_unix_ms: u64) -> Result<(), ApplyError> {
        match event {
            Event::CampaignSubmitted(s) => {
                for cell in &s.cells {
                    // The latest submission knows best where the data is.
                    self.cells.insert(cell.id.clone(), Arc::new(cell.clone()));
                }
                let campaign = Campaign {
                    toml: s.toml.clone(),
                    trials: s.trials.clone(),
                    excluded_json: s.excluded_json.clone(),
                    warnings: s.warnings.clone(),
                    keep: s.keep,
                    submitted_unix_ms: at_unix_ms,
                    cancelled: false,
                };
                let before = self.campaigns.insert(s.name.clone(), campaign);
                let wanted: BTreeSet<&TrialId> = s.trials.iter().collect();
                for trial in before.iter().flat_map(|b| &b.trials).filter(|t| !wanted.contains(t)) {
                    self.unwant(trial, &s.name);
                }
                for trial in &s.trials {
                    self.want(trial, &s.name);
                }
                self.submissions += 1;
                Ok(())
            }
            Event::CampaignCancelled { name } => {
                let campaign =
                    self.campaigns.get_mut(name).ok_or_else(|| ApplyError::Unknown(format!("campaign {name}")))?;
                campaign.cancelled = true;
                for trial in campaign.trials.clone() {
                    self.unwant(&trial, name);
                }
                Ok(())
            }
            Event::LeaseGranted { trial, attempt, holder } => {
                self.step(trial, |t| t.grant(holder.clone(), *attempt, now))
            }
            Event::LeaseResumed { trial, holder, .. } => self.step(trial, |t| t.resume(holder.clone(), now)),
            Event::LeaseReleased { trial, attempt, cause, reason } => {
                let holder = self.entry(trial)?.life.holder().cloned();
                self.step(trial, |t| t.release(*cause))?;
                let entry = self.entry(trial)?;
                entry.note = Some(reason.clone());
                entry.failed_on.extend(holder.filter(|_| cause.is_failure()));
                // It crashed and got no further: perhaps it is the state that it crashes at.
                if *cause == Release::Crashed && self.resumables.get(trial).is_some_and(|s| s.attempt < *attempt) {
                    self.resumables.remove(trial);
                }
                Ok(())
            }
            Event::TrialRecorded { trial, class, .. } => {
                self.step(trial, Trial::finish)?;
                self.entry(trial)?.class = Some(*class);
                Ok(())
            }
            Event::TrialGivenUp { trial, reason, .. } => {
                self.step(trial, Trial::give_up)?;
                let entry = self.entry(trial)?;
                entry.class = Some(OutcomeClass::Lost);
                entry.note = Some(reason.clone());
                Ok(())
            }
            Event::ReportSuperseded { trial, .. } => {
                self.entry(trial)?.superseded += 1;
                Ok(())
            }
            Event::EnergyWasted { trial, attempt, waste } => {
                self.entry(trial)?.wasted.insert(*attempt, waste.clone());
                Ok(())
            }
            Event::StateSaved { trial, state } => {
                self.entry(trial)?;
                self.resumables.insert(trial.clone(), state.clone());
                Ok(())
            }
            Event::TrialRetried { trial, campaign } => {
                self.step(trial, Trial::retry)?;
                let entry = self.entry(trial)?;
                entry.class = None;
                entry.failed_on.clear();
                entry.wanted_by.insert(campaign.clone());
                if let Some(campaign) = self.campaigns.get_mut(campaign) {
                    campaign.cancelled = false;
                }
                Ok(())
            }
            Event::ImportedPart { content, first, records } => {
                self.imports.add_part(content, *first, records.len() as u64);
                Ok(())
            }
            Event::SetImported { name, content, records, file_name } => {
                self.imports.name_set(name, content, *records, file_name, at_unix_ms)
            }
        }
    }

    fn entry(&mut self, trial: &TrialId) -> Result<&mut TrialEntry, ApplyError> {
        self.trials.get_mut(trial).ok_or_else(|| ApplyError::Unknown(format!("trial {trial}")))
    }

    /// Moves a trial, and keeps the queue and the list of held slots in step with it.
    fn step(
        &mut self,
        id: &TrialId,
        transition: impl FnOnce(&mut Trial) -> Result<(), InvalidTransition>,
    ) -> Result<(), ApplyError> {
        let entry = self.trials.get_mut(id).ok_or_else(|| ApplyError::Unknown(format!("trial {id}")))?;
        let before = entry.life.state.clone();
        transition(&mut entry.life).map_err(|source| ApplyError::Transition { trial: id.clone(), source })?;
        if before == TrialState::Waiting {
            self.queue.remove(entry.rank, id);
        }
        if let TrialState::Leased { holder, .. } = &before {
            self.held.remove(holder);
        }
        match &entry.life.state {
            TrialState::Waiting => self.queue.insert(entry.rank, id.clone()),
            TrialState::Leased { holder, .. } => {
                self.held.insert(holder.clone(), id.clone());
            }
            TrialState::Finished | TrialState::Cancelled => {
                self.resumables.remove(id);
            }
        }
        Ok(())
    }

    /// A campaign asks for a trial: a new one waits, one that was called off waits again, a finished one serves.
    fn want(&mut self, trial: &TrialId, name: &CampaignName) {
        let rank = Rank::of(self.submissions, name, trial);
        if let Some(entry) = self.trials.get_mut(trial) {
            entry.wanted_by.insert(name.clone());
            if entry.life.state == TrialState::Cancelled {
                entry.rank = rank;
                entry.failed_on.clear();
                let reopened = self.step(trial, Trial::retry);
                debug_assert!(reopened.is_ok(), "a cancelled trial may be opened again");
            }
        } else {
            let entry = TrialEntry {
                life: Trial::default(),
                rank,
                class: None,
                note: None,
                superseded: 0,
                wasted: BTreeMap::new(),
                failed_on: BTreeSet::new(),
                wanted_by: [name.clone()].into(),
            };
            self.trials.insert(trial.clone(), entry);
            self.queue.insert(rank, trial.clone());
        }
    }

    /// A campaign no longer asks for a trial: it is called off unless it has ended or another campaign wants it.
    fn unwant(&mut self, trial: &TrialId, name: &CampaignName) {
        let Some(entry) = self.trials.get_mut(trial) else { return };
        entry.wanted_by.remove(name);
        if entry.wanted_by.is_empty() {
            // An ended trial has no arrow to Cancelled, and should not.
            let _ = self.step(trial, Trial::cancel);
        }
    }

    /// All campaigns.
    pub fn campaigns(&self) -> &BTreeMap<CampaignName, Campaign> {
        &self.campaigns
    }

    /// All imported sets.
    pub fn imports(&self) -> &Imports {
        &self.imports
    }

    /// A trial.
    pub fn trial(&self, id: &TrialId) -> Option<&TrialEntry> {
        self.trials.get(id)
    }

    /// A cell.
    pub fn cell(&self, id: &CellId) -> Option<&Arc<CellEntry>> {
        self.cells.get(id)
    }

    /// What the campaigns that ask for this trial want kept of it.
    pub fn keep(&self, id: &TrialId) -> Output {
        let campaigns = self.trials.get(id).into_iter().flat_map(|t| &t.wanted_by);
        let wishes = campaigns.filter_map(|c| self.campaigns.get(c)).map(|c| &c.keep);
        wishes
            .fold(Output::default(), |a, b| Output { weights: a.weights || b.weights, adapter: a.adapter || b.adapter })
    }

    /// The trials that wait, in line.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// What a slot holds.
    pub fn held_by(&self, holder: &Holder) -> Option<&TrialId> {
        self.held.get(holder)
    }

    /// What an agent's slots hold.
    pub fn held_by_agent<'a>(&'a self, agent: &'a AgentId) -> impl Iterator<Item = (&'a Holder, &'a TrialId)> {
        self.held.iter().filter(move |(holder, _)| holder.agent == *agent)
    }

    /// The state that a trial would go on from. A slot of another hardware class than its own starts over, so the
    /// trial is better placed on one of that class.
    pub fn resumable(&self, trial: &TrialId) -> Option<&Resumable> {
        self.resumables.get(trial)
    }

    /// All states that trials would go on from.
    pub fn resumables(&self) -> impl Iterator<Item = (&TrialId, &Resumable)> {
        self.resumables.iter()
    }

    /// All leases.
    pub fn leases(&self) -> impl Iterator<Item = (&Holder, &TrialId)> {
        self.held.iter()
    }

    /// Notes that a holder renewed its lease; not an event, because a restart gives every lease fresh time anyway.
    pub fn renew(&mut self, trial: &TrialId, holder: &Holder, now: Millis) {
        if let Some(entry) = self.trials.get_mut(trial) {
            entry.life.renew(holder, now);
        }
    }

    /// Gives every lease its full time anew.
    pub fn renew_all(&mut self, now: Millis) {
        for (holder, trial) in &self.held {
            if let Some(entry) = self.trials.get_mut(trial) {
                entry.life.renew(holder, now);
            }
        }
    }
}
