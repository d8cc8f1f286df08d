//! What is not compared, and why: all of it, by name.

use maud::html;

use super::Page;
use crate::report::contrast::words::{refusal, whereabouts};
use crate::report::page::shell::Section;

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let (factor, refused, alone) = (page.contrast.factor, &page.contrast.not_compared, &page.contrast.alone);
    if refused.is_empty() && alone.is_empty() {
        return None;
    }
    let body = html! {
        @if !refused.is_empty() {
            p { "These look alike and are not: they differ in more than the " (factor.name()) ", or their joules cover different things." }
            ul { @for r in refused { li { (refusal(factor, r)) } } }
        }
        @if !alone.is_empty() {
            h3 { "Without a counterpart" }
            p { "No other level has anything like these groups, so they are in no ratio and no table of this page." }
            ul { @for place in alone { li { (place.level) ": " (whereabouts(factor, place)) } } }
        }
    };
    Some(Section { id: "refused", heading: "Not compared", body })
}
