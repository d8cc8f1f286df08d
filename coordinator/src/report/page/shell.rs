//! What every page of ours is made of: the document around its sections, and the cells of its tables.

use fleet_chart::palette;
use fleet_common::score::Summary;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::report::notes::Notes;
use crate::report::numbers::{accuracy_decimals, fixed, mean_and_spread, spread, utc};

/// A section: its anchor, its heading, and what stands under it.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) heading: &'static str,
    pub(super) body: Markup,
}

/// A document: what stands above its sections, and who wrote it when.
pub(super) struct Document<'a> {
    pub(super) title: String,
    pub(super) head: Markup,
    pub(super) sections: Vec<Section>,
    pub(super) version: &'a str,
    pub(super) generated_unix_ms: u64,
}

impl Document<'_> {
    /// One self-contained HTML file.
    pub(super) fn html(self) -> String {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(style())) }
                }
                body {
                    header { (self.head) }
                    nav aria-label="Contents" {
                        ol { @for s in &self.sections { li { a href={ "#" (s.id) } { (s.heading) } } } }
                    }
                    main {
                        @for s in &self.sections {
                            section id=(s.id) { h2 { (s.heading) } (s.body) }
                        }
                    }
                    footer {
                        p { "Written by NetScore Fleet " (self.version) " on " (utc(self.generated_unix_ms)) "." }
                    }
                }
            }
        }
        .into_string()
    }
}

fn style() -> String {
    let dark = palette::dark_rules();
    // On paper the light colours hold whatever the screen prefers.
    format!("{}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n", include_str!("style.css"))
}

/// Sentences under a title. No line ends between a number and its percent sign.
pub(super) fn finding(title: &str, sentences: &[String]) -> Markup {
    html! { p.finding { strong { (title) ": " } @for s in sentences { (s.replace(" %", "\u{a0}%")) " " } } }
}

/// A mean with its spread.
pub(super) fn value(mean: &str, spread: Option<&str>) -> Markup {
    html! { span.nowrap { (mean) @if let Some(s) = spread { span.sd { " ± " (s) } } } }
}

/// A summary at so many significant digits.
pub(super) fn summary(summary: Option<&Summary>, digits: i32) -> Markup {
    html! { @match summary {
        Some(s) => { @let (mean, spread) = mean_and_spread(s, digits); (value(&mean, spread.as_deref())) }
        None => "–",
    } }
}

/// An accuracy in percent, no finer than one of the evaluated images.
pub(super) fn accuracy(top1: Option<&Summary>, evaluated: u64) -> Markup {
    let digits = accuracy_decimals(evaluated);
    html! { @match top1 {
        Some(s) => (value(&fixed(s.mean, digits), s.deviation.map(|d| spread(d, digits)).as_deref())),
        None => "–",
    } }
}

/// "n/a" with the number of its reason.
pub(super) fn not_available(notes: &Notes, reason: &str) -> Markup {
    html! {
        span.na { "n/a" }
        @if let Some(n) = notes.number(reason) { sup { a href={ "#note-" (n) } { (n) } } }
    }
}

/// The reasons that "n/a" refers to.
pub(super) fn reasons(notes: &Notes) -> Markup {
    html! {
        @if !notes.is_empty() {
            h3 { "Why values are missing" }
            ol.notes { @for (n, reason) in notes.iter() { li id={ "note-" (n) } { (reason) } } }
        }
    }
}
