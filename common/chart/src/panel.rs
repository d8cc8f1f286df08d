//! One chart: marks in, SVG out.
//!
//! `plotters` lays out axes and writes SVG. Three things it does not do are done here: its coordinates are whole pixels,
//! so a chart is drawn [`FINE`] times larger than its nominal size and scaled by its `viewBox`; it knows no dashes, so
//! [`DASHED`] and [`DOTTED`] stand for them; and its SVG says nothing about itself, so a title for every point and a
//! description of the whole are added.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::palette::{FRONT, GRID, Ink, MUTED, PAPER, SHADE, Shape, Stroke, TEXT};
use crate::scale::Scale;

/// Drawn pixels per nominal one.
const FINE: f64 = 10.0;
/// Widths of strokes that are written dashed and dotted. plotters passes a stroke's width through and nothing else that
/// is free; no other stroke has an odd width.
const DASHED: u32 = 15;
const DOTTED: u32 = 17;
/// Size of labels, nominal pixels.
pub const LABEL: f64 = 11.0;
/// Opacity of an area that lies under lines and words.
pub const PALE: f64 = 0.18;
/// Size of titles.
const TITLE: f64 = 12.0;

/// Something drawn, in values of the axes.
pub enum Mark {
    /// A line through points.
    Line {
        /// Its corners.
        points: Vec<(f64, f64)>,
        /// Colour.
        ink: Ink,
        /// How it is drawn.
        stroke: Stroke,
    },
    /// The area between two lines: (x, low, high).
    Band {
        /// From left to right.
        points: Vec<(f64, f64, f64)>,
        /// Colour.
        ink: Ink,
        /// How much of it is laid on, from 0 to 1; [`PALE`] for most.
        opacity: f64,
    },
    /// A point, with what it says when pointed at.
    Point {
        /// Where.
        at: (f64, f64),
        /// Colour.
        ink: Ink,
        /// Which mark.
        shape: Shape,
        /// Whether it is drawn as an outline.
        hollow: bool,
        /// What it says; empty for nothing.
        title: String,
    },
    /// Shading over the full height.
    Shade {
        /// Left end.
        from: f64,
        /// Right end.
        to: f64,
    },
    /// A thin line from a place to `dx` and `dy` nominal pixels from it.
    Leader {
        /// The place.
        at: (f64, f64),
        /// To the right.
        dx: f64,
        /// Down.
        dy: f64,
    },
    /// Words. `dx` and `dy` are nominal pixels from the place.
    Words {
        /// The place.
        at: (f64, f64),
        /// To the right.
        dx: f64,
        /// Down.
        dy: f64,
        /// What stands there.
        text: String,
        /// Colour.
        ink: Ink,
        /// Which end of it is there.
        anchor: Anchor,
    },
}

/// Which end of a text is at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Its begin.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// A chart.
pub struct Panel {
    /// Nominal size in pixels.
    pub size: (f64, f64),
    /// The axis from left to right.
    pub x: Scale,
    /// The axis from bottom to top.
    pub y: Scale,
    /// Title above the chart; empty for none.
    pub heading: String,
    /// Title under the x axis; empty for none.
    pub x_title: String,
    /// Title above the y axis; empty for none.
    pub y_title: String,
    /// What the chart shows, for those who cannot see it.
    pub description: String,
    /// What is drawn, the first under the others; shades are under everything.
    pub marks: Vec<Mark>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Failure = Box<dyn std::error::Error>;

impl Panel {
    /// Nominal margins: left, top, right, bottom.
    fn margins(&self) -> (f64, f64, f64, f64) {
        let widest = self.y.ticks().iter().map(|t| self.y.label(*t).chars().count()).max().unwrap_or(1);
        let heading = if self.heading.is_empty() { 0.0 } else { 20.0 };
        let title = if self.y_title.is_empty() { 6.0 } else { 24.0 };
        (14.0 + text_width(widest), title + heading, 20.0, if self.x_title.is_empty() { 24.0 } else { 42.0 })
    }

    /// Where a value lies, in nominal pixels.
    pub fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (left, top, right, bottom) = self.margins();
        (
            left + self.x.fraction(x) * (self.size.0 - left - right),
            self.size.1 - bottom - self.y.fraction(y) * (self.size.1 - top - bottom),
        )
    }

    /// The plotting area in nominal pixels: left, top, right, bottom.
    pub fn bounds(&self) -> (f64, f64, f64, f64) {
        let (left, top, right, bottom) = self.margins();
        (left, top, self.size.0 - right, self.size.1 - bottom)
    }

    /// The chart as an `svg` element for the inside of a page.
    pub fn svg(&self) -> String {
        self.element(None)
    }

    /// The same for a place in another SVG: its left and upper end there.
    pub(crate) fn svg_at(&self, place: (f64, f64)) -> String {
        self.element(Some(place))
    }

    fn element(&self, place: Option<(f64, f64)>) -> String {
        let mut drawn = String::new();
        match self.draw(&mut drawn) {
            Ok(()) => self.finish(&drawn, place),
            // Writing into a string does not fail; if it ever does, the reader must not take a gap for a result.
            Err(error) => maud::html! { p { "This chart could not be drawn: " (error) } }.into_string(),
        }
    }

    fn draw(&self, out: &mut String) -> Result<(), Failure> {
        let root =
            SVGBackend::with_string(out, (fine(self.size.0) as u32, fine(self.size.1) as u32)).into_drawing_area();
        let (left, top, right, bottom) = self.margins();
        for mark in &self.marks {
            if let Mark::Shade { .. } = mark {
                self.mark(&root, mark)?;
            }
        }
        let mut chart = ChartBuilder::on(&root)
            .margin_top(fine(top))
            .margin_right(fine(right))
            .x_label_area_size(fine(bottom))
            .y_label_area_size(fine(left))
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let tick_text = font(LABEL, MUTED);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.light.stroke_width(10))
            .axis_style(MUTED.light.stroke_width(10))
            .set_all_tick_mark_size(fine(4.0))
            .label_style(tick_text)
            .x_label_formatter(&|c| self.x.label(*c))
            .y_label_formatter(&|c| self.y.label(*c))
            .draw()?;
        self.titles(&root)?;
        for mark in &self.marks {
            if !matches!(mark, Mark::Shade { .. }) {
                self.mark(&root, mark)?;
            }
        }
        root.present()?;
        Ok(())
    }

    fn titles(&self, root: &Area<'_>) -> Result<(), Failure> {
        let (left, top, right, _) = self.bounds();
        // The y axis' title stands above it and reads from left to right, where a reader begins.
        text(root, (4.0, top - 14.0), &self.y_title, TITLE, MUTED, Anchor::Start)?;
        text(root, (4.0, 9.0), &self.heading, TITLE + 1.0, TEXT, Anchor::Start)?;
        text(root, ((left + right) / 2.0, self.size.1 - 9.0), &self.x_title, TITLE, MUTED, Anchor::Middle)
    }

    fn mark(&self, root: &Area<'_>, mark: &Mark) -> Result<(), Failure> {
        let at = |p: (f64, f64)| {
            let (x, y) = self.place(p);
            (fine(x), fine(y))
        };
        match mark {
            Mark::Line { points, ink, stroke } => {
                let points: Vec<_> = points.iter().map(|p| at(*p)).collect();
                let (width, opacity) = match stroke {
                    Stroke::Plain(tenths) => (tenths.next_multiple_of(2), 1.0),
                    Stroke::Broad => (40, 0.5),
                    Stroke::Dashed => (DASHED, 1.0),
                    Stroke::Dotted => (DOTTED, 1.0),
                };
                root.draw(&PathElement::new(points, ink.light.mix(opacity).stroke_width(width)))?;
            }
            Mark::Band { points, ink, opacity } => {
                let upper = points.iter().map(|(x, _, high)| at((*x, *high)));
                let lower = points.iter().rev().map(|(x, low, _)| at((*x, *low)));
                let outline: Vec<_> = upper.chain(lower).collect();
                root.draw(&Polygon::new(outline, ink.light.mix(*opacity)))?;
            }
            Mark::Point { at: place, ink, shape, hollow, .. } => {
                point(root, at(*place), 7.2, *shape, PAPER)?;
                point(root, at(*place), 5.8, *shape, *ink)?;
                if *hollow {
                    point(root, at(*place), 3.2, *shape, PAPER)?;
                }
            }
            Mark::Shade { from, to } => {
                let (_, top, _, bottom) = self.bounds();
                let (left, right) = (at((*from, 0.0)).0, at((*to, 0.0)).0);
                root.draw(&Rectangle::new([(left, fine(top)), (right, fine(bottom))], SHADE.light.filled()))?;
            }
            Mark::Leader { at: place, dx, dy } => {
                let (x, y) = self.place(*place);
                let points = vec![(fine(x), fine(y)), (fine(x + dx), fine(y + dy))];
                root.draw(&PathElement::new(points, FRONT.light.stroke_width(8)))?;
            }
            Mark::Words { at: place, dx, dy, text: words, ink, anchor } => {
                let (x, y) = self.place(*place);
                text(root, (x + dx, y + dy), words, LABEL, *ink, *anchor)?;
            }
        }
        Ok(())
    }

    /// Makes the page's element of a drawn document: no size of its own unless it has a place, a description, titles over
    /// the points.
    fn finish(&self, drawn: &str, at: Option<(f64, f64)>) -> String {
        let body = drawn.split_once('>').map_or("", |(_, rest)| rest).trim_end();
        let body = body.strip_suffix("</svg>").unwrap_or(body);
        let body = body
            .replace(&format!(" stroke-width=\"{DASHED}\""), " stroke-width=\"16\" stroke-dasharray=\"60 40\"")
            .replace(&format!(" stroke-width=\"{DOTTED}\""), " stroke-width=\"16\" stroke-dasharray=\"16 32\"")
            .replace(" opacity=\"1\"", "")
            .replace(" font-family=\"sans-serif\"", "")
            .replace("\n</text>", "</text>")
            .replace(" \"/>", "\"/>");
        let targets = self.marks.iter().filter_map(|mark| match mark {
            Mark::Point { at, title, .. } if !title.is_empty() => Some((self.place(*at), title)),
            _ => None,
        });
        let (width, height) = (fine(self.size.0), fine(self.size.1));
        maud::html! {
            svg.chart x=[at.map(|a| a.0)] y=[at.map(|a| a.1)] width=[at.map(|_| self.size.0)] height=[at.map(|_| self.size.1)]
                viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(self.description) {
                (maud::PreEscaped(body))
                @for ((x, y), title) in targets {
                    circle cx=(fine(x)) cy=(fine(y)) r="90" fill="transparent" { title { (title) } }
                }
            }
        }
        .into_string()
    }
}

/// Nominal → drawn pixels.
fn fine(nominal: f64) -> i32 {
    // A value far outside the axes must not wrap around the canvas.
    (nominal.clamp(-1e4, 1e4) * FINE).round() as i32
}

/// Estimated nominal width of a text of so many characters at the labels' size.
pub fn text_width(characters: usize) -> f64 {
    // Proportional figures and lower-case letters of the usual sans-serif faces are a little over half an em.
    0.54 * LABEL * characters as f64
}

fn font(size: f64, ink: Ink) -> TextStyle<'static> {
    // plotters writes a size divided by 1.24.
    ("sans-serif", size * FINE * 1.24).into_font().color(&ink.light)
}

fn text(root: &Area<'_>, at: (f64, f64), words: &str, size: f64, ink: Ink, anchor: Anchor) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    let h = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let style = font(size, ink).pos(Pos::new(h, VPos::Center));
    root.draw(&Text::new(words.to_owned(), (fine(at.0), fine(at.1)), style))?;
    Ok(())
}

fn point(root: &Area<'_>, (x, y): (i32, i32), radius: f64, shape: Shape, ink: Ink) -> Result<(), Failure> {
    // Radii that give the shapes about the same area.
    let style = ink.light.filled();
    let polygon = |corners: &[(f64, f64)]| {
        let corners: Vec<_> = corners.iter().map(|(a, b)| (x + fine(a * radius), y + fine(b * radius))).collect();
        Polygon::new(corners, style)
    };
    match shape {
        Shape::Circle => root.draw(&Circle::new((x, y), fine(radius), style))?,
        Shape::Square => root.draw(&polygon(&[(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]))?,
        Shape::Triangle => root.draw(&polygon(&[(0.0, -1.25), (1.12, 0.75), (-1.12, 0.75)]))?,
        Shape::Diamond => root.draw(&polygon(&[(0.0, -1.28), (1.28, 0.0), (0.0, 1.28), (-1.28, 0.0)]))?,
    }
    Ok(())
}
