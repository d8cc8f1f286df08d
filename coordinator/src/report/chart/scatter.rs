//! Accuracy against a training cost: one point per combination, its spread, and the front as steps.

use fleet_common::record::EnergyDomain;
use fleet_common::score::Summary;

use super::Figure;
use super::labels::{Wish, place};
use crate::report::blocks::{Block, Cost, Row, domain_of};
use crate::report::numbers::{accuracy_decimals, fixed, mean_and_spread, mib, spread};
use fleet_chart::palette::{FRONT, MUTED, Stroke, TEXT, of, shape};
use fleet_chart::panel::{Anchor, Mark, Panel, text_width};
use fleet_chart::scale::{Scale, range};

/// Points from which only those of the front are named in full.
const CROWD: usize = 16;

struct Dot<'a> {
    row: &'a Row<'a>,
    accuracy: Summary,
    cost: Summary,
}

/// The chart of a block; `None` with fewer than two points. `domain` picks the joules where there are several kinds.
pub(crate) fn scatter(block: &Block<'_>, cost: Cost, domain: Option<EnergyDomain>) -> Option<Figure> {
    let factor = if cost == Cost::Memory { mib(1.0) } else { 1.0 };
    let mut dots: Vec<Dot<'_>> = block
        .rows
        .iter()
        .filter(|row| domain_of(row.group, cost) == domain)
        .filter_map(|row| {
            let scaled = cost.of(row.group)?.scaled(factor);
            Some(Dot { row, accuracy: row.group.top1_percent?, cost: scaled })
        })
        .collect();
    if dots.len() < 2 {
        return None;
    }
    let ends = |s: &Summary| [s.mean - s.deviation.unwrap_or(0.0), s.mean + s.deviation.unwrap_or(0.0)];
    let (least, most) = range(dots.iter().flat_map(|d| ends(&d.accuracy)));
    let x =
        Scale::costs(dots.iter().flat_map(|d| ends(&d.cost).into_iter().chain([d.cost.mean])).filter(|v| *v > 0.0), 6);
    let (noun, unit) = match cost {
        Cost::Memory => ("peak training memory", "MiB"),
        Cost::Time => ("training time", "s"),
        Cost::Energy => ("training energy", "J"),
    };
    let mut remarks = Vec::new();
    let from_zero = x.is_logarithmic() || x.low() == 0.0;
    let kind = if x.is_logarithmic() { ", log scale" } else { "" };
    if !from_zero {
        remarks.push(format!("The axis of {noun} does not begin at zero."));
    }
    if cost == Cost::Energy {
        remarks.extend(meters(&dots));
    }
    let mut panel = Panel {
        size: (560.0, 380.0),
        y: Scale::padded(least, most, 5),
        heading: String::new(),
        x_title: format!("{noun}, {unit}{kind}"),
        y_title: "top-1 accuracy, %".to_owned(),
        description: format!(
            "Top-1 accuracy against {noun}, {} combinations; the values are in the table.",
            dots.len()
        ),
        marks: Vec::new(),
        x,
    };
    panel.marks.push(front(&dots, cost, &panel));
    for dot in &dots {
        panel.marks.extend(error_bars(dot));
    }
    // Points of the front are drawn last and named first: they are what the chart is about.
    dots.sort_by_key(|d| d.row.on_front(cost) == Some(true));
    let points = dots.iter().map(|d| Mark::Point {
        at: (d.cost.mean, d.accuracy.mean),
        ink: of(&d.row.group.settings),
        shape: shape(d.row.group.settings.checkpointing),
        hollow: d.row.group.settings.train.is_none(),
        title: title(d, unit),
    });
    panel.marks.extend(points);
    let unnamed = name(&mut panel, &dots, cost);
    if unnamed > 0 {
        remarks.push(format!("{unnamed} points lie too close together for a name; pointing at them shows it."));
    }
    Some(Figure { svg: panel.svg(), remarks })
}

/// What all joules of a chart may be off by together. On every point it would look like a doubt about their order.
fn meters(dots: &[Dot<'_>]) -> Option<String> {
    let errors = dots.iter().filter_map(|d| d.row.group.training.energy_error.as_ref());
    let (mut most, mut devices) = (0.0f64, std::collections::BTreeSet::new());
    for error in errors {
        most = most.max(error.relative);
        devices.extend(&error.devices);
    }
    let percent = fixed(most * 100.0, 1);
    match devices.len() {
        0 => None,
        1 => Some(format!(
            "By their meter the joules may be off by ± {percent} %, all of them alike: the order is not touched."
        )),
        n => Some(format!("{n} devices were measured, each of whose meters may be off by up to ± {percent} %.")),
    }
}

fn title(dot: &Dot<'_>, unit: &str) -> String {
    let digits = accuracy_decimals(dot.row.group.evaluated);
    let (cost, cost_spread) = mean_and_spread(&dot.cost, 3);
    let with = |mean: String, spread: Option<String>| match spread {
        Some(s) => format!("{mean} ± {s}"),
        None => mean,
    };
    let accuracy = with(fixed(dot.accuracy.mean, digits), dot.accuracy.deviation.map(|d| spread(d, digits)));
    format!(
        "{}. {}: {accuracy} %, {} {unit} (n = {})",
        dot.row.number,
        dot.row.label,
        with(cost, cost_spread),
        dot.accuracy.n
    )
}

/// For every budget of the cost, the best accuracy that it buys.
fn front(dots: &[Dot<'_>], cost: Cost, panel: &Panel) -> Mark {
    let mut on: Vec<(f64, f64)> =
        dots.iter().filter(|d| d.row.on_front(cost) == Some(true)).map(|d| (d.cost.mean, d.accuracy.mean)).collect();
    on.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut points: Vec<(f64, f64)> = Vec::new();
    for point in on {
        if let Some(last) = points.last().copied() {
            points.push((point.0, last.1));
        }
        points.push(point);
    }
    if let Some(last) = points.last().copied() {
        points.push((panel.x.high(), last.1));
    }
    Mark::Line { points, ink: FRONT, stroke: Stroke::Plain(14) }
}

fn error_bars(dot: &Dot<'_>) -> Vec<Mark> {
    let (x, y) = (dot.cost.mean, dot.accuracy.mean);
    let bar =
        |points: Vec<(f64, f64)>| Mark::Line { points, ink: of(&dot.row.group.settings), stroke: Stroke::Plain(12) };
    let mut bars = Vec::new();
    if let Some(d) = dot.accuracy.deviation {
        bars.push(bar(vec![(x, y - d), (x, y + d)]));
    }
    if let Some(d) = dot.cost.deviation {
        bars.push(bar(vec![(x - d, y), (x + d, y)]));
    }
    bars
}

/// Names the points, the last first; returns how many could not be named.
fn name(panel: &mut Panel, dots: &[Dot<'_>], cost: Cost) -> usize {
    let width = |text: &str| text_width(text.chars().count());
    let wishes: Vec<Wish> = dots
        .iter()
        .rev()
        .map(|d| {
            let number = d.row.number.to_string();
            let full = dots.len() <= CROWD || d.row.on_front(cost) == Some(true);
            let names = full.then(|| d.row.label.clone()).into_iter().chain([number]);
            Wish {
                at: panel.place((d.cost.mean, d.accuracy.mean)),
                names: names.map(|n| (n.clone(), width(&n))).collect(),
            }
        })
        .collect();
    // Lines that a name must not lie on: the front and the bars, which are all upright or level.
    let lines: Vec<_> = panel
        .marks
        .iter()
        .filter_map(|mark| if let Mark::Line { points, .. } = mark { Some(points) } else { None })
        .flat_map(|points| points.windows(2))
        .map(|ends| {
            let (a, b) = (panel.place(ends[0]), panel.place(ends[1]));
            (a.0.min(b.0) - 1.0, a.1.min(b.1) - 1.0, a.0.max(b.0) + 1.0, a.1.max(b.1) + 1.0)
        })
        .collect();
    let placed = place(&wishes, &lines, panel.bounds());
    let mut unnamed = 0;
    for (dot, placed) in dots.iter().rev().zip(placed) {
        let at = (dot.cost.mean, dot.accuracy.mean);
        let Some(label) = placed else {
            unnamed += 1;
            continue;
        };
        let half = label.width / 2.0 * if label.dx == 0.0 { 0.0 } else { label.dx.signum() };
        let dx = label.dx - half;
        if label.leader {
            // Towards a name above or below, the line ends before it.
            let dy = if half == 0.0 { label.dy - 7.0 * label.dy.signum() } else { label.dy };
            panel.marks.insert(0, Mark::Leader { at, dx, dy });
        }
        // A name beside its point begins or ends there, however wide it turns out in the reader's font.
        let anchor = match half {
            h if h > 0.0 => Anchor::Start,
            h if h < 0.0 => Anchor::End,
            _ => Anchor::Middle,
        };
        let ink = if label.text == dot.row.label { TEXT } else { MUTED };
        panel.marks.push(Mark::Words {
            at,
            dx: dx + half.signum() * 2.0 * f64::from(u8::from(label.leader)),
            dy: label.dy,
            text: label.text,
            ink,
            anchor,
        });
    }
    unnamed
}
