//! One level's cost as a multiple of another's: a table of all pairs, and a chart per pair and training cost.

use fleet_common::contrast::{Pair, Quantity, Ratio};
use fleet_common::record::Reading;
use maud::{Markup, PreEscaped, html};

use super::Page;
use crate::report::chart::Figure;
use crate::report::chart::ratios::ratios;
use crate::report::contrast::words::meters;
use crate::report::numbers::{plural, significant};
use crate::report::page::figures::legend;
use crate::report::page::shell::{Section, not_available, reasons};

/// Pairs whose charts are shown at once; the others are folded away.
const SHOWN: usize = 4;

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let pairs = &page.contrast.ratios;
    if page.contrast.combinations.is_empty() {
        return None;
    }
    let body = html! {
        p.howto {
            "The cost at the second level as a multiple of that at the first: 2 is twice as much, 0.5 half. Geometric mean over matched "
            "combinations, and under it the least and the greatest."
        }
        div.scroll { table.contrast {
            thead { tr {
                th { "ratio" } th.num { "matched combinations" } th { "of" }
                @for quantity in QUANTITIES { th.num { (noun(quantity)) } }
            } }
            @for pair in pairs { tbody { (line(page, pair)) } }
        } }
        (reasons(&page.notes))
        (charts(page))
    };
    Some(Section { id: "ratios", heading: "Ratios of cost", body })
}

const QUANTITIES: [Quantity; 3] = [Quantity::Seconds, Quantity::PeakBytes, Quantity::Joules];

const fn noun(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Seconds => "time",
        Quantity::Joules => "energy",
        Quantity::PeakBytes => "peak memory",
    }
}

fn line(page: &Page<'_>, pair: &Pair) -> Markup {
    html! {
        @for (of, ratios) in [("training", &pair.training), ("inference", &pair.inference)] {
            tr {
                @if of == "training" {
                    td rowspan="2" { (pair.other) div.sub { "in units of " (pair.one) } }
                    td.num rowspan="2" { (pair.matched) }
                }
                td { (of) }
                @for quantity in QUANTITIES { td.num { (cell(page, pair, ratios.of(quantity))) } }
            }
        }
    }
}

fn cell(page: &Page<'_>, pair: &Pair, ratio: &Reading<Ratio>) -> Markup {
    html! { @match ratio {
        Reading::Measured(r) => {
            (significant(r.geometric_mean, 3))
            div.sub.nowrap { (significant(r.min, 3)) " to " (significant(r.max, 3)) }
            @if let Some(words) = meters(r) { div.sub { (words) } }
            @if r.combinations < pair.matched { div.sub.nowrap { "of " (plural(r.combinations as u64, "combination")) } }
        }
        Reading::Unavailable(why) => (not_available(&page.notes, why)),
    } }
}

fn charts(page: &Page<'_>) -> Markup {
    let drawn: Vec<Markup> = page.contrast.ratios.iter().filter_map(|pair| of_pair(page, pair)).collect();
    let settings = page.contrast.combinations.iter().flat_map(|c| &c.sides).map(|s| &s.settings);
    html! {
        @if !drawn.is_empty() {
            h3 { "Per combination" }
            p.caption {
                "A point is the ratio of the means of one combination, with its number in the tables. Its bar reaches from the least to the greatest "
                "ratio that any two of its trials have; where it crosses 1, some trials say the opposite. The solid line is 1: no difference. The broken "
                "line is the geometric mean. Each chart has an axis of its own."
            }
            (legend(settings, false))
            @for part in drawn.iter().take(SHOWN) { (part) }
            @if drawn.len() > SHOWN {
                details {
                    summary { (plural((drawn.len() - SHOWN) as u64, "more pair")) }
                    @for part in drawn.iter().skip(SHOWN) { (part) }
                }
            }
        }
    }
}

fn of_pair(page: &Page<'_>, pair: &Pair) -> Option<Markup> {
    let figures: Vec<Figure> =
        QUANTITIES.into_iter().filter_map(|q| ratios(page.contrast, pair, q, &page.names)).collect();
    (!figures.is_empty()).then(|| {
        html! {
            h4 { (pair.other) " in units of " (pair.one) }
            div.charts { @for f in figures { figure { (PreEscaped(f.svg)) } } }
        }
    })
}
