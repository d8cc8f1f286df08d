//! Memory over one training step: the trials that show it, and what their strategies did, in words.

use fleet_common::plan::CellSettings;
use fleet_common::record::{MemoryPlan, MemoryTrace, MemoryWindow, Outcome, Record};
use fleet_common::spec::Checkpointing;

use super::blocks::{Block, same_but_seed};
use super::numbers::{change, mib, ranges, significant};

/// Trials of one backbone and method that differ in their strategy alone: of each strategy one, by seed and repeat the
/// first that has a trace, or else one that did not fit.
pub(super) struct Family<'a> {
    pub(super) records: Vec<&'a Record>,
}

impl<'a> Family<'a> {
    /// Those with a plan, and their plans.
    pub(super) fn planned(&self) -> impl Iterator<Item = (&'a Record, &'a MemoryPlan)> + use<'a> {
        let records = self.records.clone();
        records.into_iter().filter_map(|r| Some((r, r.training.memory_plan.as_ref()?)))
    }
}

/// The families of a block.
pub(super) fn families<'a>(block: &Block<'_>, records: &'a [Record]) -> Vec<Family<'a>> {
    let mut records: Vec<&Record> = records.iter().filter(|r| block.holds(r)).collect();
    records.sort_by_key(|r| {
        let s = &r.settings;
        let untold = r.training.memory_trace.is_none() && r.training.memory_plan.is_none();
        (
            s.backbone,
            s.method.method(),
            s.checkpointing,
            untold,
            r.outcome != Outcome::Completed,
            s.seed,
            r.trial.repeat,
        )
    });
    let mut families: Vec<Family<'_>> = Vec::new();
    for record in records {
        let family = families.iter_mut().find(|f| f.records.iter().all(|r| related(&r.settings, &record.settings)));
        match family {
            Some(family) if family.records.iter().any(|r| same_but_seed(&r.settings, &record.settings)) => {}
            Some(family) => family.records.push(record),
            None => families.push(Family { records: vec![record] }),
        }
    }
    for family in &mut families {
        let unfit = |r: &Record| matches!(r.outcome, Outcome::DoesNotFit { .. });
        family.records.retain(|r| r.training.memory_trace.is_some() || r.training.memory_plan.is_some() || unfit(r));
    }
    families.retain(|f| !f.records.is_empty());
    families
}

/// Whether two trials differ in nothing but their seed and their strategy.
fn related(a: &CellSettings, b: &CellSettings) -> bool {
    let (checkpointing, adaptive_ratio, planned_margin) = (a.checkpointing, a.adaptive_ratio, a.planned_margin);
    same_but_seed(a, &CellSettings { checkpointing, adaptive_ratio, planned_margin, ..b.clone() })
}

/// Where memory peaked in a step, how long that was, and what its strategy did.
pub(super) fn happened(record: &Record, trace: &MemoryTrace) -> Vec<String> {
    let mut sentences: Vec<String> =
        trace.windows.iter().max_by_key(|w| w.peak).map(|w| peak(w, trace)).into_iter().collect();
    if let Some(threshold) = record.training.recompute_threshold_bytes {
        let share = record.settings.adaptive_ratio.map(|r| format!(" ({r} of the budget)")).unwrap_or_default();
        sentences.push(format!("The threshold is {} MiB{share}.", in_mib(threshold)));
    }
    let again = match record.training.recomputed_blocks.as_slice() {
        [] => "No block ran again as a whole.".to_owned(),
        [one] => format!("Block {one} ran again."),
        many => format!("Blocks {} ran again.", ranges(many)),
    };
    if record.settings.checkpointing != Checkpointing::None {
        sentences.push(again);
    }
    sentences.extend(record.training.memory_plan.as_ref().map(|plan| format!("The {}.", plan_in_words(plan))));
    sentences
}

fn peak(window: &MemoryWindow, trace: &MemoryTrace) -> String {
    let (most, ms) = (in_mib(window.peak), significant(f64::from(trace.milliseconds), 3));
    format!("Peak {most} MiB in {}; {ms} ms for step {}.", window.place, trace.step)
}

/// A plan, and what became of what it expected.
pub(super) fn plan_in_words(plan: &MemoryPlan) -> String {
    let miss = plan.miss().map(|m| format!(" ({})", change(m))).unwrap_or_default();
    let share = plan.recompute_share().map(|s| format!(", {} % of the blocks' time", significant(100.0 * s, 2)));
    let second = if plan.replanned { "; it is the second, as the first missed" } else { "" };
    format!(
        "plan {} has {} MiB to stay below: peak {} MiB predicted, {} MiB measured{miss}; running again takes {} ms{}{second}",
        plan.short(),
        in_mib(plan.limit_bytes),
        in_mib(plan.predicted_peak_bytes),
        in_mib(plan.measured_peak_bytes),
        significant(1e3 * plan.recompute_seconds, 3),
        share.unwrap_or_default(),
    )
}

fn in_mib(bytes: u64) -> String {
    significant(mib(bytes as f64), 4)
}
