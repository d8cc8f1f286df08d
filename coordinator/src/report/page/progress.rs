//! How far the campaign is, and what it was: counts, warnings, flags; combinations left out and the campaign file.

use std::collections::BTreeMap;

use fleet_common::record::{OutcomeClass, Record};
use maud::{Markup, html};

use super::Page;
use super::shell::Section;
use crate::report::numbers::{plural, whole};
use crate::report::summary::Progress;

pub(super) fn section(page: &Page<'_>) -> Section {
    let progress = Progress::of(page.input);
    let mut parts: Vec<(&str, &str, u64)> = progress.classes.iter().map(|(c, n)| (c.name(), tone(*c), *n)).collect();
    parts.extend([
        ("cancelled", "still", progress.cancelled),
        ("left no record", "bad", progress.missing),
        ("running", "busy", progress.running),
        ("waiting", "open", progress.waiting),
    ]);
    parts.retain(|(_, _, n)| *n > 0);
    let body = html! {
        @if !parts.is_empty() {
            div.bar aria-hidden="true" {
                @for (_, tone, n) in &parts { span class=(tone) style={ "flex-grow:" (n) } {} }
            }
        }
        ul.counts {
            li { b { (whole(page.input.asked)) } " asked for" }
            @for (name, tone, n) in &parts { li { span class={ "dot " (tone) } {} b { (whole(*n)) } " " (name) } }
        }
        @if !page.input.given_up.is_empty() {
            h3 { "Given up" }
            p.muted { "These trials lost their agents too often and left no record; `fleet retry --failed` opens them again." }
            ul { @for (trial, reason) in page.input.given_up { li { (trial) ": " (reason) } } }
        }
        @if page.input.superseded > 0 {
            p {
                (plural(page.input.superseded as u64, "further report"))
                " of trials that already had an accepted one stay outside the statistics."
            }
        }
        (warnings(page))
        (flags(&page.records))
        @if page.records.iter().any(|r| !r.flags.is_empty()) {
            p.muted { "Which trials carry them stands in the list of trials under “How it was measured”." }
        }
    };
    Section { id: "progress", heading: "Progress", body }
}

fn tone(class: OutcomeClass) -> &'static str {
    match class {
        OutcomeClass::Completed => "good",
        OutcomeClass::DoesNotFit | OutcomeClass::Diverged => "result",
        OutcomeClass::Cancelled => "still",
        OutcomeClass::BadInput | OutcomeClass::Crashed | OutcomeClass::Lost => "bad",
    }
}

fn warnings(page: &Page<'_>) -> Markup {
    html! {
        @if !page.input.warnings.is_empty() {
            h3 { "Warnings of the plan" }
            ul { @for warning in page.input.warnings { li { (warning) } } }
        }
    }
}

/// What a careful reader must know of these trials. Flags that differ in their figures only stand once, with those of one
/// trial.
pub(super) fn flags(records: &[&Record]) -> Markup {
    let mut kinds: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
    for flag in records.iter().flat_map(|r| &r.flags) {
        *kinds.entry(without_figures(flag)).or_default().entry(flag).or_default() += 1;
    }
    let told = kinds.values().filter_map(|flags| {
        let (example, _) = flags.iter().next()?;
        let trials = plural(flags.values().sum(), "trial");
        Some(match flags.len() {
            1 => (*example, trials),
            _ => (*example, format!("and alike with other figures: {trials}")),
        })
    });
    html! {
        @if !kinds.is_empty() {
            h3 { "Flags of the records" }
            ul { @for (flag, trials) in told { li { (flag) " " span.muted { "(" (trials) ")" } } } }
        }
    }
}

/// A flag with a mark for each number.
fn without_figures(flag: &str) -> String {
    let mut kind = String::new();
    for c in flag.chars() {
        match c.is_ascii_digit() || (c == '.' && kind.ends_with('#')) {
            true if kind.ends_with('#') => {}
            true => kind.push('#'),
            false => kind.push(c),
        }
    }
    kind
}

/// What was asked for, and what of it cannot run.
pub(super) fn campaign(page: &Page<'_>) -> Section {
    let body = html! {
        @if !page.input.excluded.is_empty() {
            h3 { "Combinations left out by the plan" }
            div.scroll { table {
                thead { tr {
                    th { "data set" } th { "backbone" } th { "method" } th { "checkpointing" } th.num { "trials' settings" } th { "reason" }
                } }
                tbody { @for e in page.input.excluded { tr {
                    td { (e.dataset) } td { (e.backbone.name()) } td { (e.method.name()) } td { (e.checkpointing.name()) }
                    td.num { (e.cells) } td { (e.reason) }
                } } }
            } }
        } @else {
            p { "The plan left no combination out." }
        }
        details { summary { "The campaign file" } pre { code { (page.input.toml) } } }
    };
    Section { id: "campaign", heading: "Campaign", body }
}
