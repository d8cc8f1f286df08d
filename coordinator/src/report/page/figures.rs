//! The charts of every block, each under a caption that says how to read it.

use std::collections::BTreeSet;

use fleet_chart::palette::{self, Stroke};
use fleet_common::plan::CellSettings;
use fleet_common::record::{Outcome, Record};
use fleet_common::spec::{Checkpointing, Method};
use maud::{Markup, PreEscaped, html};

use super::shell::Section;
use super::{Page, steps};
use crate::report::blocks::{BEFORE, Block, Cost, Row, domain_in_words, domains, same_but_seed};
use crate::report::chart::traces::Trace;
use crate::report::chart::{Figure, hollow_sample_of, losses::losses, sample_of, scatter::scatter};
use crate::report::numbers::{mib, significant};

/// Traces shown at once; the others are folded away.
const SHOWN: usize = 12;

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let blocks: Vec<Markup> = page.blocks.iter().filter_map(|b| block_figures(page, b)).collect();
    if blocks.is_empty() {
        return None;
    }
    Some(Section { id: "figures", heading: "Figures", body: html! { @for b in blocks { (b) } } })
}

fn block_figures(page: &Page<'_>, block: &Block<'_>) -> Option<Markup> {
    let parts: Vec<Markup> = [scatters(block), loss_curves(page, block), steps::part(page, block), traces(page, block)]
        .into_iter()
        .flatten()
        .collect();
    (!parts.is_empty()).then(|| html! { h3 { (block.title()) } (legend_of(block)) @for part in parts { (part) } })
}

/// Colours of the methods, marks and dashes of the strategies: those of this block only.
fn legend_of(block: &Block<'_>) -> Markup {
    let settings = block.rows.iter().map(|r| &r.group.settings).chain(block.failures.iter().map(|f| &f.settings));
    legend(settings, true)
}

/// Colours, marks and, where lines are drawn, dashes.
pub(super) fn legend<'s>(settings: impl Iterator<Item = &'s CellSettings> + Clone, lines: bool) -> Markup {
    let methods: BTreeSet<Method> = settings.clone().map(|s| s.method.method()).collect();
    let trained = settings.filter(|s| s.train.is_some());
    let strategies: BTreeSet<Checkpointing> = trained.map(|s| s.checkpointing).collect();
    html! {
        p.legend {
            @for m in methods {
                span {
                    @if m.trains() { (sample_of(palette::method(m), None, Stroke::Plain(0))) }
                    @else { (hollow_sample_of(palette::method(m))) }
                    (m.name())
                }
            }
            @if !strategies.is_empty() { span.muted { "checkpointing:" } }
            @for c in strategies {
                span {
                    (sample_of(palette::NEUTRAL, Some(palette::shape(c)), palette::stroke(c)))
                    @if lines { (sample_of(palette::NEUTRAL, None, palette::stroke(c))) }
                    (c.name())
                }
            }
        }
    }
}

fn figure(figure: Figure) -> Markup {
    html! { figure { (PreEscaped(figure.svg)) @for r in figure.remarks { figcaption { (r) } } } }
}

fn scatters(block: &Block<'_>) -> Option<Markup> {
    let mut charts = Vec::new();
    for cost in Cost::ALL {
        let kinds = domains(&block.rows, cost);
        for domain in &kinds {
            if let Some(mut chart) = scatter(block, cost, *domain) {
                if let (Some(d), true) = (domain, kinds.len() > 1) {
                    chart.remarks.push(format!("Energy of {}.", domain_in_words(*d)));
                }
                charts.push(chart);
            }
        }
    }
    (!charts.is_empty()).then(|| {
        html! {
            h4 { "Accuracy against cost" }
            p.caption {
                "One point per combination; bars are ±1 standard deviation where n ≥ 2, and may be smaller than the point. The grey "
                "steps are the front: the best mean accuracy that so much of the cost buys. A number in place of a name is that of the row in the table."
                @if block.has_untrained() { " Hollow points are of models that are not trained. " (BEFORE) }
            }
            div.charts { @for c in charts { (figure(c)) } }
        }
    })
}

fn loss_curves(page: &Page<'_>, block: &Block<'_>) -> Option<Markup> {
    let mut charts = Vec::new();
    let mut rest: Vec<&Row<'_>> = block.rows.iter().collect();
    while let Some(first) = rest.first().copied() {
        let (same, other): (Vec<&Row<'_>>, Vec<&Row<'_>>) =
            rest.into_iter().partition(|r| r.group.settings.backbone == first.group.settings.backbone);
        charts.extend(losses(&same, page.input.records, first.group.settings.backbone.name()));
        rest = other;
    }
    (!charts.is_empty()).then(|| {
        html! {
            h4 { "Training loss" }
            p.caption {
                "Lines are means over the completed trials, bands reach from their least to their greatest. Combinations that compute the same, "
                "such as one method with and without checkpointing, lie on top of each other: a broken line on a broad one."
            }
            div.charts { @for c in charts { (figure(c)) } }
        }
    })
}

/// Memory and power of one trial per combination, with one scale per backbone.
fn traces(page: &Page<'_>, block: &Block<'_>) -> Option<Markup> {
    let all = representatives(page, block);
    let mut memory: Vec<String> = Vec::new();
    let mut power: Vec<String> = Vec::new();
    let mut above: BTreeSet<String> = BTreeSet::new();
    let backbones: BTreeSet<_> = all.iter().map(|t| t.record.settings.backbone).collect();
    for backbone in backbones {
        let of: Vec<&Trace<'_>> = all.iter().filter(|t| t.record.settings.backbone == backbone).collect();
        let span = of.iter().map(|t| t.span()).fold((0.0f64, 0.0f64), |a, b| (a.0.min(b.0), a.1.max(b.1)));
        let highest = |pick: for<'t> fn(&'t Trace<'_>) -> &'t [(f64, f64)]| {
            of.iter().flat_map(|t| pick(t)).map(|(_, v)| *v).fold(0.0f64, f64::max)
        };
        let (most, watts) = (highest(|t| &t.memory), highest(|t| &t.power));
        let budgets = of.iter().filter_map(|t| t.record.settings.budget_bytes).map(|b| mib(b as f64));
        // A budget far above everything would flatten the curves; it is then named in the caption.
        let (near, far): (Vec<f64>, Vec<f64>) = budgets.partition(|b| *b <= 1.5 * most);
        above.extend(far.into_iter().map(|b| format!("{} MiB", significant(b, 3))));
        let high = near.into_iter().fold(most, f64::max);
        memory.extend(of.iter().filter(|t| !t.memory.is_empty()).map(|t| t.memory_chart(high, span)));
        power.extend(of.iter().filter(|t| !t.power.is_empty()).map(|t| t.power_chart(watts, span)));
    }
    (!memory.is_empty() || !power.is_empty()).then(|| {
        html! {
            @if !memory.is_empty() {
                h4 { "Memory over time" }
                p.caption {
                    "Bytes that tensors hold, in one trial per combination: its first seed. Panels of one backbone have the same axes. "
                    "Where readings are denser than the chart, the band from the least to the greatest is drawn. "
                    @if !above.is_empty() { "The memory budget (" (above.into_iter().collect::<Vec<_>>().join(", ")) ") lies above the axes." }
                }
                (gallery(memory))
            }
            @if !power.is_empty() {
                h4 { "Power over time" }
                p.caption {
                    "The same trials: readings of the GPU's power where there are any, else the growth of an energy "
                    "counter over at least half a second. Many boards report a running average of about a second."
                }
                (gallery(power))
            }
        }
    })
}

fn gallery(charts: Vec<String>) -> Markup {
    let more = charts.len().saturating_sub(SHOWN);
    html! {
        div.charts.small { @for c in charts.iter().take(SHOWN) { figure { (PreEscaped(c)) } } }
        @if more > 0 {
            details { summary { (more) " more" } div.charts.small { @for c in charts.iter().skip(SHOWN) { figure { (PreEscaped(c)) } } } }
        }
    }
}

/// Per combination the first trial with samples: a completed one where there is one, by seed and repeat.
fn representatives<'a>(page: &Page<'a>, block: &Block<'_>) -> Vec<Trace<'a>> {
    let mut records: Vec<&Record> = page.input.records.iter().filter(|r| block.holds(r)).collect();
    records.sort_by_key(|r| {
        let s = &r.settings;
        (s.method.method(), s.checkpointing, r.outcome != Outcome::Completed, s.seed, r.trial.repeat)
    });
    let mut chosen: Vec<Trace<'a>> = Vec::new();
    for record in records {
        if chosen.iter().any(|t| same_but_seed(&t.record.settings, &record.settings)) {
            continue;
        }
        let samples = page.input.samples.get(&record.trial);
        chosen.extend(samples.and_then(|s| Trace::new(record, s, block.label(record))));
    }
    chosen
}
