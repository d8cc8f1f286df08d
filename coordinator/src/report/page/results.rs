//! The comparison: one table per block, and the notes that all tables refer to.

use fleet_common::compare::Failure;
use fleet_common::plan::CellSettings;
use fleet_common::record::Reading;
use fleet_common::score::Summary;
use maud::{Markup, html};

use super::Page;
use super::shell::{Section, accuracy, reasons, summary};
use crate::report::blocks::{BEFORE, Block, Cost, Row, domain_in_words, domains, same_but_seed};
use crate::report::numbers::{accuracy_decimals, count, fixed, mib, plural, share, significant};
use crate::report::settings;

/// Between settings; a line may break after it, not before.
const DOT: &str = "\u{a0}· ";

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let blocks = page.tables()?;
    let body = html! {
        p.howto {
            "Values are means over the n completed trials of a combination (seeds × repeats); ± is their sample standard "
            "deviation and is absent where n = 1. "
            span.front { "◆" } " marks a training cost for which no other row of the same table has at least the accuracy "
            "for less, judged by the means alone. Rows of different tables are not comparable: their data, hardware or "
            "number of evaluated images differ."
            @if page.untrained().is_some() { " " (BEFORE) }
        }
        @for block in &blocks { (table(page, block)) }
        (reasons(&page.notes))
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
            td { (settings::checkpointing(&g.settings)) }
            td.num { (g.completed) @for text in incomplete(block.failures.iter().copied(), &g.settings) { div.sub.bad { (text) } } }
            td.num { (accuracy(g.top1_percent.as_ref(), g.evaluated)) }
            td.num { (count(g.trainable)) @if let Some(p) = share(g.trainable, g.parameters) { div.sub { (p) } } }
            td.num { (cost(block, row, Cost::Memory, g.training.peak_bytes.map(|s| s.scaled(mib(1.0))).as_ref())) }
            td.num { (cost(block, row, Cost::Time, g.training.seconds.as_ref())) }
            td.num { (summary(g.training.images_per_second.as_ref(), 3)) }
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

/// A cost with its mark; a row without rivals wins nothing and gets none.
fn cost(block: &Block<'_>, row: &Row<'_>, cost: Cost, of: Option<&Summary>) -> Markup {
    let marked = block.rows.len() > 1 && row.on_front(cost) == Some(true);
    html! {
        span.nowrap {
            @if marked { span.front title="on the front" { "◆ " } }
            (summary(of, 3))
        }
    }
}

/// Trials of the same combination that did not complete: a mean over the survivors must say so.
pub(super) fn incomplete<'f>(failures: impl Iterator<Item = &'f Failure>, settings: &CellSettings) -> Vec<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for failure in failures.filter(|f| same_but_seed(&f.settings, settings)) {
        let class = failure.outcome.class();
        match counts.iter_mut().find(|(c, _)| *c == class) {
            Some((_, n)) => *n += 1,
            None => counts.push((class, 1)),
        }
    }
    counts.into_iter().map(|(class, n)| format!("+{n} {class}")).collect()
}
