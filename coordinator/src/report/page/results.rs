//! The comparison: one table per block, and the notes that all tables refer to.

use fleet_common::compare::Group;
use fleet_common::record::Reading;
use fleet_common::score::Summary;
use maud::{Markup, html};

use super::{Page, Section, value};
use crate::report::blocks::{Block, Cost, Row, domain_in_words, domains, same_but_seed};
use crate::report::numbers::{
    accuracy_decimals, count, fixed, mean_and_spread, mib, plural, share, significant, spread,
};
use crate::report::settings;

/// Between settings; a line may break after it, not before.
const DOT: &str = "\u{a0}· ";

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let blocks: Vec<&Block<'_>> = page.blocks.iter().filter(|b| !b.rows.is_empty()).collect();
    if blocks.is_empty() {
        return None;
    }
    let body = html! {
        p.howto {
            "Values are means over the n completed trials of a combination (seeds × repeats); ± is their sample standard "
            "deviation and is absent where n = 1. "
            span.front { "◆" } " marks a training cost for which no other row of the same table has at least the accuracy "
            "for less, judged by the means alone. Rows of different tables are not comparable: their data, hardware or "
            "number of evaluated images differ."
        }
        @for block in &blocks { (table(page, block)) }
        @if !page.notes.is_empty() {
            h3 { "Why values are missing" }
            ol.notes { @for (n, reason) in page.notes.iter() { li id={ "note-" (n) } { (reason) } } }
        }
    };
    Some(Section { id: "comparison", heading: "Comparison", body })
}

fn table(page: &Page<'_>, block: &Block<'_>) -> Markup {
    html! {
        h3 { (block.title()) }
        p.muted { (facts(block)) }
        div.scroll { table.results {
            thead {
                tr {
                    th.num rowspan="2" { "#" } th rowspan="2" { "backbone" } th rowspan="2" { "method" }
                    th rowspan="2" { "check­pointing" } th.num rowspan="2" { "n" } th.num rowspan="2" { "top-1, %" }
                    th.num rowspan="2" { "trainable" } th.group colspan="4" { "training" }
                }
                tr { th.num { "peak memory, MiB" } th.num { "time, s" } th.num { "images/s" } th.num { "energy, J" } }
            }
            tbody { @for row in &block.rows { (line(page, block, row)) } }
        } }
        @if !block.common.is_empty() { p.muted.common { "Common to all rows: " (block.common.join(DOT)) "." } }
    }
}

/// What the numbers of a block can say at best.
fn facts(block: &Block<'_>) -> String {
    let mut facts = vec![format!(
        "{} classes (content {}); an even guess scores {} %.",
        block.dataset.classes,
        settings::short(&block.dataset.fingerprint),
        significant(100.0 / f64::from(block.dataset.classes.max(1)), 3)
    )];
    let best = block.rows.iter().filter_map(|r| r.group.top1_percent).map(|s| s.mean).reduce(f64::max);
    if let (Some(n @ 1..), Some(best)) = (block.evaluated, best) {
        let error = (best * (100.0 - best) / n as f64).max(0.0).sqrt();
        facts.push(format!(
            "{} evaluated per trial: one image is {} points, and another draw of as many images would move an accuracy \
             of {} % by about ±{} points, which the spread over seeds does not contain.",
            plural(n, "image"),
            significant(100.0 / n as f64, 2),
            fixed(best, accuracy_decimals(n)),
            significant(error, 2)
        ));
    }
    let kinds: Vec<&str> = domains(&block.rows, Cost::Energy).into_iter().flatten().map(domain_in_words).collect();
    if !kinds.is_empty() {
        facts.push(format!("Energy is that of {}, idle power included.", kinds.join(" or, where noted, of ")));
    }
    facts.join(" ")
}

fn line(page: &Page<'_>, block: &Block<'_>, row: &Row<'_>) -> Markup {
    let g = row.group;
    let digits = accuracy_decimals(g.evaluated);
    let scaled = |s: &Option<Summary>, factor: f64| {
        s.map(|s| Summary { mean: s.mean * factor, deviation: s.deviation.map(|d| d * factor), ..s })
    };
    html! {
        tr {
            td.num.muted { (row.number) }
            td {
                (g.settings.backbone.name())
                div.sub.nowrap { (settings::weights(&g.settings)) }
                div.sub.nowrap { (count(g.parameters)) " · " (significant(g.macs as f64 / 1e9, 3)) " GMAC" }
            }
            td {
                (g.settings.method.method().name())
                @if !row.particular.is_empty() { div.sub { (row.particular.join(DOT)) } }
            }
            td { (g.settings.checkpointing.name()) }
            td.num { (g.completed) @for text in incomplete(block, g) { div.sub.bad { (text) } } }
            td.num { @match &g.top1_percent {
                Some(s) => (value(&fixed(s.mean, digits), s.deviation.map(|d| spread(d, digits)).as_deref())),
                None => "–",
            } }
            td.num { (count(g.trainable)) @if let Some(p) = share(g.trainable, g.parameters) { div.sub { (p) } } }
            td.num { (cost(block, row, Cost::Memory, scaled(&g.training.peak_bytes, mib(1.0)).as_ref())) }
            td.num { (cost(block, row, Cost::Time, g.training.seconds.as_ref())) }
            td.num { (plain(g.training.images_per_second.as_ref())) }
            td.num { @match &g.training.joules {
                Reading::Measured(s) => {
                    (cost(block, row, Cost::Energy, Some(s)))
                    @if domains(&block.rows, Cost::Energy).len() > 1 {
                        @if let Some(d) = g.training.domain { div.sub { "of " (domain_in_words(d)) } }
                    }
                }
                Reading::Unavailable(why) => (page.not_available(why)),
            } }
        }
    }
}

fn plain(summary: Option<&Summary>) -> Markup {
    html! { @match summary {
        Some(s) => { @let (mean, spread) = mean_and_spread(s, 3); (value(&mean, spread.as_deref())) }
        None => "–",
    } }
}

/// A cost with its mark; a row without rivals wins nothing and gets none.
fn cost(block: &Block<'_>, row: &Row<'_>, cost: Cost, summary: Option<&Summary>) -> Markup {
    let marked = block.rows.len() > 1 && row.on_front(cost) == Some(true);
    html! {
        span.nowrap {
            @if marked { span.front title="on the front" { "◆ " } }
            (plain(summary))
        }
    }
}

/// Trials of the same combination that did not complete: a mean over the survivors must say so.
fn incomplete(block: &Block<'_>, group: &Group) -> Vec<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for failure in block.failures.iter().filter(|f| same_but_seed(&f.settings, &group.settings)) {
        let class = failure.outcome.class();
        match counts.iter_mut().find(|(c, _)| *c == class) {
            Some((_, n)) => *n += 1,
            None => counts.push((class, 1)),
        }
    }
    counts.into_iter().map(|(class, n)| format!("+{n} {class}")).collect()
}
