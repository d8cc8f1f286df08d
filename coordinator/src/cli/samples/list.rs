//! Which attempts have samples, for people and for programs.

use fleet_chart::numbers::utc;
use fleet_common::id::CampaignName;
use fleet_common::units::Bytes;
use fleet_common::wire::{self, v1};
use serde::Serialize;

use crate::cli::{print_json, terminal_width};
use crate::report::{Align, grid};

/// A `fleet.samples/1` document.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    campaign: String,
    attempts: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    trial: String,
    attempt: u32,
    running: bool,
    recorded: bool,
    /// Samples that the agent numbered; null where no record tells.
    taken: Option<u64>,
    /// Of the chunk file; null where there are none.
    bytes: Option<u64>,
    removed: Option<Removed>,
}

#[derive(Debug, Serialize)]
struct Removed {
    unix_ms: u64,
    rule: String,
}

impl From<&v1::SamplesRemoved> for Removed {
    fn from(r: &v1::SamplesRemoved) -> Self {
        Self { unix_ms: r.unix_ms, rule: r.rule.clone() }
    }
}

impl From<&v1::SampledAttempt> for Entry {
    fn from(a: &v1::SampledAttempt) -> Self {
        // An id that cannot be read comes from a coordinator of another version.
        let trial = wire::trial(a.trial.clone()).map_or_else(|e| e.to_string(), |id| id.to_string());
        Self {
            trial,
            attempt: a.attempt,
            running: a.running,
            recorded: a.recorded,
            taken: a.taken,
            bytes: a.bytes,
            removed: a.removed.as_ref().map(Removed::from),
        }
    }
}

pub(super) fn show(campaign: &CampaignName, attempts: &[v1::SampledAttempt], json: bool) {
    let entries: Vec<Entry> = attempts.iter().map(Entry::from).collect();
    if json {
        print_json(&Document { schema: "fleet.samples/1", campaign: campaign.to_string(), attempts: entries });
        return;
    }
    if entries.is_empty() {
        say!("{campaign} has no samples yet.");
        return;
    }
    let head = [
        ("trial", Align::Left),
        ("attempt", Align::Right),
        ("record", Align::Left),
        ("taken", Align::Right),
        ("on disk", Align::Right),
    ];
    let row = |e: &Entry| {
        let record = match (e.recorded, e.running) {
            (true, _) => "this attempt's",
            (false, true) => "none yet: it runs",
            (false, false) => "another's, or none",
        };
        let taken = e.taken.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        let kept = match (e.bytes, &e.removed) {
            (Some(bytes), _) => Bytes(bytes).to_string(),
            (None, Some(removed)) => format!("removed {}", utc(removed.unix_ms)),
            (None, None) => "none".to_owned(),
        };
        vec![e.trial.clone(), e.attempt.to_string(), record.to_owned(), taken, kept]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    say!("{}", grid(&head, &rows, terminal_width()).trim_end());
}
