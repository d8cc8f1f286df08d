//! Memory over one training step: a figure per backbone and method, a panel per strategy.

use fleet_chart::step::{Limit, Shown, Step, panels};
use fleet_common::record::Record;
use maud::{Markup, PreEscaped, html};

use super::Page;
use crate::report::blocks::Block;
use crate::report::steps::{Family, families, happened};

/// The figures of a block; `None` without traces.
pub(super) fn part(page: &Page<'_>, block: &Block<'_>) -> Option<Markup> {
    let traced = |f: &Family<'_>| f.records.iter().any(|r| r.training.memory_trace.is_some());
    let families: Vec<Family<'_>> = families(block, page.input.records).into_iter().filter(traced).collect();
    (!families.is_empty()).then(|| {
        html! {
            h4 { "Memory over one training step" }
            p.caption {
                "Bytes that tensors hold in one of the first steps of one trial per strategy: its first seed. Panels of one "
                "backbone and method have the same axes. Within a part of the step only its begin and its peak are known: the "
                "line rises to the peak in its middle. Strong areas are blocks running again; the dot is the step's peak. "
                "In a plan, such as 3w 2c 7k, stand in the order of the blocks those that run again as a whole (w), run "
                "their cheap parts again (c), do both at once (wc), or keep everything (k)."
            }
            @for family in &families { div.charts { (figures(block, family)) } }
        }
    })
}

fn figures(block: &Block<'_>, family: &Family<'_>) -> Markup {
    let untold = || "it left no trace".to_owned();
    let why: Vec<String> = family.records.iter().map(|r| r.outcome.reason().unwrap_or_else(untold)).collect();
    let steps: Vec<Step<'_>> = family.records.iter().zip(&why).map(|(r, why)| step(block, r, why)).collect();
    html! {
        @for (svg, record) in panels(&steps).into_iter().zip(&family.records) {
            figure {
                (PreEscaped(svg))
                @if let Some(trace) = &record.training.memory_trace {
                    figcaption { (happened(record, trace).join(" ").replace(" %", "\u{a0}%")) }
                }
            }
        }
    }
}

fn step<'a>(block: &Block<'_>, record: &'a Record, untold: &'a str) -> Step<'a> {
    let training = &record.training;
    let limit = |name, bytes: Option<u64>| bytes.map(|bytes| Limit { name, bytes });
    let limits = [
        limit("budget", record.settings.budget_bytes),
        limit("plan's limit", training.memory_plan.as_ref().map(|p| p.limit_bytes)),
        limit("threshold", training.recompute_threshold_bytes),
    ];
    Step {
        heading: block.label(record),
        method: record.settings.method.method(),
        shown: training.memory_trace.as_ref().map_or(Shown::Reason(untold), Shown::Trace),
        limits: limits.into_iter().flatten().collect(),
    }
}
