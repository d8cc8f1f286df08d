//! Colours, marks and dashes. A method is a colour; a checkpointing strategy is a mark and a dash.
//!
//! The first six colours of data are Okabe and Ito's, which people with any colour vision tell apart; the others are those that a
//! search found farthest from them and from each other (the tests say how far). An SVG carries the light
//! page's colours as plain attributes, so that it can be cut out and used elsewhere; the page's style sheet overrides
//! them by attribute where the reader prefers dark ([`dark_rules`]).

use fleet_common::plan::CellSettings;
use fleet_common::spec::{Checkpointing, Method};
use plotters::style::RGBColor;

/// A colour on light paper and its counterpart on dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ink {
    pub(crate) light: RGBColor,
    dark: &'static str,
}

const fn ink(r: u8, g: u8, b: u8, dark: &'static str) -> Ink {
    Ink { light: RGBColor(r, g, b), dark }
}

impl Ink {
    /// The colour on light paper as SVG and CSS write it.
    pub fn hex(self) -> String {
        let RGBColor(r, g, b) = self.light;
        format!("#{r:02X}{g:02X}{b:02X}")
    }
}

/// The paper behind a chart.
pub const PAPER: Ink = ink(0xFF, 0xFF, 0xFF, "#16191D");
/// Text and axes.
pub const TEXT: Ink = ink(0x1F, 0x24, 0x28, "#E4E7EA");
/// Text of less weight.
pub const MUTED: Ink = ink(0x5B, 0x64, 0x6D, "#9BA5AF");
/// Grid lines.
pub const GRID: Ink = ink(0xE3, 0xE6, 0xE9, "#2A3037");
/// The front, and leaders to labels.
pub const FRONT: Ink = ink(0x8A, 0x93, 0x9C, "#75808B");
/// A limit, such as the memory budget.
pub const LIMIT: Ink = ink(0xB0, 0x3A, 0x2E, "#E5786D");
/// Shading of every other phase.
pub const SHADE: Ink = ink(0xF1, 0xF3, 0xF5, "#1E2329");

/// Marks that stand for no method.
pub const NEUTRAL: Ink = MUTED;

/// Blue, vermilion, bluish green, reddish purple, orange; then of models that are not trained sky blue, dark green, plum,
/// brown, indigo.
const DATA: [Ink; 10] = [
    ink(0x00, 0x72, 0xB2, "#4AA3DF"),
    ink(0xD5, 0x5E, 0x00, "#F08A43"),
    ink(0x00, 0x9E, 0x73, "#2CC295"),
    ink(0xCC, 0x79, 0xA7, "#DE97BE"),
    ink(0xE6, 0x9F, 0x00, "#EFB63B"),
    ink(0x56, 0xB4, 0xE9, "#00EBFF"),
    ink(0x08, 0x47, 0x00, "#207D00"),
    ink(0x7F, 0x00, 0x58, "#C50992"),
    ink(0x62, 0x4F, 0x48, "#806A5B"),
    ink(0x08, 0x14, 0xC8, "#005BFF"),
];

/// The colour of a method, by its place in the list of methods.
pub fn method(method: Method) -> Ink {
    let place = Method::ALL.iter().position(|m| *m == method).unwrap_or_default();
    DATA[place % DATA.len()]
}

/// The shape of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
}

/// The shape for a checkpointing strategy, by its place in the list.
pub fn shape(checkpointing: Checkpointing) -> Shape {
    const SHAPES: [Shape; 4] = [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Diamond];
    SHAPES[place(checkpointing) % SHAPES.len()]
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// Of so many tenths of a nominal pixel.
    Plain(u32),
    /// Broad and pale, so that another line on top of it leaves both visible.
    Broad,
    /// Thin, of long pieces.
    Dashed,
    /// Thin, of short pieces.
    Dotted,
}

/// The stroke for a checkpointing strategy. Strategies that compute the same give the same curve: the first is broad
/// and pale, and whatever lies on it is thin and broken.
pub fn stroke(checkpointing: Checkpointing) -> Stroke {
    match place(checkpointing) {
        0 => Stroke::Broad,
        1 => Stroke::Dashed,
        _ => Stroke::Dotted,
    }
}

fn place(checkpointing: Checkpointing) -> usize {
    Checkpointing::ALL.iter().position(|c| *c == checkpointing).unwrap_or_default()
}

/// The colour of a combination.
pub fn of(settings: &CellSettings) -> Ink {
    method(settings.method.method())
}

/// Style rules that turn every light colour of a chart into its dark counterpart.
pub fn dark_rules() -> String {
    let fixed = [PAPER, TEXT, MUTED, GRID, FRONT, LIMIT, SHADE];
    fixed
        .iter()
        .chain(&DATA)
        .map(|ink| {
            let (hex, dark) = (ink.hex(), ink.dark);
            format!(".chart [fill=\"{hex}\"]{{fill:{dark}}}.chart [stroke=\"{hex}\"]{{stroke:{dark}}}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests;
