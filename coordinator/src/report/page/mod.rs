//! Everything → one HTML file that opens offline: no script, no font, nothing fetched.
//!
//! `maud` escapes every text. The two places that bypass it are the style sheet and the charts' SVG, whose texts
//! `plotters` escapes (tests put markup into every text that comes from outside).

mod failures;
mod figures;
mod machines;
mod measurement;
mod progress;
mod results;
mod scores;
mod trials;

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

use super::ReportInput;
use super::blocks::{Block, blocks};
use super::chart::palette;
use super::findings::findings;
use super::notes::Notes;
use super::numbers::utc;
use super::summary;

/// What every section reads.
struct Page<'a> {
    input: &'a ReportInput<'a>,
    blocks: Vec<Block<'a>>,
    notes: Notes,
}

/// A section: its anchor, its heading, and what stands under it.
struct Section {
    id: &'static str,
    heading: &'static str,
    body: Markup,
}

/// The report as one self-contained HTML file.
pub fn html(input: &ReportInput<'_>) -> String {
    let page = Page { input, blocks: blocks(input.comparison), notes: Notes::of(input.comparison, input.records) };
    let sections: Vec<Section> = [
        Some(progress::section(&page)),
        results::section(&page),
        figures::section(&page),
        scores::section(&page),
        failures::section(&page),
        measurement::section(&page),
        machines::section(&page),
        Some(progress::campaign(&page)),
    ]
    .into_iter()
    .flatten()
    .collect();
    markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (input.campaign) " · NetScore Fleet report" }
                style { (PreEscaped(style())) }
            }
            body {
                header { (head(&page)) }
                nav aria-label="Contents" {
                    ol { @for s in &sections { li { a href={ "#" (s.id) } { (s.heading) } } } }
                }
                main {
                    @for s in &sections {
                        section id=(s.id) { h2 { (s.heading) } (s.body) }
                    }
                }
                footer {
                    p { "Written by NetScore Fleet " (input.version) " on " (utc(input.generated_unix_ms)) "." }
                }
            }
        }
    }
    .into_string()
}

fn style() -> String {
    let dark = palette::dark_rules();
    // On paper the light colours hold whatever the screen prefers.
    format!("{}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n", include_str!("style.css"))
}

fn head(page: &Page<'_>) -> Markup {
    let found: Vec<(String, Vec<String>)> =
        page.blocks.iter().map(|b| (b.title(), findings(b))).filter(|(_, f)| !f.is_empty()).collect();
    markup! {
        p.kicker { "NetScore Fleet report" }
        h1 { (page.input.campaign) }
        p.lead { (summary::lead(page.input)) }
        @for (title, sentences) in &found {
            // No line ends between a number and its percent sign.
            p.finding { strong { (title) ": " } @for s in sentences { (s.replace(" %", "\u{a0}%")) " " } }
        }
        @if found.len() > 1 {
            p.muted { "Nothing is compared across these " (found.len()) " headings." }
        }
        p.muted {
            "Created " (utc(page.input.generated_unix_ms))
            @if let Some((from, to)) = summary::period(page.input.records) {
                " from trials of " (utc(from)) " to " (utc(to))
            }
            "."
        }
    }
}

/// A mean with its spread.
fn value(mean: &str, spread: Option<&str>) -> Markup {
    markup! { span.nowrap { (mean) @if let Some(s) = spread { span.sd { " ± " (s) } } } }
}

impl Page<'_> {
    /// "n/a" with the number of its reason.
    fn not_available(&self, reason: &str) -> Markup {
        markup! {
            span.na { "n/a" }
            @if let Some(n) = self.notes.number(reason) { sup { a href={ "#note-" (n) } { (n) } } }
        }
    }
}
