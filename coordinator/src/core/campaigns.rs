//! What people ask for: submit, retry, cancel.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_common::id::{CampaignName, HardwareClass};
use fleet_common::lease::{StateKind, TrialState};
use fleet_common::plan::{Kinds, Plan};
use fleet_common::record::OutcomeClass;
use fleet_common::spec::{self, DatasetName, Hardware};

use super::{CellEntry, Core, Event, Refusal, Reply, Scheduling, Submission, Token};

/// A campaign, parsed and planned by whoever received it: that takes time, and the core must not.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The campaign.
    pub campaign: spec::Campaign,
    /// Its file.
    pub toml: String,
    /// Its plan.
    pub plan: Plan,
    /// What its cells have in common.
    pub kinds: Kinds,
}

impl Prepared {
    /// Estimates what the cells of a plan need, which takes a while.
    pub fn new(campaign: spec::Campaign, toml: String, plan: Plan) -> Self {
        let kinds = Kinds::of(&plan);
        Self { campaign, toml, plan, kinds }
    }
}

/// A plan's cells as they are handed out.
fn cells(plan: &Plan) -> Vec<CellEntry> {
    let mut latest: Option<(&DatasetName, Arc<str>)> = None;
    let mut entries = Vec::with_capacity(plan.cells.len());
    for cell in &plan.cells {
        let locator = cell.locator.as_ref();
        let dataset = match &latest {
            Some((name, text)) if *name == locator => text.clone(),
            _ => String::from(locator.clone()).into(),
        };
        latest = Some((locator, dataset.clone()));
        entries.push(CellEntry { id: cell.id.clone(), settings: cell.text(), dataset });
    }
    entries
}

impl Core {
    pub(super) fn submit(&mut self, token: Token, prepared: Prepared) {
        let Prepared { campaign, toml, plan, kinds } = prepared;
        if self.state.imports().sets().contains_key(&campaign.name) {
            let refusal = Refusal::NotNow(format!(
                "\"{}\" is a set of imported records; give the campaign another name",
                campaign.name
            ));
            return self.reply(token, Reply::Submitted(Err(refusal)));
        }
        // A machine that is off today does not leave the comparison.
        let earlier = self.state.campaigns().get(&campaign.name).into_iter().flat_map(|c| &c.trials);
        let earlier: BTreeSet<HardwareClass> = earlier.filter_map(|t| t.hardware.clone()).collect();
        let classes: Vec<HardwareClass> = self.classes(&campaign.select).union(&earlier).cloned().collect();
        if campaign.hardware == Hardware::Each && classes.is_empty() {
            let connected = self.classes(&spec::Select::default());
            if !connected.is_empty() {
                let refusal = Refusal::NotNow(format!(
                    "hardware = \"each\" asks for every class of hardware that is here and meets [select], and none of the \
                     {} that are here does: {}. `fleet agents` shows their models, labels and memory",
                    connected.len(),
                    connected.iter().map(|c| c.as_str()).collect::<Vec<_>>().join("; ")
                ));
                return self.reply(token, Reply::Submitted(Err(refusal)));
            }
            let refusal = Refusal::NotNow(
                "hardware = \"each\" asks for every class of hardware that is here, and no agent is connected; start the \
                 agents first, or name the classes: hardware = [\"NVIDIA GeForce RTX 2060\", …]"
                    .to_owned(),
            );
            return self.reply(token, Reply::Submitted(Err(refusal)));
        }
        let trials = plan.trials(&campaign.hardware, &classes);
        let new = trials.iter().filter(|t| self.state.trial(t).is_none()).count() as u64;
        let submission = Submission {
            name: campaign.name.clone(),
            toml,
            cells: cells(&plan),
            trials,
            excluded_json: plan.excluded.iter().map(fleet_common::canonical::json).collect(),
            warnings: plan.warnings,
            keep: campaign.output,
            scheduling: Scheduling { priority: campaign.priority, select: campaign.select, kinds },
        };
        let total = submission.trials.len() as u64;
        if !self.is_same(&submission) {
            self.record(Event::CampaignSubmitted(Box::new(submission)));
        }
        self.reply(token, Reply::Submitted(Ok((total, new))));
    }

    /// Whether submitting this changes nothing.
    fn is_same(&self, s: &Submission) -> bool {
        self.state.campaigns().get(&s.name).is_some_and(|c| {
            !c.cancelled
                && c.toml == s.toml
                && c.trials == s.trials
                && c.excluded_json == s.excluded_json
                && c.warnings == s.warnings
                && !c.trials.iter().any(|t| self.state.trial(t).is_some_and(|t| t.life.state == TrialState::Cancelled))
        })
    }

    pub(super) fn retry(&mut self, token: Token, name: &CampaignName, failed: bool, missing: bool) {
        let campaign = match self.campaign(name) {
            Ok(campaign) => campaign,
            Err(refusal) => return self.reply(token, Reply::Changed(Err(refusal))),
        };
        let chosen: Vec<_> = campaign
            .trials
            .iter()
            .filter(|id| {
                self.state.trial(id).is_some_and(|t| match t.life.state.kind() {
                    StateKind::Finished => failed && !t.class.is_some_and(OutcomeClass::is_result),
                    StateKind::Cancelled => missing,
                    StateKind::Waiting | StateKind::Leased => false,
                })
            })
            .cloned()
            .collect();
        let count = chosen.len() as u64;
        for trial in chosen {
            self.record(Event::TrialRetried { trial, campaign: name.clone() });
        }
        self.reply(token, Reply::Changed(Ok(count)));
    }

    pub(super) fn cancel(&mut self, token: Token, name: CampaignName) {
        let campaign = match self.campaign(&name) {
            Ok(campaign) => campaign,
            Err(refusal) => return self.reply(token, Reply::Changed(Err(refusal))),
        };
        let open = |core: &Self, trials: &[fleet_common::id::TrialId]| {
            trials
                .iter()
                .filter_map(|t| core.state.trial(t))
                .filter(|t| matches!(t.life.state.kind(), StateKind::Waiting | StateKind::Leased))
                .count() as u64
        };
        let trials = campaign.trials.clone();
        let before = open(self, &trials);
        if !campaign.cancelled {
            self.record(Event::CampaignCancelled { name });
        }
        let count = before - open(self, &trials);
        self.reply(token, Reply::Changed(Ok(count)));
    }
}
