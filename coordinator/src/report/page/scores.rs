//! The NetScore family, with training cost and with inference cost, and what exactly was computed.

use fleet_common::compare::{Cost, Preparation};
use fleet_common::record::Reading;
use fleet_common::score::Exponents;
use maud::{Markup, html};

use super::Page;
use super::energy::between;
use super::shell::{Section, not_available, summary};
use crate::report::blocks::{Block, counted};
use crate::report::notes::Notes;

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let blocks = page.tables()?;
    let body = html! {
        p.howto {
            "Higher is better. A score is the mean of the scores of the trials, in decibels as its authors scale it: 20·log"
            sub { "10" } " of a ratio. See the " a href="#score-definitions" { "definitions" }
            ". Compare scores within a table only. Under a score that rests on energy stands where it lies: its meter's error, which is the "
            "same for all scores of one device, and from five trials on the 95 % interval from run to run."
        }
        @for block in &blocks { (table(page, block)) }
        (definitions(&page.input.comparison.exponents, page.untrained()))
    };
    Some(Section { id: "scores", heading: "Scores", body })
}

fn table(page: &Page<'_>, block: &Block<'_>) -> Markup {
    html! {
        h3 { (block.title()) }
        div.scroll { table.scores {
            thead {
                (head(&html! {
                    th.num rowspan="2" { "#" } th rowspan="2" { "combination" } th.num rowspan="2" { "n" }
                }))
            }
            tbody { @for row in &block.rows {
                tr {
                    td.num.muted { (row.number) } td.nowrap { (row.label) } td.num { (row.group.completed) }
                    (cells(&page.notes, &row.group.training, &row.group.inference))
                }
            } }
        } }
    }
}

/// The two lines of a head: `first` spans both.
pub(super) fn head(first: &Markup) -> Markup {
    html! {
        tr {
            (first) th.num rowspan="2" { "NS" }
            th.group colspan="3" { "with training cost" } th.group colspan="3" { "with inference cost" }
        }
        tr { @for _ in 0..2 { th.num { "NS-E" } th.num { "NS-M" } th.num { "NS#" } } }
    }
}

/// The seven scores of a row.
pub(super) fn cells(notes: &Notes, training: &Cost, inference: &Cost) -> Markup {
    let of = |cost: &'_ Cost| {
        let (scores, intervals) = (&cost.scores, cost.intervals);
        [
            (scores.ns_e.clone(), intervals.ns_e),
            (scores.ns_m.clone(), None),
            (scores.ns_sharp.clone(), intervals.ns_sharp),
        ]
    };
    html! { @for (score, interval) in [(inference.scores.ns.clone(), None)].into_iter().chain(of(training)).chain(of(inference)) {
        td.num {
            @match &score {
                Reading::Measured(s) => (summary(Some(s), 4)),
                Reading::Unavailable(why) => (not_available(notes, why)),
            }
            @if let Some(interval) = &interval { (between(interval, 4)) }
        }
    } }
}

/// What exactly was computed, and where models are among them that are not trained, what their inference counts.
pub(super) fn definitions(e: &Exponents, untrained: Option<Preparation>) -> Markup {
    html! {
        h3 id="score-definitions" { "Definitions" }
        dl.definitions {
            dt { "NS" } dd { "20·log" sub { "10" } " ( A" sup { (e.alpha) } " / ( p" sup { (e.beta) } " · m" sup { (e.gamma) } " ) )" }
            dt { "NS-E" } dd { "20·log" sub { "10" } " ( A" sup { (e.alpha) } " / ( t" sup { (e.w) } " · P" sup { (e.w) } " ) )" }
            dt { "NS-M" } dd { "20·log" sub { "10" } " ( A" sup { (e.alpha) } " / r" sup { (e.w) } " )" }
            dt { "NS#" } dd { "20·log" sub { "10" } " ( A" sup { (e.alpha) } " / ( r" sup { (e.w) } " · t" sup { (e.w) } " · P" sup { (e.w) } " ) )" }
        }
        p {
            "A: top-1 accuracy in percent. p: all parameters of the model, adapters and head included, in millions. "
            "m: multiply-accumulates of one forward pass of one image, in billions. t: time in seconds. "
            "P: mean power over that time in watts, so t·P is the energy. r: peak allocator memory in MiB. "
            "Exponents of this report: α = " (e.alpha) ", β = " (e.beta) ", γ = " (e.gamma) ", w = " (e.w) "."
        }
        p {
            "With training cost, t and P are those of the training window and r is the peak of warm-up and training. "
            "With inference cost, all three are those of classifying the evaluated images, all of them together. "
            @if let Some(preparation) = untrained { (counted(preparation)) " " }
            "NS knows no cost but parameters and multiply-accumulates, so it is the same for both."
        }
        p.muted {
            "Units shift every score by a constant: accuracy as a fraction would lower all of them by 80 (at α = 2), GiB instead of MiB "
            "would raise NS-M and NS# by 7.5 (at w = 1/8). NS is from "
            a href="https://arxiv.org/abs/1806.05512" { "arXiv 1806.05512" }
            "; NS-E, NS-M and NS# are its extensions by energy and memory as works citing "
            a href="https://arxiv.org/abs/2607.02158" { "arXiv 2607.02158" } " implement them."
        }
    }
}
