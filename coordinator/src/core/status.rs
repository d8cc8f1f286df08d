//! Where things stand, for people.

use std::collections::BTreeMap;

use fleet_common::id::{AgentId, Attempt, CampaignName, TrialId};
use fleet_common::lease::{Holder, TrialState};
use fleet_common::plan::CellSettings;
use fleet_common::record::OutcomeClass;

use super::{Core, ImportedSet, Progress, Refusal, SlotInfo};
use crate::scheduler::Queue;

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
        let campaigns = self
            .state
            .campaigns()
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == *name))
            .map(|(name, campaign)| self.view(name, campaign))
            .collect();
        let agents = self
            .agents
            .iter()
            .map(|(id, a)| AgentView {
                agent: id.clone(),
                host: a.host.clone(),
                version: a.version.clone(),
                slots: a.slots.clone(),
                silent_ms: self.now.mono.0.saturating_sub(a.heard.0),
            })
            .collect();
        let sets = self.state.imports().sets().iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let imported = sets.map(|(name, set)| (name.clone(), set.clone())).collect();
        Ok(Snapshot { campaigns, agents, imported })
    }

    fn view(&self, name: &CampaignName, campaign: &super::Campaign) -> CampaignView {
        let classes = self.classes();
        let mut view = CampaignView {
            name: name.clone(),
            submitted_unix_ms: campaign.submitted_unix_ms,
            waiting: 0,
            finished: BTreeMap::new(),
            cancelled: 0,
            running: Vec::new(),
            waits: BTreeMap::new(),
        };
        for (id, entry) in campaign.trials.iter().filter_map(|id| Some((id, self.state.trial(id)?))) {
            match &entry.life.state {
                TrialState::Waiting => {
                    view.waiting += 1;
                    *view.waits.entry(Queue::reason(id, &classes)).or_default() += 1;
                }
                TrialState::Leased { holder, .. } => {
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
                TrialState::Finished => {
                    *view.finished.entry(entry.class.unwrap_or(OutcomeClass::Crashed)).or_default() += 1;
                }
                TrialState::Cancelled => view.cancelled += 1,
            }
        }
        view
    }

    /// "lora · vit_micro · static · textures · seed 1".
    fn label(&self, trial: &TrialId) -> String {
        let settings: Option<CellSettings> =
            self.state.cell(&trial.cell).and_then(|c| serde_json::from_str(&c.settings_json).ok());
        match settings {
            Some(s) => format!(
                "{} · {} · {} · {} · seed {}{}",
                s.method.method().name(),
                s.backbone.name(),
                s.checkpointing.name(),
                s.dataset.name,
                s.seed,
                if trial.repeat > 0 { format!(" · repeat {}", trial.repeat) } else { String::new() }
            ),
            None => trial.cell.short().to_owned(),
        }
    }
}
