//! A comparison by one factor → one HTML file.
//!
//! | module | what it tells |
//! |---|---|
//! | `compared` | which sets, which levels, and on what terms |
//! | `ratios` | one level's cost as a multiple of another's, with charts |
//! | `agreement` | whether hardware classes put combinations into the same order |
//! | `costs` | every combination at every level: costs, then scores |
//! | `refused` | what is not compared, and why |
//!
//! Failures, how it was measured, and the machines are told as in the report.

mod agreement;
mod compared;
mod costs;
mod ratios;
mod refused;

use fleet_common::compare::Preparation;
use fleet_common::contrast::{Contrast, distinct};
use fleet_common::record::Record;
use maud::{Markup, html};

use super::shell::{Document, Section, finding};
use super::{failures, machines, measurement, progress};
use crate::report::contrast::findings::findings;
use crate::report::contrast::words::{headline, shared_and_names, untrained};
use crate::report::notes::Notes;
use crate::report::numbers::{listed, utc};
use crate::report::summary;

/// Everything that the page of a comparison tells.
#[derive(Debug, Clone, Copy)]
pub struct ContrastInput<'a> {
    /// Now, milliseconds since 1970.
    pub generated_unix_ms: u64,
    /// Version of this program.
    pub version: &'a str,
    /// What was compared: the name of each set with the number of its records.
    pub sets: &'a [(String, usize)],
    /// The comparison.
    pub contrast: &'a Contrast,
    /// The records of all sets; one that stands in several may be given several times.
    pub records: &'a [Record],
}

/// What every section reads.
struct Page<'a> {
    input: &'a ContrastInput<'a>,
    contrast: &'a Contrast,
    /// Each record once.
    records: Vec<&'a Record>,
    /// What all combinations share, in words.
    shared: Vec<String>,
    /// The combinations' names.
    names: Vec<String>,
    notes: Notes,
}

/// The comparison as one self-contained HTML file.
pub fn html(input: &ContrastInput<'_>) -> String {
    let (records, _) = distinct(input.records);
    let (shared, names) = shared_and_names(input.contrast);
    let notes = Notes::of_contrast(input.contrast);
    let page = Page { input, contrast: input.contrast, records, shared, names, notes };
    let sections = [
        Some(compared::section(&page)),
        ratios::section(&page),
        agreement::section(&page),
        costs::section(&page),
        costs::scores(&page),
        refused::section(&page),
        failures::section(&page.contrast.failures, &page.records),
        measured(&page),
        machines::section(&page.records),
    ];
    let sets: Vec<String> = input.sets.iter().map(|(name, _)| name.clone()).collect();
    let (sets, factor) = (listed(&sets), input.contrast.factor.name());
    Document {
        title: format!("{sets} by {factor} · NetScore Fleet comparison"),
        head: head(&page, &sets),
        sections: sections.into_iter().flatten().collect(),
        version: input.version,
        generated_unix_ms: input.generated_unix_ms,
    }
    .html()
}

impl Page<'_> {
    /// What inference counts of models that are not trained, where there are any.
    fn untrained(&self) -> Option<Preparation> {
        untrained(self.contrast).then_some(self.contrast.preparation)
    }
}

fn head(page: &Page<'_>, sets: &str) -> Markup {
    html! {
        p.kicker { "NetScore Fleet comparison by " (page.contrast.factor.name()) }
        h1 { (sets) }
        p.lead { (headline(page.contrast)) }
        @for (title, sentences) in findings(page.contrast) { (finding(&title, &sentences)) }
        p.muted {
            "Created " (utc(page.input.generated_unix_ms))
            @if let Some((from, to)) = summary::period(page.records.iter().copied()) {
                " from trials of " (utc(from)) " to " (utc(to))
            }
            "."
        }
    }
}

fn measured(page: &Page<'_>) -> Option<Section> {
    const SENSORS: &str = "a ratio of joules between two device models contains the errors of both sensors, which no \
        spread on this page shows";
    (!page.records.is_empty()).then(|| Section {
        id: "measurement",
        heading: "How it was measured",
        body: html! {
            (measurement::conventions(&page.records, SENSORS))
            (progress::flags(&page.records))
            p.muted { "`fleet export` writes every trial with its times, peaks, joules and flags, for whoever wants to compute this again." }
        },
    })
}
