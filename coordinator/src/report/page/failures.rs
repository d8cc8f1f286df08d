//! Trials that did not complete, each with its reason.

use fleet_common::compare::Failure;
use fleet_common::record::{Outcome, Record};
use maud::html;

use super::shell::Section;
use crate::report::blocks::brief;
use crate::report::numbers::plural;

pub(super) fn section(failures: &[Failure], records: &[&Record]) -> Option<Section> {
    let mut failures: Vec<&Failure> = failures.iter().collect();
    failures.sort_by_key(|f| {
        let s = &f.settings;
        let place = (&s.dataset.name, &f.hardware, f.outcome.kind());
        (place, s.backbone, s.method.method(), s.checkpointing, s.seed, f.trial.repeat)
    });
    if failures.is_empty() {
        return None;
    }
    let results = failures.iter().filter(|f| f.outcome.kind().is_result()).count() as u64;
    let body = html! {
        p.howto {
            @if results > 0 {
                "“Does not fit” and “diverged” are results: the same trial would end the same way, so they are not repeated ("
                (plural(results, "trial")) "). "
            }
            "No trial of this list is part of a mean."
        }
        div.scroll { table {
            thead { tr {
                th { "how it ended" } th { "combination" } th { "data set" } th { "hardware" } th.num { "seed" } th.num { "repeat" }
                th.num { "attempt" } th { "reason" } th { "trial" }
            } }
            tbody { @for f in failures {
                @let record = records.iter().find(|r| tells(r, f));
                tr {
                    td.nowrap { (f.outcome.class()) }
                    td { (brief(&f.settings, true)) }
                    td { (f.settings.dataset.name) }
                    td { (f.hardware) }
                    td.num { (f.settings.seed) }
                    td.num { (f.trial.repeat) }
                    td.num { @match record { Some(r) => (r.attempt), None => "–" } }
                    td.reason { @match (&f.outcome, f.outcome.reason()) {
                        (_, Some(reason)) => (reason),
                        (Outcome::Cancelled, None) => "stopped on request",
                        (_, None) => "–",
                    } }
                    td { code { (f.trial.cell.short()) } }
                }
            } }
        } }
    };
    Some(Section { id: "failures", heading: "Trials that did not complete", body })
}

/// Whether `record` is where `failure` was read: sets from several coordinators may hold the same trial.
fn tells(record: &Record, failure: &Failure) -> bool {
    record.trial == failure.trial && record.machine.hardware == failure.hardware && record.outcome == failure.outcome
}
