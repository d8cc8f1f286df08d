//! What classifying costs once everything is ready: what all combinations can be compared by, trained or not.

use std::collections::BTreeSet;

use fleet_common::record::{Frozen, Outcome, Reading};
use maud::{Markup, html};

use super::Page;
use super::shell::{Section, accuracy, summary};
use crate::report::blocks::{Block, Row, counted};
use crate::report::numbers::{mib, plural};
use crate::report::settings;

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let blocks = page.tables()?;
    let body = html! {
        p.howto {
            "Of classifying the evaluated images, reading them included, with the batch that the settings name or that fits the "
            "budget. It is what fine-tuned models and those that are used as they are published can be compared by."
            @if let Some(preparation) = page.untrained() { " " (counted(preparation)) }
        }
        @for block in &blocks { (table(page, block)) }
    };
    Some(Section { id: "inference", heading: "Inference", body })
}

fn table(page: &Page<'_>, block: &Block<'_>) -> Markup {
    html! {
        h3 { (block.title()) }
        div.scroll { table.inference {
            thead { tr {
                th.num { "#" } th { "combination" } th { "weights" } th.num { "n" } th.num { "top-1, %" }
                @if block.has_untrained() { th.num { "prepare, s" } th.num { "prepare, J" } }
                th.num { "peak memory, MiB" } th.num { "ms per image" } th.num { "images/s" } th.num { "J per image" }
                th.num { "NS-E" } th.num { "NS-M" } th.num { "NS#" }
            } }
            tbody { @for row in &block.rows { (line(page, row, block.has_untrained())) } }
        } }
    }
}

fn line(page: &Page<'_>, row: &Row<'_>, beside_untrained: bool) -> Markup {
    let (g, cost) = (row.group, &row.group.inference);
    let scores = &cost.scores;
    html! {
        tr {
            td.num.muted { (row.number) }
            td.nowrap { (row.label) @for how in at_once(page, row) { div.sub { (how) } } }
            td.nowrap { (settings::weights(&g.settings)) }
            td.num { (g.completed) }
            td.num { (accuracy(g.top1_percent.as_ref(), g.evaluated)) }
            @if beside_untrained { (prepared(page, row)) }
            td.num { (summary(cost.peak_bytes.map(|s| s.scaled(mib(1.0))).as_ref(), 3)) }
            td.num { (summary(row.milliseconds_per_image().as_ref(), 3)) }
            td.num { (summary(cost.images_per_second.as_ref(), 3)) }
            @for (reading, digits) in [
                (&cost.joules_per_image, 3), (&scores.ns_e, 4), (&scores.ns_m, 4), (&scores.ns_sharp, 4)
            ] {
                td.num { @match reading {
                    Reading::Measured(s) => (summary(Some(s), digits)),
                    Reading::Unavailable(why) => (page.not_available(why)),
                } }
            }
        }
    }
}

/// How models that are not trained saw the images: the batch may be smaller than asked for, and the side is the model's.
fn at_once(page: &Page<'_>, row: &Row<'_>) -> BTreeSet<String> {
    let trials = page.records.iter().filter(|r| r.outcome == Outcome::Completed && Block::belongs(row, r));
    let how = |frozen: &Frozen| {
        let side = frozen.image_size.map(|side| format!(" of {side} × {side}")).unwrap_or_default();
        format!("{}{side} at once", plural(frozen.batch.into(), "image"))
    };
    trials.filter_map(|r| r.training.frozen.as_ref()).map(how).collect()
}

/// What comes before the first image of a model that is not trained.
fn prepared(page: &Page<'_>, row: &Row<'_>) -> Markup {
    let before = row.group.settings.train.is_none().then_some(&row.group.training);
    html! {
        td.num { (summary(before.and_then(|cost| cost.seconds.as_ref()), 3)) }
        td.num { @match before.map(|cost| &cost.joules) {
            Some(Reading::Unavailable(why)) => (page.not_available(why)),
            joules => (summary(joules.and_then(Reading::value), 3)),
        } }
    }
}
