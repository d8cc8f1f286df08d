//! Where things stand at one moment.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::record::OutcomeClass;
use fleet_observe::page::Page;

use crate::core::{CampaignView, Snapshot};
use crate::store::{Health, Part};

fleet_observe::metrics! {
    CAMPAIGNS = Gauge "fleet_campaigns", "Campaigns that the coordinator knows";
    TRIALS = Gauge "fleet_campaign_trials", "Trials of a campaign by state: waiting, running, finished, cancelled";
    OUTCOMES = Gauge "fleet_campaign_outcomes", "Finished trials of a campaign by outcome";
    SUBMITTED = Gauge "fleet_campaign_submitted_seconds", "When a campaign was submitted, in seconds since 1970";
    IMPORTED = Gauge "fleet_imported_sets", "Imported sets of records";
    AGENTS = Gauge "fleet_agents", "Connected agents";
    AGENT = Gauge "fleet_agent_info", "A connected agent, its host and its version; always 1";
    SILENCE = Gauge "fleet_agent_silence_seconds", "Time since an agent was last heard of, in seconds";
    SLOTS = Gauge "fleet_slots", "Slots of connected agents by hardware class and state: busy, free";
    PROGRESS = Gauge "fleet_running_trial_progress_ratio", "Done share of the phase that a running trial is in, 0 to 1";
    RUNNING = Gauge "fleet_running_trial_seconds", "Time since a running trial's lease was granted, in seconds";
    FAILING = Gauge "fleet_storage_failing", "Whether a part of the storage failed when it was last used: journal, index, samples, snapshot; 0 or 1";
    QUEUED = Gauge "fleet_driver_inputs_waiting", "Inputs that wait for the thread that owns the core";
}

/// Campaigns that are shown one by one; a state folder may hold those of years.
const MOST_CAMPAIGNS: usize = 50;
/// Agents that are shown one by one: whoever reaches the coordinator may make up names.
const MOST_AGENTS: usize = 500;

fn is_over(campaign: &CampaignView) -> bool {
    campaign.waiting == 0 && campaign.running.is_empty()
}

/// Puts a snapshot on a page.
pub(super) fn put(page: &mut Page, snapshot: &Snapshot) {
    page.put(&CAMPAIGNS, [], snapshot.campaigns.len() as f64);
    page.put(&IMPORTED, [], snapshot.imported.len() as f64);
    let mut campaigns: Vec<&CampaignView> = snapshot.campaigns.iter().collect();
    // What is at work first, then the latest.
    campaigns.sort_by_key(|c| (is_over(c), std::cmp::Reverse(c.submitted_unix_ms)));
    campaigns.into_iter().take(MOST_CAMPAIGNS).for_each(|c| campaign(page, c));
    agents(page, snapshot);
    running(page, snapshot);
}

/// Puts what of the storage fails on a page.
pub(super) fn put_health(page: &mut Page, health: &Health) {
    for part in Part::ALL {
        page.put(&FAILING, [("part", part.name())], f64::from(u8::from(health.is_failing(part))));
    }
}

fn campaign(page: &mut Page, campaign: &CampaignView) {
    let name = campaign.name.as_str();
    let states = [
        ("waiting", campaign.waiting),
        ("running", campaign.running.len() as u64),
        ("finished", campaign.finished.values().sum()),
        ("cancelled", campaign.cancelled),
    ];
    for (state, count) in states {
        page.put(&TRIALS, [("campaign", name), ("state", state)], count as f64);
    }
    for class in OutcomeClass::ALL {
        let count = campaign.finished.get(&class).copied().unwrap_or(0);
        page.put(&OUTCOMES, [("campaign", name), ("outcome", class.name())], count as f64);
    }
    page.put(&SUBMITTED, [("campaign", name)], campaign.submitted_unix_ms as f64 / 1e3);
}

fn agents(page: &mut Page, snapshot: &Snapshot) {
    page.put(&AGENTS, [], snapshot.agents.len() as f64);
    let busy: BTreeSet<(&str, &str)> = snapshot
        .campaigns
        .iter()
        .flat_map(|c| &c.running)
        .map(|r| (r.holder.agent.as_str(), r.holder.slot.as_str()))
        .collect();
    let mut slots: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for agent in snapshot.agents.iter().take(MOST_AGENTS) {
        let (id, host) = (("agent", agent.agent.as_str()), ("host", agent.host.as_str()));
        page.put(&AGENT, [id, host, ("version", &agent.version)], 1.0);
        page.put(&SILENCE, [id, host], agent.silent_ms as f64 / 1e3);
        for slot in &agent.slots {
            let is_busy = busy.contains(&(agent.agent.as_str(), slot.slot.as_str()));
            slots.entry(slot.hardware.as_str()).or_default()[usize::from(is_busy)] += 1.0;
        }
    }
    for (hardware, [free, busy]) in slots {
        page.put(&SLOTS, [("hardware", hardware), ("state", "free")], free);
        page.put(&SLOTS, [("hardware", hardware), ("state", "busy")], busy);
    }
}

fn running(page: &mut Page, snapshot: &Snapshot) {
    // A trial may belong to several campaigns; a slot has one.
    let mut seen = BTreeSet::new();
    for running in snapshot.campaigns.iter().flat_map(|c| &c.running) {
        if seen.len() == MOST_AGENTS || !seen.insert(&running.holder) {
            continue;
        }
        let slot = [("agent", running.holder.agent.as_str()), ("slot", running.holder.slot.as_str())];
        page.put(&RUNNING, slot, running.running_ms as f64 / 1e3);
        if running.progress.of > 0 {
            page.put(&PROGRESS, slot, running.progress.done as f64 / running.progress.of as f64);
        }
    }
}
