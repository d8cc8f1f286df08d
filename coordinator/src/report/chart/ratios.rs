//! The cost of one level as a multiple of another's: one point per combination on a logarithmic axis.

use fleet_common::contrast::{Contrast, Pair, Quantity, Side};

use super::Figure;
use crate::report::numbers::{plural, significant};
use fleet_chart::palette::{FRONT, Stroke, TEXT, of, shape};
use fleet_chart::panel::{Mark, Panel};
use fleet_chart::scale::Scale;

/// Most characters of a name beside the axis; longer ones leave the points no room, and their numbers stand alone.
const NAME: usize = 34;
/// Nominal height of a combination's line, and of what is around all of them.
const LINE: f64 = 21.0;
const AROUND: f64 = 70.0;

/// A combination that both levels have.
struct Dot<'a> {
    /// Its number in the tables.
    number: usize,
    name: &'a str,
    side: &'a Side,
    ratio: f64,
    /// The least and the greatest ratio that any two of their trials have.
    range: (f64, f64),
    trials: (usize, usize),
}

/// The chart of the ratios of one training cost; `None` where there is none. `names` are those of the combinations.
pub(crate) fn ratios(contrast: &Contrast, pair: &Pair, quantity: Quantity, names: &[String]) -> Option<Figure> {
    let mean = pair.training.of(quantity).value()?.geometric_mean;
    let mut dots = Vec::new();
    for (i, (combination, name)) in contrast.combinations.iter().zip(names).enumerate() {
        let (Some(one), Some(other)) = (combination.at(&pair.one), combination.at(&pair.other)) else { continue };
        if let Ok((a, b)) = quantity.both(&one.training, &other.training) {
            let range = (b.min / a.max, b.max / a.min);
            dots.push(Dot { number: i + 1, name, side: other, ratio: b.mean / a.mean, range, trials: (a.n, b.n) });
        }
    }
    let x = Scale::ratios(dots.iter().flat_map(|d| [d.range.0, d.ratio, d.range.1]).filter(|r| r.is_finite()));
    let short = dots.iter().all(|d| d.name.chars().count() <= NAME);
    let labels = dots.iter().map(|d| if short { format!("{}  {}", d.name, d.number) } else { d.number.to_string() });
    let y = Scale::names(labels.collect());
    let upright = |at: f64| vec![(at, y.low()), (at, y.high())];
    let mut marks = vec![
        Mark::Line { points: upright(1.0), ink: TEXT, stroke: Stroke::Plain(12) },
        Mark::Line { points: upright(mean), ink: FRONT, stroke: Stroke::Dashed },
    ];
    for (row, dot) in dots.iter().enumerate() {
        let (at, ink) = (Scale::row(row), of(&dot.side.settings));
        if dot.trials != (1, 1) {
            let bar = vec![(dot.range.0, at), (dot.range.1, at)];
            marks.push(Mark::Line { points: bar, ink, stroke: Stroke::Plain(20) });
        }
        let shape = shape(dot.side.settings.checkpointing);
        let hollow = dot.side.settings.train.is_none();
        marks.push(Mark::Point { at: (dot.ratio, at), ink, shape, hollow, title: title(dot) });
    }
    let noun = match quantity {
        Quantity::Seconds => "Training time",
        Quantity::Joules => "Training energy",
        Quantity::PeakBytes => "Peak training memory",
    };
    let panel = Panel {
        size: (560.0, AROUND + LINE * dots.len() as f64),
        x,
        y,
        heading: noun.to_owned(),
        x_title: "ratio, log scale".to_owned(),
        y_title: String::new(),
        description: format!(
            "{noun} of {} as a multiple of that of {}, {}; the geometric mean is {}.",
            pair.other,
            pair.one,
            plural(dots.len() as u64, "combination"),
            significant(mean, 3)
        ),
        marks,
    };
    Some(Figure { svg: panel.svg(), remarks: Vec::new() })
}

fn title(dot: &Dot<'_>) -> String {
    let range = match dot.trials {
        (1, 1) => String::new(),
        _ => format!(", {} to {} between trials", significant(dot.range.0, 3), significant(dot.range.1, 3)),
    };
    let (one, other) = dot.trials;
    format!("{}. {}: {}{range} (n = {one} and {other})", dot.number, dot.name, significant(dot.ratio, 3))
}
