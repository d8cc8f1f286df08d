//! Every combination at every level: what it costs, and its scores.

use fleet_common::compare::Cost;
use fleet_common::contrast::{Combination, Side};
use fleet_common::record::Reading;
use maud::{Markup, html};

use super::Page;
use super::compared::seeds_in_words;
use crate::report::blocks::{BEFORE, counted, domain_in_words};
use crate::report::numbers::{count, listed, mib};
use crate::report::page::results::incomplete;
use crate::report::page::scores::{cells, definitions, head};
use crate::report::page::shell::{Section, accuracy, not_available, summary};

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let body = html! {
        p.howto {
            "Training is the window after the warm-up, with the peak memory of both; inference is the classification of all evaluated images. "
            "Under n stand the seeds; trials that did not complete are counted there too and are in no mean."
            @if let Some(preparation) = page.untrained() { " " (BEFORE) " " (counted(preparation)) }
        }
        div.scroll { table.results.contrast {
            thead {
                tr {
                    th.num rowspan="2" { "#" } th rowspan="2" { "combination" } th rowspan="2" { (page.contrast.factor.name()) }
                    th.num rowspan="2" { "n" } th.num rowspan="2" { "top-1, %" }
                    th.group colspan="3" { "training" } th.group colspan="3" { "inference" }
                }
                tr { @for _ in 0..2 { th.num { "time, s" } th.num { "peak, MiB" } th.num { "energy, J" } } }
            }
            @for (i, combination) in page.contrast.combinations.iter().enumerate() {
                tbody { @for side in &combination.sides { (line(page, i, combination, side)) } }
            }
        } }
        p.muted { (covered(page)) }
    };
    (!page.contrast.combinations.is_empty()).then_some(Section { id: "costs", heading: "Costs", body })
}

/// The cells that name a row, with `more` under the level; those of the combination stand once.
fn named(page: &Page<'_>, i: usize, combination: &Combination, side: &Side, more: &Markup) -> Markup {
    let span = combination.sides.len();
    html! {
        @if combination.sides.first() == Some(side) {
            td.num.muted rowspan=(span) { (i + 1) }
            td rowspan=(span) { (page.names[i]) }
        }
        td { (side.level) (more) }
    }
}

fn line(page: &Page<'_>, i: usize, combination: &Combination, side: &Side) -> Markup {
    let failures = page.contrast.failures.iter().filter(|f| f.hardware == side.hardware);
    html! {
        tr {
            (named(page, i, combination, side, &html! { div.sub.nowrap { (count(side.trainable)) " trainable" } }))
            td.num {
                (side.completed)
                div.sub.nowrap { "seeds " (seeds_in_words(&side.seeds)) }
                @for text in incomplete(failures, &side.settings) { div.sub.bad.nowrap { (text) } }
            }
            td.num { (accuracy(side.top1_percent.as_ref(), side.evaluated)) }
            (cost(page, &side.training))
            (cost(page, &side.inference))
        }
    }
}

fn cost(page: &Page<'_>, cost: &Cost) -> Markup {
    html! {
        td.num { (summary(cost.seconds.as_ref(), 3)) }
        td.num { (summary(cost.peak_bytes.map(|s| s.scaled(mib(1.0))).as_ref(), 3)) }
        td.num { @match &cost.joules {
            Reading::Measured(s) => (summary(Some(s), 3)),
            Reading::Unavailable(why) => (not_available(&page.notes, why)),
        } }
    }
}

/// What the joules of the table cover.
fn covered(page: &Page<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for side in page.contrast.combinations.iter().flat_map(|c| &c.sides) {
        if let Some(domain) = side.training.domain {
            let part = format!("on {} that of {}", side.hardware, domain_in_words(domain));
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
    }
    match parts.is_empty() {
        true => "No energy was measured; the reasons stand under “Why values are missing”.".to_owned(),
        false => format!("Energy is {}, idle power included.", listed(&parts)),
    }
}

/// The NetScore family.
pub(super) fn scores(page: &Page<'_>) -> Option<Section> {
    let first = html! {
        th.num rowspan="2" { "#" } th rowspan="2" { "combination" } th rowspan="2" { (page.contrast.factor.name()) }
        th.num rowspan="2" { "n" }
    };
    let body = html! {
        p.howto {
            "Higher is better. A score is the mean of the scores of the trials, in decibels as its authors scale it: 20·log"
            sub { "10" } " of a ratio. Scores with energy in them (NS-E, NS#) may be held against each other only where the joules cover the same part of the machine."
        }
        div.scroll { table.scores.contrast {
            thead { (head(&first)) }
            @for (i, combination) in page.contrast.combinations.iter().enumerate() {
                tbody { @for side in &combination.sides { tr {
                    (named(page, i, combination, side, &html! {}))
                    td.num { (side.completed) }
                    (cells(&page.notes, &side.training, &side.inference))
                } } }
            }
        } }
        (definitions(&page.contrast.exponents, page.untrained()))
    };
    (!page.contrast.combinations.is_empty()).then_some(Section { id: "scores", heading: "Scores", body })
}
