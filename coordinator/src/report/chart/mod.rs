//! Records → SVG, drawn with [`fleet_chart`].
//!
//! | module | what it holds |
//! |---|---|
//! | `labels` | names beside points, without overlaps |
//! | `scatter` | accuracy against a cost, with the front |
//! | `ratios` | one level's cost as a multiple of another's, per combination |
//! | `losses` | training loss over steps |
//! | `traces` | memory and power over the time of one trial |

pub(super) mod labels;
pub(super) mod losses;
pub(super) mod ratios;
pub(super) mod scatter;
pub(super) mod traces;

use fleet_chart::palette::{self, Shape, Stroke};

/// A finished chart and what must be said under it.
pub(super) struct Figure {
    /// The `svg` element.
    pub(super) svg: String,
    /// What a reader must know of this chart in particular.
    pub(super) remarks: Vec<String>,
}

/// A mark for a legend: the point of a model that is not trained.
pub(super) fn hollow_sample_of(ink: palette::Ink) -> maud::Markup {
    maud::html! {
        svg.chart.key viewBox="0 0 24 12" aria-hidden="true" {
            circle cx="12" cy="6" r="3.7" fill="none" stroke=(ink.hex()) stroke-width="2.2" {}
        }
    }
}

/// A mark for a legend: a point, or a piece of line.
pub(super) fn sample_of(ink: palette::Ink, shape: Option<Shape>, stroke: Stroke) -> maud::Markup {
    let hex = ink.hex();
    let (width, opacity, dashes) = match stroke {
        Stroke::Plain(_) => ("2.5", None, None),
        Stroke::Broad => ("4", Some("0.5"), None),
        Stroke::Dashed => ("1.6", None, Some("5.6 2.7")),
        Stroke::Dotted => ("1.6", None, Some("1.6 3.2")),
    };
    maud::html! {
        svg.chart.key viewBox="0 0 24 12" aria-hidden="true" {
            @match shape {
                Some(Shape::Circle) => { circle cx="12" cy="6" r="4.6" fill=(hex) {} }
                Some(Shape::Square) => { rect x="8" y="2" width="8" height="8" fill=(hex) {} }
                Some(Shape::Triangle) => { polygon points="12,0.6 17.2,9.6 6.8,9.6" fill=(hex) {} }
                Some(Shape::Diamond) => { polygon points="12,0.4 17.6,6 12,11.6 6.4,6" fill=(hex) {} }
                None => {
                    line x1="1" y1="6" x2="23" y2="6" stroke=(hex) stroke-width=(width) opacity=[opacity]
                        stroke-dasharray=[dashes] {}
                }
            }
        }
    }
}
