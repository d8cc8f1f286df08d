//! The answer as an SVG file: memory over the steps, a panel per strategy.

use fleet_chart::numbers::{mib, significant};
use fleet_chart::sheet::sheet;
use fleet_chart::step::{Limit, Shown, Step};
use fleet_common::plan::CellSettings;
use fleet_common::profile::{Step as Profiled, StepOutcome};

use super::{Document, asked};

/// The file's text.
pub fn picture(document: &Document) -> String {
    let steps = document.request.cells.iter().zip(&document.profile.steps);
    let steps: Vec<Step<'_>> = steps.map(|(cell, s)| step(cell, s)).collect();
    sheet(&format!("Memory over one training step: {}", asked(document.cell())), &steps)
}

fn step<'a>(cell: &CellSettings, step: &'a Profiled) -> Step<'a> {
    let name = step.checkpointing.name();
    let limit = |name, bytes: Option<u64>| bytes.map(|bytes| Limit { name, bytes });
    let threshold = cell.budget_bytes.and_then(|budget| cell.adaptive_threshold(budget));
    let (heading, shown, planned) = match &step.outcome {
        StepOutcome::Ran { seconds, peak_bytes, peak_place, plan, trace, .. } => {
            let place = peak_place.as_ref().map(|p| format!(" in {p}")).unwrap_or_default();
            let (peak, ms) = (significant(mib(*peak_bytes as f64), 3), significant(1e3 * seconds, 3));
            (format!("{name}: peak {peak} MiB{place}, {ms} ms"), Shown::Trace(trace), plan.as_ref())
        }
        StepOutcome::Failed { reason } => (name.to_owned(), Shown::Reason(reason), None),
    };
    let limits = [
        limit("budget", cell.budget_bytes),
        limit("plan's limit", planned.map(|p| p.limit_bytes)),
        limit("threshold", threshold),
    ];
    Step { heading, method: cell.method.method(), shown, limits: limits.into_iter().flatten().collect() }
}
