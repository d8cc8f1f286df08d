//! Which sets and levels stand against each other, and on what terms.

use std::collections::BTreeSet;

use fleet_common::contrast::{Factor, Side};
use fleet_common::record::{EnergyDomain, Outcome, Reading, Record};
use maud::{Markup, html};

use super::Page;
use crate::report::blocks::{domain_in_words, same_but_seed};
use crate::report::numbers::{listed, plural, whole};
use crate::report::page::shell::{Section, not_available};

pub(super) fn section(page: &Page<'_>) -> Section {
    let body = html! {
        div.scroll { table.plain {
            thead { tr { th { "campaign or imported set" } th.num { "records" } } }
            tbody { @for (name, records) in page.input.sets { tr { td { (name) } td.num { (whole(*records as u64)) } } } }
        } }
        p { (counts(page)) }
        @if !page.contrast.combinations.is_empty() {
            (levels(page))
            p { "Shared by all combinations: " (page.shared.join(", ")) "." }
            (terms(page))
        }
    };
    Section { id: "compared", heading: "What is compared", body }
}

/// Records that count, and those that do not.
fn counts(page: &Page<'_>) -> String {
    let completed = page.records.iter().filter(|r| r.outcome == Outcome::Completed).count();
    let others = page.records.len() - completed;
    let paired: usize = page.contrast.combinations.iter().flat_map(|c| &c.sides).map(|s| s.completed).sum();
    let mut text = format!(
        "{} completed, of which {} stand in a combination that two levels or more have",
        plural(completed as u64, "trial"),
        whole(paired as u64)
    );
    if others > 0 {
        text.push_str(&format!("; {} did not complete", whole(others as u64)));
    }
    if page.contrast.repeated > 0 {
        let repeated = page.contrast.repeated as u64;
        text.push_str(&format!(
            "; {} more than once and count once",
            match repeated {
                1 => "1 record stands here".to_owned(),
                n => format!("{} records stand here", whole(n)),
            }
        ));
    }
    text + "."
}

/// One line per level: how much of it there is, and what its joules cover.
fn levels(page: &Page<'_>) -> Markup {
    let of = |level: &str| -> Vec<&Side> { page.contrast.combinations.iter().filter_map(|c| c.at(level)).collect() };
    html! {
        div.scroll { table {
            thead { tr {
                th { (page.contrast.factor.name()) } th.num { "combinations" } th.num { "trials" } th { "n per combination" }
                th { "seeds" } th { "energy" }
            } }
            tbody { @for level in &page.contrast.levels {
                @let sides = of(level);
                tr {
                    td { (level) }
                    td.num { (sides.len()) }
                    td.num { (whole(sides.iter().map(|s| s.completed as u64).sum())) }
                    td { (range(sides.iter().map(|s| s.completed))) }
                    td { (seeds(&sides)) }
                    td { (energy(page, &sides)) }
                }
            } }
        } }
    }
}

fn range(values: impl Iterator<Item = usize> + Clone) -> String {
    match (values.clone().min(), values.max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        _ => "–".to_owned(),
    }
}

fn seeds(sides: &[&Side]) -> String {
    let seeds: BTreeSet<u64> = sides.iter().flat_map(|s| &s.seeds).copied().collect();
    seeds_in_words(&seeds)
}

/// Few by name, many by number.
pub(super) fn seeds_in_words(seeds: &BTreeSet<u64>) -> String {
    match seeds.len() {
        0 => "–".to_owned(),
        1..=6 => seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        n => format!("{n} seeds"),
    }
}

/// What the joules of these groups cover, and where they were read; and for how many of them there are none.
fn energy(page: &Page<'_>, sides: &[&Side]) -> Markup {
    let of_sides = |r: &&&Record| {
        sides.iter().any(|s| r.machine.hardware == s.hardware && same_but_seed(&r.settings, &s.settings))
    };
    let kinds: BTreeSet<(EnergyDomain, &str)> = page
        .records
        .iter()
        .filter(of_sides)
        .flat_map(|r| &r.phases)
        .filter_map(|p| p.energy.value().map(|e| (e.domain, e.source.as_str())))
        .collect();
    let words: Vec<String> = kinds.iter().map(|(d, source)| format!("{} ({source})", domain_in_words(*d))).collect();
    let absent: Vec<&String> = sides.iter().filter_map(|s| why(&s.training.joules)).collect();
    html! {
        (listed(&words))
        @if let Some(why) = absent.first() {
            @if !words.is_empty() { "; " }
            (not_available(&page.notes, why))
            @if absent.len() < sides.len() { " in " (absent.len()) " of " (plural(sides.len() as u64, "combination")) }
        }
    }
}

fn why<T>(reading: &Reading<T>) -> Option<&String> {
    match reading {
        Reading::Measured(_) => None,
        Reading::Unavailable(why) => Some(why),
    }
}

/// When two groups are set against each other at all, and how to read what comes of it.
fn terms(page: &Page<'_>) -> Markup {
    let goes_along = match page.contrast.factor {
        Factor::Hardware => "hardware class",
        Factor::Method => "method (its hyper-parameters and its learning rate go with it)",
        Factor::Backbone => "backbone (its input size, its weights file and its usual LoRA targets go with it)",
        Factor::Checkpointing => "checkpointing strategy",
    };
    html! {
        h3 { "How to read this page" }
        ul {
            li {
                "A combination is a set of trials that differ in nothing but their " (goes_along) ", seeds and repeats: data by content, initial weights, "
                "budget, training settings and number of evaluated images are the same. Whatever looks alike and is not is listed under "
                "“Not compared”, with what differs."
            }
            li {
                "Values are means over the n completed trials of a combination at a level; ± is their sample standard deviation (n − 1), absent "
                "where n = 1. It is the luck of seeds and of the machine's moment, not the choice of test images. With n below 3 it establishes "
                "nothing; no test of significance is made here."
            }
            li {
                "A ratio is the mean at one level divided by the mean at the other. Over combinations, the geometric mean is given, with the "
                "least and the greatest: each combination counts once, however many trials it has."
            }
            li { "What was not measured is “n/a” with a number, which leads to the reason. It is never zero, and nothing was put in its place." }
            @if page.contrast.factor == Factor::Hardware {
                li {
                    "A hardware class is a device model, with the operator's label where there is one. Time and energy of a class are those of the "
                    "machines listed under “Devices and software”, with their threads, drivers and versions: other machines with the same device may differ."
                }
            }
        }
    }
}
