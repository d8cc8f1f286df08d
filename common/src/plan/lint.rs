//! What a careful reader of the results would ask about, said before anything runs.

use super::PlannedCell;
use crate::spec::Campaign;

/// Warnings on a plan; none of them stops it.
pub(super) fn lint(campaign: &Campaign, cells: &[PlannedCell]) -> Vec<String> {
    let mut warnings = Vec::new();
    let samples = campaign.seeds.values().len() * campaign.repeats as usize;
    if samples < 3 {
        warnings.push(format!(
            "{samples} trial{} per combination: a spread needs at least 3 (seeds × repeats), an interval 5",
            if samples == 1 { "" } else { "s" }
        ));
    }
    if cells.iter().any(|c| matches!(c.settings.weights, super::WeightsRef::Scratch)) {
        let mut names: Vec<_> = cells
            .iter()
            .filter(|c| matches!(c.settings.weights, super::WeightsRef::Scratch))
            .map(|c| c.settings.backbone.name())
            .collect();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        warnings.push(format!("no weights for {}: training from scratch", names.join(", ")));
    }
    warnings
}
