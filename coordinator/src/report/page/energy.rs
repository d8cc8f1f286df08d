//! What the joules are: total and above idle, per image, how far they may be off, what else was measured, and what was
//! wasted.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::compare::{Cost, totals};
use fleet_common::record::{EnergyDomain, Reading, Record};
use fleet_common::score::Summary;
use fleet_common::score::interval::Interval;
use fleet_common::worker::Phase;
use maud::{Markup, html};

use super::Page;
use super::shell::{Section, not_available, summary};
use crate::report::blocks::{BEFORE, Block, counted, domain_in_words};
use crate::report::energy::{in_words, joules};
use crate::report::numbers::{fixed, plural, significant};

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let measured = |b: &&Block<'_>| b.rows.iter().any(|r| r.group.training.joules.value().is_some());
    let blocks: Vec<&Block<'_>> = page.blocks.iter().filter(measured).collect();
    if blocks.is_empty() && page.input.wasted.is_empty() {
        return None;
    }
    let body = html! {
        p.howto {
            "Joules are of the measured window alone. " b { "Above idle" } " is what the window took beyond what the idle device "
            "would have taken in the same time. The interval around a mean has two parts: how far the meter may be off, "
            "which is the same for all trials on one device and so says nothing about their order, and, from five trials on, "
            "what trials differ by from run to run (95 %)."
            @if let Some(preparation) = page.untrained() { " " (BEFORE) " " (counted(preparation)) }
        }
        @for block in &blocks { (table(page, block)) }
        (meters(&page.records))
        (others(page))
        (in_all(page))
    };
    Some(Section { id: "energy", heading: "Energy", body })
}

fn table(page: &Page<'_>, block: &Block<'_>) -> Markup {
    html! {
        h3 { (block.title()) }
        div.scroll { table.energy {
            thead {
                tr {
                    th.num rowspan="2" { "#" } th rowspan="2" { "combination" } th.num rowspan="2" { "n" }
                    th.group colspan="4" { "training" } th.group colspan="3" { "inference" }
                }
                tr {
                    th.num { "total, J" } th.num { "above idle, J" } th.num { "mean W" } th.num { "J per image" }
                    th.num { "total, J" } th.num { "above idle, J" } th.num { "J per image" }
                }
            }
            tbody { @for row in &block.rows {
                @let (training, inference) = (&row.group.training, &row.group.inference);
                tr {
                    td.num.muted { (row.number) } td.nowrap { (row.label) } td.num { (row.group.completed) }
                    td.num { (total(page, training)) }
                    td.num { (reading(page, &training.above_idle_joules, &training.joules)) }
                    td.num { (reading(page, &training.watts, &training.joules)) }
                    td.num { (reading(page, &training.joules_per_image, &training.joules)) }
                    td.num { (total(page, inference)) }
                    td.num { (reading(page, &inference.above_idle_joules, &inference.joules)) }
                    td.num { (reading(page, &inference.joules_per_image, &inference.joules)) }
                }
            } }
        } }
    }
}

fn total(page: &Page<'_>, cost: &Cost) -> Markup {
    html! {
        @match &cost.joules {
            Reading::Measured(s) => (summary(Some(s), 3)),
            Reading::Unavailable(why) => (not_available(&page.notes, why)),
        }
        @if let Some(interval) = &cost.intervals.joules { (between(interval, 3)) }
    }
}

/// An interval under its mean.
pub(super) fn between(interval: &Interval, digits: i32) -> Markup {
    let ends = format!("{} … {}", significant(interval.low, digits), significant(interval.high, digits));
    let title = match interval.run_to_run {
        true => "95 % from run to run, and the meter's error",
        false => "the meter's error alone: fewer than five trials",
    };
    html! { div.sub.nowrap title=(title) { (ends) } }
}

/// A value that lacks what the joules lack is a dash: the reason stands beside it.
fn reading(page: &Page<'_>, value: &Reading<Summary>, of: &Reading<Summary>) -> Markup {
    html! { @match (value, of) {
        (Reading::Measured(s), _) => (summary(Some(s), 3)),
        (Reading::Unavailable(_), Reading::Unavailable(_)) => "–",
        (Reading::Unavailable(why), _) => (not_available(&page.notes, why)),
    } }
}

/// Each device's meter once: sources, idle power, error.
fn meters(records: &[&Record]) -> Markup {
    let mut lines = BTreeSet::new();
    for record in records {
        for meter in record.metering.iter().flat_map(|m| &m.meters) {
            let idle = match &meter.idle {
                Reading::Measured(i) => {
                    let busy = i.cpu_busy.filter(|b| *b > 0.1);
                    let busy =
                        busy.map_or(String::new(), |b| format!(" (the CPUs were {} % busy)", fixed(b * 100.0, 0)));
                    format!("idle {} ± {} W{busy}", fixed(i.watts, 1), fixed(i.deviation, 1))
                }
                Reading::Unavailable(why) => why.clone(),
            };
            let response = meter.response.map_or(String::new(), |r| {
                let window = (r.averaging_seconds > 0.0).then(|| fixed(r.averaging_seconds * 1e3, 0));
                let window = window.map_or(String::new(), |ms| format!(", averaging over {ms} ms"));
                format!(", updated every {} ms{window}", fixed(r.update_seconds * 1e3, 0))
            });
            let factor = match meter.sensor.factor {
                1.0 => String::new(),
                factor => format!("× {factor}, "),
            };
            lines.insert(format!(
                "{}, {}: {}{response}; {idle}; error {factor}± {} % ({})",
                record.machine.hardware,
                domain_in_words(meter.domain),
                meter.sources.join(", "),
                fixed(meter.sensor.relative * 100.0, 1),
                meter.sensor.basis
            ));
        }
    }
    html! { @if !lines.is_empty() {
        h3 { "Meters" }
        ul { @for line in lines { li { (line) } } }
    } }
}

/// What was measured beside the devices, in training: means over all completed trials of a block's rows.
fn others(page: &Page<'_>) -> Markup {
    let mut found: BTreeMap<(String, EnergyDomain, String), Vec<f64>> = BTreeMap::new();
    for record in page.records.iter().filter(|r| r.outcome.kind().is_result()) {
        for energy in record.phase(Phase::Train).iter().flat_map(|p| &p.other_energy) {
            let key = (record.machine.hardware.to_string(), energy.domain, energy.source.clone());
            found.entry(key).or_default().push(energy.joules);
        }
    }
    html! { @if !found.is_empty() {
        h3 { "Beside the devices" }
        p.muted { "Energy of other parts of the machine while trials trained. It overlaps with the devices' (a meter at the wall \
                   sees everything) and is never added to it." }
        ul { @for ((hardware, domain, source), values) in found {
            @let mean = values.iter().sum::<f64>() / values.len() as f64;
            li { (hardware) ": " (domain_in_words(domain)) " (" (source) "), " (joules(mean)) " per trial, mean of "
                 (plural(values.len() as u64, "trial")) }
        } }
    } }
}

fn in_all(page: &Page<'_>) -> Markup {
    let wasted = page.input.wasted;
    let mut reasons: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for waste in wasted {
        let entry = reasons.entry(&waste.reason).or_default();
        entry.0 += 1;
        entry.1 += waste.energy.joules;
    }
    html! {
        h3 { "In all" }
        @for total in totals(page.records.iter().copied(), wasted) { p { (in_words(&total, page.input.grams_per_kwh)) } }
        @if !reasons.is_empty() {
            ul { @for (reason, (n, sum)) in reasons {
                li { (reason) ": " (joules(sum)) " in " (plural(n, "attempt")) }
            } }
        }
    }
}
