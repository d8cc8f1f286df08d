//! Several panels as one SVG file, which a browser or a drawing program opens by itself.

use maud::{PreEscaped, html};

use crate::palette::{MUTED, PAPER, TEXT, dark_rules};
use crate::step::{SIZE, Step, drawn};

/// Space around panels, and above and below all of them, nominal pixels.
const GAP: f64 = 16.0;
const HEAD: f64 = 44.0;
const FOOT: f64 = 30.0;

/// The steps under `title`, two in a row; it follows the reader's preference for light or dark.
pub fn sheet(title: &str, steps: &[Step<'_>]) -> String {
    let columns = steps.len().clamp(1, 2);
    let rows = steps.len().div_ceil(columns);
    let width = GAP + columns as f64 * (SIZE.0 + GAP);
    let height = HEAD + rows as f64 * (SIZE.1 + GAP) + FOOT;
    let place = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        (GAP + column as f64 * (SIZE.0 + GAP), HEAD + row as f64 * (SIZE.1 + GAP))
    };
    let style = format!(
        "svg{{font-family:system-ui,sans-serif}}\n@media screen and (prefers-color-scheme: dark){{\n{}}}\n",
        dark_rules()
    );
    let text = TEXT.hex();
    html! {
        svg.chart xmlns="http://www.w3.org/2000/svg" width=(width) height=(height) viewBox=(format!("0 0 {width} {height}")) {
            title { (title) }
            style { (PreEscaped(style)) }
            rect width="100%" height="100%" fill=(PAPER.hex()) {}
            text x=(GAP) y=(HEAD / 2.0 + 5.0) font-size="16" font-weight="600" fill=(text) { (title) }
            @for (i, panel) in drawn(steps).iter().enumerate() { (PreEscaped(panel.svg_at(place(i)))) }
            text x=(GAP) y=(height - FOOT / 2.0 + 4.0) font-size="12" fill=(MUTED.hex()) {
                "Within a part of the step only its begin and its peak are known: the line rises to the peak in its middle. The strong "
                "areas are blocks running again."
            }
        }
    }
    .into_string()
}
