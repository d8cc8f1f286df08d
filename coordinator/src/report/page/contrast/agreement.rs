//! Whether hardware classes put the same combinations into the same order.

use fleet_common::contrast::Agreement;
use fleet_common::record::Reading;
use maud::{Markup, html};

use super::Page;
use crate::report::contrast::words::rankings;
use crate::report::numbers::{fixed, plural, whole};
use crate::report::page::shell::{Section, not_available};

/// What is ranked, with its path under a training or inference cost; without one, the two are the same.
const MEASURES: [(&str, &str, bool); 8] = [
    ("top-1 accuracy", "top1_percent", false),
    ("time", "seconds", true),
    ("peak memory", "peak_bytes", true),
    ("energy", "joules", true),
    ("NS", "training.scores.ns", false),
    ("NS-E", "scores.ns_e", true),
    ("NS-M", "scores.ns_m", true),
    ("NS#", "scores.ns_sharp", true),
];

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let agreements = &page.contrast.agreement;
    if agreements.is_empty() {
        return None;
    }
    let body = html! {
        p.howto {
            "Kendall's tau-b of the combinations' means on two hardware classes: 1 is the same order, 0 no relation, −1 the opposite order. Ties count "
            "for neither. Only what may be ranked on one machine is: combinations that share data, budget and length of training. Few combinations "
            "agree easily by chance, and differences of means that are within the spread count like any other."
        }
        @for (agreement, on) in agreements.iter().zip(rankings(agreements)) {
            h3 { (agreement.one) " and " (agreement.other) ", " (on) }
            p.muted { (chance(agreement.combinations)) }
            (table(page, agreement))
        }
    };
    Some(Section { id: "agreement", heading: "Rank agreement", body })
}

/// How often chance alone would give the same order.
fn chance(combinations: usize) -> String {
    let ranked = plural(combinations as u64, "combination");
    match combinations {
        0 | 1 => format!("{ranked}: there is no order."),
        2..=10 => {
            let orders: u64 = (2..=combinations as u64).product();
            format!(
                "{ranked}, which without ties have {} orders: by chance, one in as many agrees wholly.",
                whole(orders)
            )
        }
        _ => format!("{ranked}, which have more than a million orders."),
    }
}

fn table(page: &Page<'_>, agreement: &Agreement) -> Markup {
    html! {
        div.scroll { table.plain {
            thead { tr { th { "order by" } th.num { "training" } th.num { "inference" } } }
            tbody { @for (name, path, sides) in MEASURES {
                tr {
                    td { (name) }
                    @if sides {
                        @for side in ["training", "inference"] {
                            td.num { (cell(page, agreement, &format!("{side}.{path}"))) }
                        }
                    } @else {
                        td.num colspan="2" { (cell(page, agreement, path)) div.sub { "the same for both" } }
                    }
                }
            } }
        } }
    }
}

fn cell(page: &Page<'_>, agreement: &Agreement, path: &str) -> Markup {
    html! { @match agreement.measures.iter().find(|m| m.measure == path) {
        Some(m) => @match &m.tau_b {
            Reading::Measured(tau) => {
                (fixed(*tau, 2))
                @if m.combinations < agreement.combinations { div.sub.nowrap { "of " (plural(m.combinations as u64, "combination")) } }
            }
            Reading::Unavailable(why) => (not_available(&page.notes, why)),
        },
        None => "–",
    } }
}
