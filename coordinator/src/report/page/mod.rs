//! Everything → one HTML file that opens offline: no script, no font, nothing fetched.
//!
//! The report of a campaign is put together here, a comparison by one factor in [`contrast`]. Both are sections in a
//! `shell`, and share those that tell of machines, failures and measuring.
//!
//! `maud` escapes every text. The two places that bypass it are the style sheet and the charts' SVG, whose texts
//! `plotters` escapes (tests put markup into every text that comes from outside).

mod answers;
mod contrast;
mod energy;
mod failures;
mod figures;
mod inference;
mod machines;
mod measurement;
mod progress;
mod results;
mod scores;
mod shell;
mod steps;
mod trials;

use fleet_common::compare::Preparation;
use fleet_common::record::Record;
use maud::{Markup, html as markup};
use shell::{Document, Section, finding, not_available};

pub use contrast::{ContrastInput, html as contrast_html};

use super::ReportInput;
use super::blocks::{Block, blocks};
use super::findings::findings;
use super::notes::Notes;
use super::numbers::utc;
use super::summary;

/// What every section reads.
struct Page<'a> {
    input: &'a ReportInput<'a>,
    records: Vec<&'a Record>,
    blocks: Vec<Block<'a>>,
    notes: Notes,
}

/// The report as one self-contained HTML file.
pub fn html(input: &ReportInput<'_>) -> String {
    let page = Page {
        input,
        records: input.records.iter().collect(),
        blocks: blocks(input.comparison),
        notes: Notes::of(input.comparison, input.records),
    };
    let sections: Vec<Section> = [
        Some(progress::section(&page)),
        results::section(&page),
        figures::section(&page),
        inference::section(&page),
        answers::section(&page),
        energy::section(&page),
        scores::section(&page),
        failures::section(&input.comparison.failures, &page.records),
        measurement::section(&page),
        machines::section(&page.records),
        Some(progress::campaign(&page)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let title = format!("{} · NetScore Fleet report", input.campaign);
    let head = head(&page);
    Document { title, head, sections, version: input.version, generated_unix_ms: input.generated_unix_ms }.html()
}

fn head(page: &Page<'_>) -> Markup {
    let found: Vec<(String, Vec<String>)> =
        page.blocks.iter().map(|b| (b.title(), findings(b))).filter(|(_, f)| !f.is_empty()).collect();
    markup! {
        p.kicker { "NetScore Fleet report" }
        h1 { (page.input.campaign) }
        p.lead { (summary::lead(page.input)) }
        @for (title, sentences) in &found {
            (finding(title, sentences))
        }
        @if found.len() > 1 {
            p.muted { "Nothing is compared across these " (found.len()) " headings." }
        }
        p.muted {
            "Created " (utc(page.input.generated_unix_ms))
            @if let Some((from, to)) = summary::period(page.input.records.iter()) {
                " from trials of " (utc(from)) " to " (utc(to))
            }
            "."
        }
    }
}

impl Page<'_> {
    /// The blocks that have a table; `None` if there is none.
    fn tables(&self) -> Option<Vec<&Block<'_>>> {
        let blocks: Vec<&Block<'_>> = self.blocks.iter().filter(|b| !b.rows.is_empty()).collect();
        (!blocks.is_empty()).then_some(blocks)
    }

    /// What inference counts of models that are not trained, where there are any.
    fn untrained(&self) -> Option<Preparation> {
        self.blocks.iter().any(Block::has_untrained).then_some(self.input.comparison.preparation)
    }

    /// "n/a" with the number of its reason.
    fn not_available(&self, reason: &str) -> Markup {
        not_available(&self.notes, reason)
    }
}
