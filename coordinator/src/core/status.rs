//! Where things stand, for people.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::id::{AgentId, Attempt, CampaignName, TrialId};
use fleet_common::lease::{Holder, Millis};
use fleet_common::plan::CellSettings;
use fleet_common::record::OutcomeClass;
use fleet_common::spec::Priority;

use super::{Core, Drain, ImportedSet, Progress, Refusal, SlotInfo};
use crate::scheduler::{self, AtWork, Busy, Eta, GroupKey};

/// Campaigns and agents at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Those asked for.
    pub campaigns: Vec<CampaignView>,
    /// All connected ones.
    pub agents: Vec<AgentView>,
    /// Imported sets, those asked for.
    pub imported: Vec<(CampaignName, ImportedSet)>,
}

/// One campaign at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct CampaignView {
    /// Its name.
    pub name: CampaignName,
    /// When it was submitted.
    pub submitted_unix_ms: u64,
    /// Trials that wait.
    pub waiting: u64,
    /// Ended trials by class.
    pub finished: BTreeMap<OutcomeClass, u64>,
    /// Trials called off.
    pub cancelled: u64,
    /// Trials that run.
    pub running: Vec<Running>,
    /// Why trials wait.
    pub waits: BTreeMap<String, u64>,
    /// Its share beside others.
    pub priority: Priority,
    /// When it will be over, or why that cannot be said; `None` if it is.
    pub eta: Option<Result<Eta, String>>,
}

/// A trial at work.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// Which.
    pub trial: TrialId,
    /// The attempt.
    pub attempt: Option<Attempt>,
    /// Where.
    pub holder: Holder,
    /// What it is, in words.
    pub label: String,
    /// How far it is.
    pub progress: Progress,
    /// For how long.
    pub running_ms: u64,
}

/// An agent at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentView {
    /// Which.
    pub agent: AgentId,
    /// Its host.
    pub host: String,
    /// Its version.
    pub version: String,
    /// Its slots.
    pub slots: Vec<SlotInfo>,
    /// Milliseconds since it was last heard of.
    pub silent_ms: u64,
    /// How each slot is, in their order.
    pub states: Vec<SlotState>,
}

/// How a slot is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlotState {
    /// Why nothing new runs there, if so.
    pub drained: Option<Drain>,
    /// What runs there, in words.
    pub label: Option<String>,
    /// How much longer that is expected to take, where anything is known.
    pub seconds_left: Option<f64>,
}

/// What a campaign asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// As submitted.
    pub campaign: super::Campaign,
    /// Trials that were given up, with a label and the reason.
    pub given_up: Vec<(TrialId, String, String)>,
    /// Energy that is in no record, as documents.
    pub wasted: Vec<Vec<u8>>,
}

/// The attempts that a trial had so far: the latest and all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// Which trial.
    pub trial: TrialId,
    /// The latest.
    pub latest: Attempt,
    /// The latest is running.
    pub running: bool,
}

impl Core {
    /// The attempts of a campaign's trials, in the order of the plan.
    pub(super) fn attempts(&self, name: &CampaignName) -> Result<Vec<Attempts>, Refusal> {
        let trials = self.campaign(name)?.trials.iter();
        let attempts = trials.filter_map(|id| {
            let life = &self.state.trial(id)?.life;
            Some(Attempts { trial: id.clone(), latest: life.attempt?, running: life.holder().is_some() })
        });
        Ok(attempts.collect())
    }

    pub(super) fn describe(&self, name: &CampaignName) -> Result<Description, Refusal> {
        let campaign = self.campaign(name)?.clone();
        let given_up = campaign
            .trials
            .iter()
            .filter_map(|id| Some((id, self.state.trial(id)?)))
            .filter(|(_, entry)| entry.class == Some(OutcomeClass::Lost))
            .map(|(id, entry)| (id.clone(), self.label(id), entry.note.clone().unwrap_or_default()))
            .collect();
        let entries = campaign.trials.iter().filter_map(|id| self.state.trial(id));
        let wasted = entries.flat_map(|entry| entry.wasted.values().cloned()).collect();
        Ok(Description { campaign, given_up, wasted })
    }

    pub(super) fn snapshot(&self, only: Option<&CampaignName>) -> Result<Snapshot, Refusal> {
        if let Some(name) = only {
            self.locate(name)?;
        }
        let busy = self.busy();
        let campaigns = self
            .state
            .campaigns()
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == *name))
            .map(|(name, campaign)| self.campaign_view(&busy, name, campaign))
            .collect();
        let agents = self
            .agents
            .iter()
            .map(|(id, a)| AgentView {
                agent: id.clone(),
                host: a.host.clone(),
                version: a.version.clone(),
                slots: a.slots.clone(),
                states: a.slots.iter().map(|s| self.slot_state(&busy, id, s)).collect(),
                silent_ms: self.now.mono.0.saturating_sub(a.heard.0),
            })
            .collect();
        let sets = self.state.imports().sets().iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let imported = sets.map(|(name, set)| (name.clone(), set.clone())).collect();
        Ok(Snapshot { campaigns, agents, imported })
    }

    fn slot_state(&self, busy: &Busy, agent: &AgentId, slot: &SlotInfo) -> SlotState {
        let holder = Holder { agent: agent.clone(), slot: slot.slot.clone() };
        SlotState {
            drained: self.state.drains().of(&holder).cloned(),
            label: self.state.held_by(&holder).map(|trial| self.label(trial)),
            seconds_left: busy.get(&holder).copied().flatten(),
        }
    }

    /// The trials at work, with the length that is expected of them.
    fn at_work(&self) -> Vec<(Holder, AtWork)> {
        let mut at_work = Vec::new();
        for (holder, trial) in self.state.leases() {
            let (Some(server), Some(place)) = (self.fleet.servers().get(holder), self.state.place(trial)) else {
                continue;
            };
            let since = self.progress.get(trial).map_or(self.now.mono, |(_, since)| *since);
            let work = AtWork {
                account: place.account,
                kin: self.fleet.kind_of(holder).filter(|_| server.drained.is_none()),
                whole: self.state.estimates().duration(place.group.kind, &server.class),
                elapsed: self.now.mono.0.saturating_sub(since.0) as f64 / 1e3,
            };
            at_work.push((holder.clone(), work));
        }
        at_work
    }

    /// The slots at work, with what is left of it, where anything is known of that.
    pub(super) fn busy(&self) -> Busy {
        let mut busy: Busy = self.state.leases().map(|(holder, _)| (holder.clone(), None)).collect();
        for (holder, work) in self.at_work() {
            busy.insert(holder, work.whole.is_known().then(|| work.left(1.0)));
        }
        busy
    }

    /// Looks ahead, unless that was done a moment ago: those who watch ask twice a second.
    pub(super) fn look_ahead(&mut self) {
        let groups: usize = self.state.queue().lines().map(|(_, line)| line.len()).sum();
        let work = (groups * self.fleet.servers().len()) as u64;
        let is_fresh = |at: &Millis| self.now.mono.0.saturating_sub(at.0) < FRESH_MS + work / PER_MS;
        let knows_all = self.state.queue().lines().all(|(name, _)| self.ahead.1.contains_key(name));
        if self.ahead.0.as_ref().is_some_and(is_fresh) && knows_all {
            return;
        }
        let at_work = self.at_work();
        let mut free = vec![0; self.fleet.kinds()];
        for holder in self.fleet.servers().keys() {
            if self.state.held_by(holder).is_none()
                && let Some(kin) = self.fleet.kind_of(holder)
            {
                free[kin] += 1;
            }
        }
        let at_work: Vec<AtWork> = at_work.into_iter().map(|(_, work)| work).collect();
        self.ahead = (Some(self.now.mono), scheduler::eta(self.view(), &at_work, &free));
    }

    fn campaign_view(&self, busy: &Busy, name: &CampaignName, campaign: &super::Campaign) -> CampaignView {
        let mut view = CampaignView {
            name: name.clone(),
            submitted_unix_ms: campaign.submitted_unix_ms,
            waiting: 0,
            finished: BTreeMap::new(),
            cancelled: 0,
            running: Vec::new(),
            waits: BTreeMap::new(),
            priority: campaign.priority,
            eta: None,
        };
        let mut wait = |account: &CampaignName, group: &GroupKey, trials: usize| {
            let reason = scheduler::reason(self.view(), busy, account, group);
            *view.waits.entry(reason).or_default() += trials as u64;
        };
        // Trials wait with one campaign; those that others ask for, too, may stand in another's line.
        for (group, items) in self.state.queue().line(name).into_iter().flatten() {
            wait(name, group, items.len());
        }
        let Some(standing) = self.state.standing(name) else { return view };
        let mut accounts = BTreeSet::from([name.clone()]);
        for ((account, group), trials) in &standing.elsewhere {
            wait(account, group, *trials as usize);
            accounts.insert(account.clone());
        }
        view.waiting = standing.waiting;
        view.finished = standing.finished.clone();
        view.cancelled = standing.cancelled;
        for id in &standing.leased {
            let Some(entry) = self.state.trial(id) else { continue };
            let Some(holder) = entry.life.holder() else { continue };
            let (progress, since) = self.progress.get(id).cloned().unwrap_or_default();
            view.running.push(Running {
                trial: id.clone(),
                attempt: entry.life.attempt,
                holder: holder.clone(),
                label: self.label(id),
                progress,
                running_ms: self.now.mono.0.saturating_sub(since.0),
            });
        }
        if view.waiting > 0 || !view.running.is_empty() {
            view.eta = accounts.iter().filter_map(|a| self.ahead.1.get(a)).cloned().reduce(later);
        }
        view
    }

    /// "lora · vit_micro · static · textures · seed 1".
    pub(super) fn label(&self, trial: &TrialId) -> String {
        let settings: Option<CellSettings> =
            self.state.cell(&trial.cell).and_then(|c| serde_json::from_str(&c.settings.text()).ok());
        match settings {
            Some(s) => format!(
                "{} · {}{} · {} · seed {}{}",
                s.method.method().name(),
                s.backbone.name(),
                s.train.as_ref().map_or_else(String::new, |_| format!(" · {}", s.checkpointing.name())),
                s.dataset.name,
                s.seed,
                if trial.repeat > 0 { format!(" · repeat {}", trial.repeat) } else { String::new() }
            ),
            None => trial.cell.short().to_owned(),
        }
    }
}

/// A look ahead is as good as new for so long.
const FRESH_MS: u64 = 2_000;
/// And a millisecond longer per so many slots times groups, so that looking ahead stays a small part of the work.
const PER_MS: u64 = 100;

/// What is over when both are.
fn later(a: Result<Eta, String>, b: Result<Eta, String>) -> Result<Eta, String> {
    let (a, b) = (a?, b?);
    Ok(Eta { seconds: a.seconds.max(b.seconds), seconds_90: a.seconds_90.max(b.seconds_90), note: a.note.or(b.note) })
}
