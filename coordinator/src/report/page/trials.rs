//! Every trial of the campaign, collapsed: what the means are made of.

use fleet_common::id::HardwareClass;
use fleet_common::record::{Outcome, Reading, Record};
use fleet_common::worker::Phase;
use maud::{Markup, html};

use super::Page;
use crate::report::blocks::brief;
use crate::report::numbers::{accuracy_decimals, fixed, mib, significant, whole};
use crate::report::settings::brief_backbone;

/// Those that are shown, [`Phase::Prepare`] where a trial has it.
const PHASES: [Phase; 5] = [Phase::Load, Phase::WarmUp, Phase::Train, Phase::Prepare, Phase::Evaluate];

/// Records as lists of trials have them.
pub(super) fn in_order(records: &[Record]) -> Vec<&Record> {
    let mut records: Vec<&Record> = records.iter().collect();
    records.sort_by_cached_key(|r| {
        let s = &r.settings;
        (
            s.dataset.name.clone(),
            r.machine.hardware.clone(),
            s.backbone,
            s.method.method(),
            s.checkpointing,
            s.seed,
            r.trial.repeat,
        )
    });
    records
}

pub(super) fn list(page: &Page<'_>) -> Markup {
    let records = in_order(page.input.records);
    let prepared = records.iter().any(|r| r.phase(Phase::Prepare).is_some());
    let phases: Vec<Phase> = PHASES.into_iter().filter(|p| prepared || *p != Phase::Prepare).collect();
    html! {
        details {
            summary { "All " (records.len()) " trials that left a record" }
            div.scroll { table.trials {
                thead {
                    tr {
                        th rowspan="2" { "trial" } th rowspan="2" { "combination" }
                        th rowspan="2" { "seed, repeat, attempt" }
                        th.num rowspan="2" { "top-1, %" } th.num rowspan="2" { "last loss" }
                        th.group colspan=(phases.len()) { "time, s" } th.group colspan=(phases.len()) { "peak allocated, MiB" }
                        th.num rowspan="2" { "reserved, process, MiB" }
                        th.num rowspan="2" { "energy, J" } th.num rowspan="2" { "samples" } th rowspan="2" { "ended, flags" }
                    }
                    tr { @for _ in 0..2 { @for p in &phases { th.num { (p.name()) } } } }
                }
                @for same in records.chunk_by(|a, b| place(a) == place(b)) {
                    @let (dataset, hardware) = place(same[0]);
                    tbody {
                        tr { th.place colspan=(8 + 2 * phases.len()) { (dataset) " on " (hardware) } }
                        @for r in same { (line(page, r, &phases)) }
                    }
                }
            } }
            p.muted {
                "Under a trial stands its machine, under a peak what was at work. Reserved (the allocator's cache included) and, under it, process are the most over all phases; process is the sampled "
                "resident memory of the worker. Energy is that of the train phase, or where nothing is trained of the evaluation. Samples: kept for this report of those taken."
            }
        }
    }
}

fn place(r: &Record) -> (&str, &HardwareClass) {
    (&r.settings.dataset.name, &r.machine.hardware)
}

fn line(page: &Page<'_>, r: &Record, phases: &[Phase]) -> Markup {
    let window = if r.settings.train.is_some() { Phase::Train } else { Phase::Evaluate };
    let most =
        |values: Vec<u64>| values.into_iter().max().map_or_else(|| "–".to_owned(), |b| significant(mib(b as f64), 3));
    let reserved = most(r.training.phases.iter().map(|p| p.peak_reserved_bytes).collect());
    let process = most(r.phases.iter().filter_map(|p| p.peak_process_bytes).collect());
    let kept = page.input.samples.get(&r.trial).map_or(0, Vec::len) as u64;
    html! {
        tr {
            td { code title=(r.trial) { (r.trial.cell.short()) } div.sub { (r.machine.host) } }
            td.nowrap { (brief(&r.settings, false)) div.sub { (brief_backbone(r.settings.backbone.name())) } }
            td.nowrap { (r.settings.seed) ", " (r.trial.repeat) ", " (r.attempt) }
            td.num { @match r.training.top1_percent {
                Some(a) => (fixed(a, accuracy_decimals(r.training.evaluated))),
                None => "–",
            } }
            td.num { @match r.training.losses.last() { Some(l) => (significant(f64::from(*l), 3)), None => "–" } }
            @for &p in phases {
                td.num { @match r.phase(p) { Some(p) => (significant(p.seconds, 3)), None => "–" } }
            }
            @for &p in phases {
                td.num { @match r.worker_phase(p) {
                    Some(p) => {
                        (significant(mib(p.peak_bytes as f64), 3))
                        @if let Some(place) = &p.peak_place { div.sub {
                            (place.phase) @if let Some(block) = place.block { br; "block " (block) }
                        } }
                    }
                    None => "–",
                } }
            }
            td.num { (reserved) div.sub { (process) } }
            td.num { @match r.phase(window).map(|p| &p.energy) {
                Some(Reading::Measured(e)) => { (significant(e.joules, 3)) div.sub { (whole(e.readings)) " readings" } }
                Some(Reading::Unavailable(why)) => (page.not_available(why)),
                None => "–",
            } }
            td.num { (whole(kept)) div.sub { "of " (whole(r.samples_taken)) } }
            td.flags {
                @if r.outcome != Outcome::Completed { div.bad { (r.outcome.class()) } }
                @for flag in &r.flags { div { (flag) } }
            }
        }
    }
}
