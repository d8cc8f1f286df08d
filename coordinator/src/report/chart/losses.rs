//! Training loss over steps: per combination the mean over its trials, and the band between their extremes.

use fleet_common::record::{Outcome, Record};

use super::Figure;
use crate::report::blocks::{Block, Row};
use crate::report::numbers::plural;
use fleet_chart::palette::{Stroke, of, stroke};
use fleet_chart::panel::{Mark, PALE, Panel};
use fleet_chart::scale::{Scale, range};

/// Points per line. More would be closer together than a line is wide.
const POINTS: usize = 60;

/// A ratio of losses from which the axis is logarithmic: linear would press the late steps onto the axis.
const WIDE: f64 = 20.0;

/// The chart of the rows of one backbone; `None` without losses.
pub(crate) fn losses(rows: &[&Row<'_>], records: &[Record], heading: &str) -> Option<Figure> {
    let curves: Vec<(&Row<'_>, Vec<&[f32]>)> = rows
        .iter()
        .map(|row| {
            let of_row = |r: &&Record| r.outcome == Outcome::Completed && Block::belongs(row, r);
            (
                *row,
                records.iter().filter(of_row).map(|r| r.training.losses.as_slice()).filter(|l| !l.is_empty()).collect(),
            )
        })
        .filter(|(_, curves): &(_, Vec<_>)| !curves.is_empty())
        .collect();
    let longest = curves.iter().flat_map(|(_, c)| c.iter().map(|l| l.len())).max()?;
    let per_point = longest.div_ceil(POINTS).max(1);
    let lines: Vec<(&Row<'_>, Vec<Piece>)> =
        curves.iter().map(|(row, curves)| (*row, summarise(curves, per_point))).collect();
    let (least, most) = range(lines.iter().flat_map(|(_, l)| l.iter().flat_map(|p| [p.low, p.high])));
    let logarithmic = least > 0.0 && most / least > WIDE;
    let y = if logarithmic {
        Scale::logarithmic(least / 1.1, most * 1.1)
    } else if least >= 0.0 && least < 0.5 * most {
        Scale::linear(0.0, 1.05 * most, 5)
    } else {
        Scale::padded(least, most, 5)
    };
    let kind = if logarithmic { ", log scale" } else { "" };
    let smoothing = if per_point > 1 { format!(", mean of {per_point} steps") } else { String::new() };
    let mut marks = Vec::new();
    for (row, line) in lines.iter().filter(|(row, _)| row.group.completed > 1) {
        let band = line.iter().map(|p| (p.middle, p.low, p.high)).collect();
        marks.push(Mark::Band { points: band, ink: of(&row.group.settings), opacity: PALE });
    }
    // Broad lines first: a thin one on top of an equal broad one leaves both visible.
    for broad in [true, false] {
        for (row, line) in &lines {
            let stroke = stroke(row.group.settings.checkpointing);
            if (stroke == Stroke::Broad) == broad {
                let points = line.iter().map(|p| (p.middle, p.mean)).collect();
                marks.push(Mark::Line { points, ink: of(&row.group.settings), stroke });
            }
        }
    }
    let panel = Panel {
        size: (560.0, 320.0),
        x: Scale::linear(0.0, longest as f64, 6),
        y,
        heading: heading.to_owned(),
        x_title: "training step".to_owned(),
        y_title: format!("cross-entropy{kind}{smoothing}"),
        description: format!("Training loss of {heading} over {}.", plural(longest as u64, "step")),
        marks,
    };
    Some(Figure { svg: panel.svg(), remarks: Vec::new() })
}

/// Some consecutive steps: their middle, and over the trials the mean, the least and the greatest of their mean loss.
#[derive(Debug, PartialEq)]
struct Piece {
    middle: f64,
    mean: f64,
    low: f64,
    high: f64,
}

/// The pieces of `per_point` steps each.
fn summarise(curves: &[&[f32]], per_point: usize) -> Vec<Piece> {
    let longest = curves.iter().map(|c| c.len()).max().unwrap_or(0);
    (0..longest.div_ceil(per_point))
        .filter_map(|piece| {
            let from = piece * per_point;
            let to = (from + per_point).min(longest);
            let means: Vec<f64> = curves.iter().filter_map(|c| mean(c.get(from..to.min(c.len()))?)).collect();
            let sum: f64 = means.iter().sum();
            let (low, high) = range(means.iter().copied());
            let middle = (from + 1 + to) as f64 / 2.0;
            (!means.is_empty()).then(|| Piece { middle, mean: sum / means.len() as f64, low, high })
        })
        .collect()
}

/// The mean of the numbers among `values`.
fn mean(values: &[f32]) -> Option<f64> {
    let numbers: Vec<f64> = values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(middle: f64, mean: f64, low: f64, high: f64) -> Piece {
        Piece { middle, mean, low, high }
    }

    #[test]
    fn pieces_by_hand() {
        let (a, b) = ([4.0, 2.0, 1.0, 1.0, 9.0], [2.0, 2.0, 3.0, f32::NAN, 7.0]);
        let pieces = [piece(1.5, 2.5, 2.0, 3.0), piece(3.5, 2.0, 1.0, 3.0), piece(5.0, 8.0, 7.0, 9.0)];
        assert_eq!(summarise(&[&a, &b], 2), pieces);
    }

    #[test]
    fn curves_of_unequal_length_and_none_at_all() {
        let pieces = [piece(1.0, 3.0, 1.0, 5.0), piece(2.0, 3.0, 3.0, 3.0)];
        assert_eq!(summarise(&[&[1.0, 3.0], &[5.0]], 1), pieces);
        assert_eq!(summarise(&[], 4), []);
    }
}
