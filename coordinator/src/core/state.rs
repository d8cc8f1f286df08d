//! What the coordinator knows that must survive: a fold over the events.

mod snapshot;
mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fleet_common::id::{AgentId, Attempt, CampaignName, CellId, TrialId};
use fleet_common::lease::{Holder, InvalidTransition, Millis, Release, Trial, TrialState};
use fleet_common::record::OutcomeClass;
use fleet_common::spec::{Output, Priority, Select};

use super::drains::{Drain, Drains};
use super::event::{CellEntry, Event, Submission};
use super::imports::Imports;
use super::resumable::Resumable;
use crate::scheduler::{Account, Estimates, GroupKey, KindId, Place, Queue, Rank};

pub use snapshot::Restored;
use standing::Names;
pub use standing::Standing;

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
    /// Its share beside others.
    pub priority: Priority,
    /// Where its trials may run.
    pub select: Arc<Select>,
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
    /// Attempts that ended without a record, the latest of them.
    pub past: Vec<Past>,
    /// Which agent was granted which attempt, in the order of attempts.
    granted: Vec<(Attempt, AgentId)>,
    /// Campaigns that ask for it and were not called off.
    pub(super) wanted_by: Names,
    /// Campaigns that have it among their trials, called off or not.
    listed_by: Names,
}

/// An attempt that ended without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Which.
    pub attempt: Attempt,
    /// Who had it.
    pub holder: Holder,
    /// How it ended.
    pub cause: Release,
    /// Why, in words.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// Attempts that are remembered; more say nothing new.
const MOST_PAST: usize = 12;

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
    /// What is known of sizes and lengths.
    estimates: Estimates,
    kinds: HashMap<CellId, KindId>,
    drains: Drains,
    /// The state that each trial would go on from.
    resumables: BTreeMap<TrialId, Resumable>,
    /// Where each campaign's trials stand; follows from them.
    standings: BTreeMap<CampaignName, Standing>,
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
                self.submit(s, at_unix_ms);
                Ok(())
            }
            Event::CampaignCancelled { name } => {
                let campaign =
                    self.campaigns.get_mut(name).ok_or_else(|| ApplyError::Unknown(format!("campaign {name}")))?;
                campaign.cancelled = true;
                for trial in campaign.trials.clone() {
                    self.leave(&trial);
                    self.unwant(&trial, name);
                    self.enter(&trial);
                }
                Ok(())
            }
            Event::LeaseGranted { trial, attempt, holder } => self.lend(trial, holder, |t| {
                t.life.grant(holder.clone(), *attempt, now)?;
                t.granted.retain(|(known, _)| known != attempt);
                t.granted.push((*attempt, holder.agent.clone()));
                Ok(())
            }),
            Event::LeaseResumed { trial, holder, .. } => {
                self.lend(trial, holder, |t| t.life.resume(holder.clone(), now))
            }
            Event::LeaseReleased { trial, attempt: ended, cause, reason } => {
                self.step(trial, |t| {
                    let holder = t.life.holder().cloned();
                    t.life.release(*cause)?;
                    t.note = Some(reason.clone());
                    if let (Some(holder), Some(attempt)) = (holder, t.life.attempt) {
                        t.past.drain(..t.past.len().saturating_sub(MOST_PAST - 1));
                        let (cause, reason) = (*cause, reason.clone());
                        t.past.push(Past { attempt, holder: holder.clone(), cause, reason, at_unix_ms });
                        t.failed_on.extend(Some(holder).filter(|_| cause.is_failure()));
                    }
                    Ok(())
                })?;
                // It crashed and got no further: perhaps it is the state that it crashes at.
                if *cause == Release::Crashed && self.resumables.get(trial).is_some_and(|s| s.attempt < *ended) {
                    self.resumables.remove(trial);
                }
                Ok(())
            }
            Event::TrialRecorded { trial, class, figures, .. } => {
                self.step(trial, |t| {
                    t.life.finish()?;
                    t.class = Some(*class);
                    Ok(())
                })?;
                let kind = self.kind(trial);
                self.estimates.observe(kind, *class, figures);
                Ok(())
            }
            Event::TrialGivenUp { trial, reason, .. } => self.step(trial, |t| {
                t.life.give_up()?;
                t.class = Some(OutcomeClass::Lost);
                t.note = Some(reason.clone());
                Ok(())
            }),
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
                // Nobody stands in line for a campaign whose submission the journal has lost.
                let one = self.campaigns.contains_key(campaign).then(|| Names::one(campaign.clone()));
                self.step(trial, |t| {
                    t.life.retry()?;
                    t.class = None;
                    t.failed_on.clear();
                    one.iter().for_each(|one| t.wanted_by.add(one));
                    Ok(())
                })?;
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
            Event::SlotsDrained { agent, slot, reason, fault } => {
                let drain = Drain { reason: reason.clone(), fault: *fault, since_unix_ms: at_unix_ms };
                self.drains.drain(agent, slot.as_ref(), drain);
                Ok(())
            }
            Event::SlotsUndrained { agent, slot } => {
                self.drains.undrain(agent, slot.as_ref());
                Ok(())
            }
        }
    }

    fn entry(&mut self, trial: &TrialId) -> Result<&mut TrialEntry, ApplyError> {
        self.trials.get_mut(trial).ok_or_else(|| ApplyError::Unknown(format!("trial {trial}")))
    }

    /// Takes a campaign in, new or again.
    fn submit(&mut self, s: &Submission, at_unix_ms: u64) {
        let earlier = self.asked_for_by(&s.name);
        let mut seen: HashSet<&TrialId> = HashSet::with_capacity(s.trials.len() + earlier.len());
        let wanted: Vec<&TrialId> = s.trials.iter().filter(|t| seen.insert(*t)).collect();
        let dropped: Vec<&TrialId> = earlier.iter().filter(|t| seen.insert(*t)).collect();
        drop(seen);
        // Their places may change with what follows.
        wanted.iter().chain(&dropped).for_each(|trial| self.leave(trial));
        let kinds: Vec<KindId> = s.scheduling.kinds.kinds.iter().map(|k| self.estimates.learn_kind(k)).collect();
        for (i, cell) in s.cells.iter().enumerate() {
            // The latest submission knows best where the data is.
            self.cells.insert(cell.id.clone(), Arc::new(cell.clone()));
            let kind = s.scheduling.kinds.of_cell.get(i).and_then(|k| kinds.get(*k as usize));
            if let Some(kind) = kind {
                self.learn_kind_of(&cell.id, *kind);
            }
        }
        let select = Arc::new(s.scheduling.select.clone());
        let priority = s.scheduling.priority;
        let campaign = Campaign {
            toml: s.toml.clone(),
            trials: s.trials.clone(),
            excluded_json: s.excluded_json.clone(),
            warnings: s.warnings.clone(),
            keep: s.keep,
            submitted_unix_ms: at_unix_ms,
            cancelled: false,
            priority,
            select: select.clone(),
        };
        self.campaigns.insert(s.name.clone(), campaign);
        self.standings.entry(s.name.clone()).or_default();
        self.queue.open(s.name.clone(), Account { priority, select });
        for trial in &dropped {
            if let Some(entry) = self.trials.get_mut(*trial) {
                entry.listed_by.remove(&s.name);
            }
            self.unwant(trial, &s.name);
        }
        let one = Names::one(s.name.clone());
        wanted.iter().for_each(|trial| self.want(trial, &s.name, &one));
        wanted.iter().chain(&dropped).for_each(|trial| self.enter(trial));
        self.submissions += 1;
    }

    /// The trials of a campaign, with those that were retried for it and are not in its list: a journal that lacks one of
    /// its submissions has such.
    fn asked_for_by(&self, name: &CampaignName) -> Vec<TrialId> {
        let Some(campaign) = self.campaigns.get(name) else { return Vec::new() };
        let listed: HashSet<&TrialId> = campaign.trials.iter().collect();
        let asked = self.trials.iter().filter(|(id, t)| t.wanted_by.contains(name) && !listed.contains(id));
        campaign.trials.iter().chain(asked.map(|(id, _)| id)).cloned().collect()
    }

    /// Notes the kind of a cell. Trials of other campaigns may wait under another: a version before this planned none.
    fn learn_kind_of(&mut self, cell: &CellId, kind: KindId) {
        if self.kinds.get(cell) == Some(&kind) {
            return;
        }
        let first = TrialId { cell: cell.clone(), hardware: None, repeat: 0 };
        let of_cell = self.trials.range(first..).map(|(id, _)| id).take_while(|id| id.cell == *cell);
        let in_line: Vec<TrialId> =
            of_cell.filter(|id| self.place(id).is_some_and(|place| self.queue.contains(&place, id))).cloned().collect();
        in_line.iter().for_each(|id| self.leave(id));
        self.kinds.insert(cell.clone(), kind);
        in_line.iter().for_each(|id| self.enter(id));
    }

    /// The kind of a trial's cell.
    pub fn kind(&self, trial: &TrialId) -> KindId {
        self.kinds.get(&trial.cell).copied().unwrap_or_default()
    }

    /// Where a trial stands when it waits: with the campaign of the highest priority that asks for it.
    pub fn place(&self, trial: &TrialId) -> Option<Place> {
        let entry = self.trials.get(trial)?;
        let priority = |name: &CampaignName| self.campaigns.get(name).map(|c| c.priority);
        let account = entry.wanted_by.iter().rev().max_by_key(|name| priority(name))?.clone();
        let failed_on = entry.failed_on.clone();
        let group = GroupKey { colour: trial.hardware.clone(), kind: self.kind(trial), failed_on };
        Some(Place { account, group, rank: entry.rank })
    }

    /// Takes a trial that is about to change out of all that follows from it: the line, and what stands where.
    fn leave(&mut self, id: &TrialId) {
        let Some(entry) = self.trials.get(id) else { return };
        let place = if entry.life.state == TrialState::Waiting { self.place(id) } else { None };
        for name in entry.listed_by.iter() {
            if let Some(standing) = self.standings.get_mut(name) {
                standing.remove(name, id, entry, place.as_ref());
            }
        }
        if let Some(place) = place {
            self.queue.remove(&place, id);
        }
    }

    /// The reverse, once it has changed.
    fn enter(&mut self, id: &TrialId) {
        let Some(entry) = self.trials.get(id) else { return };
        let place = if entry.life.state == TrialState::Waiting { self.place(id) } else { None };
        for name in entry.listed_by.iter() {
            if let Some(standing) = self.standings.get_mut(name) {
                standing.add(name, id, entry, place.as_ref());
            }
        }
        if let Some(place) = place {
            self.queue.insert(place, id.clone());
        }
    }

    /// Moves a trial, and keeps the queue and the list of held slots in step with it.
    fn step(
        &mut self,
        id: &TrialId,
        transition: impl FnOnce(&mut TrialEntry) -> Result<(), InvalidTransition>,
    ) -> Result<(), ApplyError> {
        self.leave(id);
        let entry = self.trials.get_mut(id).ok_or_else(|| ApplyError::Unknown(format!("trial {id}")))?;
        let before = entry.life.holder().cloned();
        let moved = transition(entry).map_err(|source| ApplyError::Transition { trial: id.clone(), source });
        let after = entry.life.holder().cloned();
        let has_ended = matches!(entry.life.state, TrialState::Finished | TrialState::Cancelled);
        if before != after {
            if let Some(holder) = before.filter(|holder| self.held.get(holder) == Some(id)) {
                self.held.remove(&holder);
            }
            if let Some(holder) = after {
                self.held.insert(holder, id.clone());
            }
        }
        if has_ended {
            self.resumables.remove(id);
        }
        self.enter(id);
        moved
    }

    /// Lends a trial to a slot. The slot runs one at a time: if it still has another here, the journal lacks how that one
    /// ended, and it waits again.
    fn lend(
        &mut self,
        id: &TrialId,
        holder: &Holder,
        transition: impl FnOnce(&mut TrialEntry) -> Result<(), InvalidTransition>,
    ) -> Result<(), ApplyError> {
        let other = self.held.get(holder).filter(|other| *other != id).cloned();
        self.step(id, transition)?;
        let Some(other) = other else { return Ok(()) };
        self.step(&other, |t| {
            t.note =
                Some("its slot was lent another trial; how this attempt ended is missing in the journal".to_owned());
            t.life.release(Release::Returned)
        })
    }

    /// A campaign asks for a trial: a new one waits, one that was called off waits again, a finished one serves. `one` is
    /// the list of the campaign's name.
    fn want(&mut self, trial: &TrialId, name: &CampaignName, one: &Names) {
        let submissions = self.submissions;
        let rank = || Rank::of(submissions, name, trial);
        let entry = self.trials.entry(trial.clone()).or_insert_with(|| TrialEntry {
            life: Trial::default(),
            rank: rank(),
            class: None,
            note: None,
            superseded: 0,
            wasted: BTreeMap::new(),
            failed_on: BTreeSet::new(),
            past: Vec::new(),
            granted: Vec::new(),
            wanted_by: one.clone(),
            listed_by: one.clone(),
        });
        entry.wanted_by.add(one);
        entry.listed_by.add(one);
        if entry.life.state == TrialState::Cancelled {
            entry.rank = rank();
            entry.failed_on.clear();
            let reopened = entry.life.retry();
            debug_assert!(reopened.is_ok(), "a cancelled trial may be opened again");
        }
    }

    /// A campaign no longer asks for a trial: it is called off unless it has ended or another campaign wants it.
    fn unwant(&mut self, trial: &TrialId, name: &CampaignName) {
        let Some(entry) = self.trials.get_mut(trial) else { return };
        entry.wanted_by.remove(name);
        if entry.wanted_by.is_empty() {
            let holder = entry.life.holder().cloned();
            // An ended trial has no arrow to Cancelled, and should not.
            if entry.life.cancel().is_ok() {
                self.resumables.remove(trial);
                // A journal with a hole may know of another trial in that slot.
                if let Some(holder) = holder.filter(|holder| self.held.get(holder) == Some(trial)) {
                    self.held.remove(&holder);
                }
            }
        }
    }

    /// All campaigns.
    pub fn campaigns(&self) -> &BTreeMap<CampaignName, Campaign> {
        &self.campaigns
    }

    /// Where a campaign's trials stand.
    pub fn standing(&self, name: &CampaignName) -> Option<&Standing> {
        self.standings.get(name)
    }

    /// All imported sets.
    pub fn imports(&self) -> &Imports {
        &self.imports
    }

    /// How many trials are known.
    pub fn trial_count(&self) -> usize {
        self.trials.len()
    }

    /// A trial.
    pub fn trial(&self, id: &TrialId) -> Option<&TrialEntry> {
        self.trials.get(id)
    }

    /// The agent that was granted an attempt.
    pub fn granted_to(&self, id: &TrialId, attempt: Attempt) -> Option<&AgentId> {
        self.trials.get(id)?.granted.iter().find(|(known, _)| *known == attempt).map(|(_, agent)| agent)
    }

    /// A cell.
    pub fn cell(&self, id: &CellId) -> Option<&Arc<CellEntry>> {
        self.cells.get(id)
    }

    /// What the campaigns that ask for this trial want kept of it.
    pub fn keep(&self, id: &TrialId) -> Output {
        let campaigns = self.trials.get(id).into_iter().flat_map(|t| t.wanted_by.iter());
        let wishes = campaigns.filter_map(|c| self.campaigns.get(c)).map(|c| &c.keep);
        wishes
            .fold(Output::default(), |a, b| Output { weights: a.weights || b.weights, adapter: a.adapter || b.adapter })
    }

    /// The trials whose ids begin with `cell`, a beginning of a cell id.
    pub fn trials_of(&self, cell: &str) -> impl Iterator<Item = (&TrialId, &TrialEntry)> {
        let first = format!("{cell:0<32}").parse::<CellId>().ok();
        let from = first.map(|cell| TrialId { cell, hardware: None, repeat: 0 });
        let cell = cell.to_owned();
        let from = from.into_iter().flat_map(|from| self.trials.range(from..));
        from.take_while(move |(id, _)| id.cell.as_str().starts_with(&cell))
    }

    /// What is known of sizes and lengths.
    pub fn estimates(&self) -> &Estimates {
        &self.estimates
    }

    /// What is drained.
    pub fn drains(&self) -> &Drains {
        &self.drains
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
