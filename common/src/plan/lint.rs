//! What a careful reader of the results would ask about, said before anything runs.

use std::collections::BTreeSet;

use super::{PlannedCell, WeightsRef};
use crate::spec::{Backbone, Campaign};

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
    let mut scratch: Vec<_> = cells
        .iter()
        .filter(|c| matches!(c.like().weights, WeightsRef::Scratch))
        .map(|c| c.like().backbone.name())
        .collect();
    scratch.sort_unstable();
    scratch.dedup();
    if !scratch.is_empty() {
        warnings.push(format!("no weights for {}: training from scratch", scratch.join(", ")));
    }
    let inputs: BTreeSet<(Backbone, u32)> = cells.iter().map(|c| (c.like().backbone, c.like().image_size)).collect();
    warnings.extend(inputs.into_iter().filter_map(|(backbone, side)| padded_windows(backbone, side)));
    warnings
}

/// What a backbone's windows do to an input of `side` pixels that they do not divide evenly.
fn padded_windows(backbone: Backbone, side: u32) -> Option<String> {
    let padded = backbone.windows().iter().filter_map(|(stage, reduction, window)| {
        let map = side / reduction;
        let filled = map.next_multiple_of(*window);
        (filled > map).then(|| format!("{stage} (a map of {map} pixels, padded to {filled} for windows of {window})"))
    });
    let padded: Vec<_> = padded.collect();
    if padded.is_empty() {
        return None;
    }
    let own = backbone.image_size();
    Some(format!(
        "{} at {side} pixels: windows do not divide the maps of {}. The zeros take part in attention, as in the reference, \
         and cost time and memory; multiples of {own} pixels need none",
        backbone.name(),
        padded.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Resolution, plan};

    /// The warnings that speak of windows.
    fn of_windows(size: &str) -> Vec<String> {
        let text = format!(
            "name = \"t\"\nseeds = [0, 1, 2]\n[matrix]\nmethod = [\"full\", \"lora\"]\ndataset = \"textures\"\n\
             backbone = [\"vit_small_patch16_224\", \"tiny_vit_5m_224\", \"tiny_vit_21m_224\"]\n[train]\nimage_size = {size}\n"
        );
        let campaign = Campaign::parse("t.toml", &text).expect("valid");
        let identity = crate::plan::DatasetIdentity { fingerprint: "ab".repeat(32), classes: 8, train: 9, test: 9 };
        let datasets = campaign.matrix.dataset.values().iter().map(|name| (name.clone(), Ok(identity.clone())));
        let plan = plan(&campaign, &Resolution { datasets: datasets.collect(), ..Resolution::default() });
        assert_eq!(plan.cells.len(), 18);
        plan.warnings.into_iter().filter(|w| w.contains("windows")).collect()
    }

    #[test]
    fn windows_that_do_not_divide_the_map_are_named_once_per_backbone() {
        assert_eq!(of_windows("224"), [""; 0]);
        assert_eq!(of_windows("448"), [""; 0]);
        let warnings = of_windows("{ tiny_vit_5m_224 = 256, default = 224 }");
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        for part in [
            "tiny_vit_5m_224 at 256 pixels",
            "stages.1 (a map of 32 pixels, padded to 35 for windows of 7)",
            "stages.2 (a map of 16 pixels, padded to 28 for windows of 14)",
            "stages.3 (a map of 8 pixels, padded to 14 for windows of 7)",
            "multiples of 224 pixels need none",
        ] {
            assert!(warning.contains(part), "lacks {part}: {warning}");
        }
        // 672 = 3 · 224 fits; at 64 every map is smaller than its window.
        assert_eq!(of_windows("672"), [""; 0]);
        assert_eq!(of_windows("64").len(), 2, "both TinyViTs");
    }
}
