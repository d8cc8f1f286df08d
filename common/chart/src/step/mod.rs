//! Memory over one training step under each of several checkpointing strategies.
//!
//! A panel per strategy, all with the same axes: strategies move the phases against each other, so that lines on top of
//! each other would say neither where one is nor which phase a peak is in. Side by side, heights are peaks and widths are
//! times, and both can be compared.
//!
//! A [`MemoryWindow`] tells the bytes at its begin and the most in it, not when that was: the line rises to the peak in the
//! window's middle and falls to where the next window begins. Of the last window the end is not known, and the line ends
//! at its peak.

#[cfg(test)]
mod tests;

use fleet_common::record::{MemoryTrace, MemoryWindow};
use fleet_common::spec::Method;

use crate::numbers::{mib, significant};
use crate::palette::{LIMIT, MUTED, Shape, Stroke, TEXT, method};
use crate::panel::{Anchor, LABEL, Mark, PALE, Panel, text_width};
use crate::scale::Scale;

/// Nominal size of a panel.
pub(crate) const SIZE: (f64, f64) = (560.0, 290.0);
/// Opacity of the area while blocks run again, on top of the pale one.
const STRONG: f64 = 0.5;
/// Room above the highest value, for the phases' names.
const ROOM: f64 = 1.18;
/// A limit this many times above every peak would flatten the curves; it is then named, and not drawn.
const FAR: f64 = 2.0;
/// Height of a block's tick, nominal pixels.
const TICK: f64 = 5.0;
/// Characters in a line of a reason.
const LINE: usize = 78;

/// One training step.
pub struct Step<'a> {
    /// What stands above it.
    pub heading: String,
    /// The method, for the colour.
    pub method: Method,
    /// What happened.
    pub shown: Shown<'a>,
    /// Lines to compare memory with, the budget first.
    pub limits: Vec<Limit>,
}

/// What a panel shows.
#[derive(Clone, Copy)]
pub enum Shown<'a> {
    /// Memory over the step.
    Trace(&'a MemoryTrace),
    /// Why there is none.
    Reason(&'a str),
}

/// A number of bytes that memory is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What it is, such as "budget".
    pub name: &'static str,
    /// How much.
    pub bytes: u64,
}

/// The axes that all panels of a figure have.
struct Axes {
    milliseconds: f64,
    mib: f64,
}

/// A panel per step, as `svg` elements for the inside of a page.
pub fn panels(steps: &[Step<'_>]) -> Vec<String> {
    drawn(steps).iter().map(Panel::svg).collect()
}

/// A panel per step, on common axes.
pub(crate) fn drawn(steps: &[Step<'_>]) -> Vec<Panel> {
    let axes = Axes::of(steps);
    steps.iter().map(|step| panel(step, &axes)).collect()
}

impl Axes {
    fn of(steps: &[Step<'_>]) -> Self {
        let traces = || steps.iter().filter_map(|s| if let Shown::Trace(trace) = s.shown { Some(trace) } else { None });
        let milliseconds = traces().map(end).fold(0.0f64, f64::max);
        let most = traces().flat_map(|t| &t.windows).map(|w| mib(highest(w) as f64)).fold(0.0f64, f64::max);
        let limits = steps.iter().flat_map(|s| &s.limits).map(|l| mib(l.bytes as f64));
        let high = limits.filter(|l| *l <= FAR * most).fold(most, f64::max);
        Self { milliseconds, mib: ROOM * high }
    }
}

/// The step's end, or where its last window begins if that is later.
fn end(trace: &MemoryTrace) -> f64 {
    trace.windows.iter().map(|w| f64::from(w.at)).fold(f64::from(trace.milliseconds), f64::max)
}

fn highest(window: &MemoryWindow) -> u64 {
    window.peak.max(window.live)
}

fn panel(step: &Step<'_>, axes: &Axes) -> Panel {
    let mut panel = Panel {
        size: SIZE,
        x: Scale::linear(0.0, axes.milliseconds, 6),
        y: Scale::linear(0.0, axes.mib, 5),
        heading: step.heading.clone(),
        x_title: "ms into the step; the numbers above the axis are blocks".to_owned(),
        y_title: "bytes that tensors hold, MiB".to_owned(),
        description: format!("Memory over one training step, {}.", step.heading),
        marks: Vec::new(),
    };
    match step.shown {
        Shown::Trace(trace) => of_trace(&mut panel, trace, step.method),
        Shown::Reason(why) => reason(&mut panel, why),
    }
    for (number, limit) in step.limits.iter().enumerate() {
        line(&mut panel, limit, number);
    }
    panel
}

fn of_trace(panel: &mut Panel, trace: &MemoryTrace, of: Method) {
    let ink = method(of);
    let parts = parts(trace);
    phases(panel, &parts);
    let under = |points: Vec<(f64, f64)>, opacity| {
        let points = points.into_iter().map(|(at, value)| (at, 0.0, value)).collect();
        Mark::Band { points, ink, opacity }
    };
    let curve: Vec<(f64, f64)> = parts.iter().flat_map(Part::corners).collect();
    panel.marks.push(under(curve.clone(), PALE));
    let again = parts.iter().filter(|p| p.window.place.phase == "recompute");
    panel.marks.extend(again.map(|part| under(part.corners().collect(), STRONG)));
    panel.marks.push(Mark::Line { points: curve, ink, stroke: Stroke::Plain(12) });
    blocks(panel, &parts);
    if let Some(most) = parts.iter().max_by_key(|p| highest(p.window)) {
        let value = mib(highest(most.window) as f64);
        let title = format!("{} MiB: {}", significant(value, 4), most.window.place);
        panel.marks.push(Mark::Point { at: (most.middle(), value), ink, shape: Shape::Circle, hollow: false, title });
    }
}

/// A window with its end: a time, and the bytes there if they are known.
struct Part<'a> {
    window: &'a MemoryWindow,
    from: f64,
    to: f64,
    then: Option<u64>,
}

impl Part<'_> {
    fn middle(&self) -> f64 {
        (self.from + self.to) / 2.0
    }

    /// Up from its begin to its peak, and down to its end.
    fn corners(&self) -> impl Iterator<Item = (f64, f64)> + use<> {
        let begin = (self.from, mib(self.window.live as f64));
        let peak = (self.middle(), mib(highest(self.window) as f64));
        [begin, peak].into_iter().chain(self.then.map(|live| (self.to, mib(live as f64))))
    }
}

/// The windows with their ends. Clocks do not run backwards; a begin before that of the window before is taken for equal.
fn parts(trace: &MemoryTrace) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let last = end(trace);
    for window in &trace.windows {
        let from = f64::from(window.at).max(parts.last().map_or(0.0, |p| p.from));
        if let Some(before) = parts.last_mut() {
            (before.to, before.then) = (from, Some(window.live));
        }
        parts.push(Part { window, from, to: last, then: None });
    }
    parts
}

/// The phase that a reader knows a window's by: running again is part of backward.
fn phase_of(window: &MemoryWindow) -> &str {
    match window.place.phase.as_str() {
        "recompute" => "backward",
        other => other,
    }
}

/// Phases as shaded bands with their names on top, where those fit. The last one is often short: its name may reach out
/// of it to where there is room.
fn phases(panel: &mut Panel, parts: &[Part<'_>]) {
    let bands: Vec<&[Part<'_>]> = parts.chunk_by(|a, b| phase_of(a.window) == phase_of(b.window)).collect();
    let (top, right) = (panel.y.high(), panel.bounds().2);
    let mut taken = 0.0;
    for (i, band) in bands.iter().enumerate() {
        let (Some(first), Some(last)) = (band.first(), band.last()) else { continue };
        if i % 2 == 0 {
            panel.marks.push(Mark::Shade { from: first.from, to: last.to });
        }
        let name = phase_of(first.window);
        let width = text_width(name.chars().count());
        let (left, end) = (panel.place((first.from, top)).0, panel.place((last.to, top)).0);
        let fits = end - left > width;
        let middle = ((left + end) / 2.0).min(right - width / 2.0);
        if (fits || i + 1 == bands.len()) && middle - width / 2.0 > taken {
            taken = middle + width / 2.0 + 3.0;
            panel.marks.push(Mark::Words {
                at: (first.from, top),
                dx: middle - left,
                dy: LABEL * 0.8,
                text: name.to_owned(),
                ink: MUTED,
                anchor: Anchor::Middle,
            });
        }
    }
}

/// Ticks where blocks begin and end, and their numbers where there is room.
fn blocks(panel: &mut Panel, parts: &[Part<'_>]) {
    let mut taken = 0.0;
    for same in parts.chunk_by(|a, b| a.window.place.block == b.window.place.block) {
        let (Some(first), Some(last)) = (same.first(), same.last()) else { continue };
        let Some(block) = first.window.place.block else { continue };
        for at in [first.from, last.to] {
            panel.marks.push(Mark::Leader { at: (at, 0.0), dx: 0.0, dy: -TICK });
        }
        let text = block.to_string();
        let half = text_width(text.len()) / 2.0;
        // Over the pale part, where it is easier to read.
        let begin = same.iter().find(|p| p.window.place.phase != "recompute").unwrap_or(first).from;
        let at = ((begin + last.to) / 2.0, 0.0);
        let middle = panel.place(at).0;
        if middle - half > taken {
            taken = middle + half + 3.0;
            panel.marks.push(Mark::Words {
                at,
                dx: 0.0,
                dy: -TICK - LABEL * 0.6,
                text,
                ink: MUTED,
                anchor: Anchor::Middle,
            });
        }
    }
}

/// A limit as a broken line with its name: the first one's above it, the others' below, so that two that are close do not
/// cover each other.
fn line(panel: &mut Panel, limit: &Limit, number: usize) {
    let value = mib(limit.bytes as f64);
    let text = format!("{} {} MiB", limit.name, significant(value, 3));
    let right = panel.x.high();
    let (at, dy, text) = if value > panel.y.high() {
        // Beyond the axis, under the phases' names.
        ((right, panel.y.high()), LABEL * (2.2 + 1.3 * number as f64), format!("{text} ↑"))
    } else {
        let stroke = if number == 0 { Stroke::Dashed } else { Stroke::Dotted };
        panel.marks.push(Mark::Line { points: vec![(panel.x.low(), value), (right, value)], ink: LIMIT, stroke });
        ((right, value), if number == 0 { -7.0 } else { 8.0 }, text)
    };
    panel.marks.push(Mark::Words { at, dx: -4.0, dy, text, ink: LIMIT, anchor: Anchor::End });
}

/// Words in the middle of the panel.
fn reason(panel: &mut Panel, why: &str) {
    let mut lines: Vec<String> = vec![String::new()];
    for word in why.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    let at = ((panel.x.low() + panel.x.high()) / 2.0, (panel.y.low() + panel.y.high()) / 2.0);
    let first = -(lines.len() as f64 - 1.0) / 2.0;
    for (i, text) in lines.into_iter().enumerate() {
        let dy = (first + i as f64) * LABEL * 1.4;
        panel.marks.push(Mark::Words { at, dx: 0.0, dy, text, ink: TEXT, anchor: Anchor::Middle });
    }
}
