//! Campaign files, and what follows from them.

use std::collections::BTreeMap;

use fleet_common::canonical;
use fleet_common::plan::{DatasetIdentity, Kinds, Resolution, plan};
use fleet_common::spec::Campaign;
use fleet_common::wire::{self, v1};

/// Larger products say nothing that smaller ones do not, and take a fuzzer's time.
const MOST_CELLS: usize = 128;

/// A campaign file → a plan. Each of its cells is the same on the other side of the wire, and so is each of its trials.
pub fn campaign(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let campaign = match Campaign::parse("campaign.toml", text) {
        Ok(campaign) => campaign,
        // It says where it is, with a line of the file.
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let m = &campaign.matrix;
    let axes = [m.method.values().len(), m.backbone.values().len(), m.checkpointing.values().len()];
    let cells: usize = axes.into_iter().chain([m.dataset.values().len(), campaign.seeds.values().len()]).product();
    if cells > MOST_CELLS {
        return;
    }
    let identity = |n: usize| DatasetIdentity { fingerprint: format!("{n:064x}"), classes: 8, train: 100, test: 50 };
    let datasets = m.dataset.values().iter().enumerate().map(|(n, name)| (name.clone(), Ok(identity(n)))).collect();
    let weights: BTreeMap<_, _> = m.backbone.values().iter().take(1).map(|b| (*b, "ab".repeat(32))).collect();
    let plan = plan(&campaign, &Resolution { datasets, weights });
    assert_eq!(
        plan.cells.len() + plan.excluded.iter().map(|e| e.cells).sum::<usize>(),
        cells,
        "nothing is left out in silence"
    );
    assert_eq!(Kinds::of(&plan).of_cell.len(), plan.cells.len());
    for cell in &plan.cells {
        let there =
            wire::settings(&cell.id, &canonical::json(&cell.settings())).expect("an agent reads what was planned");
        assert_eq!(there, cell.settings());
    }
    let class = "A 1".parse().expect("a class");
    for trial in plan.trials(&campaign.hardware, &[class]).iter().take(MOST_CELLS) {
        assert_eq!(wire::trial(Some(v1::TrialId::from(trial))).as_ref(), Ok(trial));
    }
}
