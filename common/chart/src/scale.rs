//! Axes: a range, linear or logarithmic, with round ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use crate::numbers::fixed;

/// How values are laid along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    logarithmic: bool,
    /// Ends, in values.
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    /// What stands at each tick.
    labels: Vec<String>,
}

/// Ratio of the largest to the smallest cost from which an axis is logarithmic: on a linear one the small would crowd
/// into its first tenth.
const WIDE: f64 = 12.0;
/// Room beyond the least and the greatest ratio.
const ROOM: f64 = 1.21;
/// Ratio of the greatest to the least ratio up to which their axis has ticks at equal steps.
const NARROW: f64 = 3.0;

impl Scale {
    /// Linear from `low` to `high`, widened to neither; about `count` ticks inside.
    pub fn linear(low: f64, high: f64, count: usize) -> Self {
        let (low, high) = ordered(low, high);
        let step = round_step((high - low) / count.max(1) as f64);
        let first = (low / step).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let ticks: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        let decimals = usize::try_from(-step.log10().floor() as i64).unwrap_or(0).min(9);
        let labels = ticks.iter().map(|t| fixed(*t, decimals)).collect();
        Self { logarithmic: false, low, high, ticks, labels }
    }

    /// For costs: from zero where that leaves them room, from near the least where it does not, logarithmic where they
    /// are far apart.
    pub fn costs(values: impl Iterator<Item = f64> + Clone, count: usize) -> Self {
        let (least, most) = range(values);
        if least > 0.0 && most / least > WIDE {
            Self::logarithmic(least / 1.25, most * 1.25)
        } else if least > 0.6 * most {
            Self::padded(least, most, count)
        } else {
            Self::linear(0.0, 1.08 * most, count)
        }
    }

    /// Linear with some room on both sides.
    pub fn padded(least: f64, most: f64, count: usize) -> Self {
        let room = match 0.1 * (most - least) {
            r if r > 0.0 => r,
            _ => (0.05 * most.abs()).max(1e-3),
        };
        Self::linear(least - room, most + room, count)
    }

    /// Logarithmic, with ticks at 1, 2 and 5 times the powers of ten, or at the powers alone over many decades.
    pub fn logarithmic(low: f64, high: f64) -> Self {
        let (low, high) = ordered(low.max(f64::MIN_POSITIVE), high);
        let decades = (high / low).log10();
        let factors: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let ticks: Vec<f64> = (first..=last)
            .flat_map(|d| factors.iter().map(move |f| f * 10f64.powi(d)))
            .filter(|t| (low..=high).contains(t))
            .collect();
        let decimals = |t: f64| usize::try_from(-(t * 1.000_001).log10().floor() as i64).unwrap_or(0).min(9);
        let labels = ticks.iter().map(|t| fixed(*t, decimals(*t))).collect();
        Self { logarithmic: true, low, high, ticks, labels }
    }

    /// Logarithmic around 1, for ratios: 1 is always on it and has room on both sides, so that a ratio near 1 looks
    /// like one.
    pub fn ratios(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = range(values.filter(|v| *v > 0.0).chain([1.0]));
        let wide = Self::logarithmic(least / ROOM, most * ROOM);
        // Over so little of an axis, 1, 2 and 5 leave it bare: equal steps are denser.
        if most / least > NARROW { wide } else { Self { logarithmic: true, ..Self::linear(wide.low, wide.high, 5) } }
    }

    /// Names, the first on top, one apart.
    pub fn names(labels: Vec<String>) -> Self {
        let ticks: Vec<f64> = (0..labels.len()).map(Self::row).collect();
        Self { logarithmic: false, low: ticks.last().copied().unwrap_or(0.0) - 0.7, high: 0.7, ticks, labels }
    }

    /// Where the name of this number is.
    pub fn row(number: usize) -> f64 {
        -(number as f64)
    }

    /// Whether the axis is logarithmic; its title says so.
    pub fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }

    /// Where a value lies: 0 at the low end, 1 at the high.
    pub fn fraction(&self, value: f64) -> f64 {
        let on_axis = |v: f64| if self.logarithmic { v.max(f64::MIN_POSITIVE).log10() } else { v };
        (on_axis(value) - on_axis(self.low)) / (on_axis(self.high) - on_axis(self.low))
    }

    /// The greatest value on the axis.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The least value on the axis.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// The ticks.
    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    /// The label of a tick.
    pub fn label(&self, tick: f64) -> String {
        self.ticks.iter().position(|t| *t == tick).map(|i| self.labels[i].clone()).unwrap_or_default()
    }
}

/// plotters' view of an axis: where a value is, and at which values its lines and labels are.
impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + self.fraction(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// Finite ends in order and apart, whatever came in.
fn ordered(low: f64, high: f64) -> (f64, f64) {
    let low = if low.is_finite() { low } else { 0.0 };
    if high.is_finite() && high > low { (low, high) } else { (low, low + low.abs().max(1.0)) }
}

/// Least and greatest of the finite values; 0 and 1 where there are none.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) =
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if least <= most { (least, most) } else { (0.0, 1.0) }
}

/// The nearest of 1, 2, 5, 10, … times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = match step / power {
        f if f < 1.5 => 1.0,
        f if f < 3.5 => 2.0,
        f if f < 7.5 => 5.0,
        _ => 10.0,
    };
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::linear(0.0, 1234.0, 5);
        assert_eq!(scale.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0]);
        assert_eq!(scale.label(400.0), "400");
        let fine = Scale::linear(0.31, 0.79, 4);
        let labels: Vec<String> = fine.ticks().iter().map(|t| fine.label(*t)).collect();
        assert_eq!(labels, ["0.4", "0.5", "0.6", "0.7"]);
    }

    #[test]
    fn costs_far_apart_are_logarithmic_and_alike_ones_are_not() {
        let far = Scale::costs([10.0, 2000.0].into_iter(), 5);
        assert!(far.is_logarithmic());
        let labels: Vec<String> = far.ticks().iter().map(|t| far.label(*t)).collect();
        assert_eq!(labels, ["10", "20", "50", "100", "200", "500", "1000", "2000"]);
        assert!(!Scale::costs([10.0, 100.0].into_iter(), 5).is_logarithmic());
        assert_eq!(Scale::costs([10.0, 100.0].into_iter(), 5).fraction(0.0), 0.0, "from zero");
        assert!(Scale::costs([90.0, 100.0].into_iter(), 5).low() > 80.0, "not from zero");
    }

    #[test]
    fn ratios_have_one_on_their_axis_and_room_around_it() {
        let labels = |values: &[f64]| {
            let scale = Scale::ratios(values.iter().copied());
            assert!(scale.is_logarithmic() && scale.low() <= 1.0 / 1.19 && scale.high() >= 1.19, "{scale:?}");
            scale.ticks().iter().map(|t| scale.label(*t)).collect::<Vec<_>>()
        };
        assert_eq!(labels(&[1.0, 1.001]), ["0.9", "1.0", "1.1", "1.2"]);
        assert_eq!(labels(&[0.07, 0.08]), ["0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels(&[1.3, 1.5]), ["1.0", "1.2", "1.4", "1.6", "1.8"]);
        assert_eq!(labels(&[]), labels(&[1.0]));
    }

    #[test]
    fn names_stand_from_top_to_bottom() {
        let scale = Scale::names(vec!["a".to_owned(), "b".to_owned()]);
        assert!(scale.fraction(Scale::row(0)) > scale.fraction(Scale::row(1)));
        assert_eq!([0, 1].map(|n| scale.label(Scale::row(n))), ["a", "b"]);
        assert_eq!(scale.label(0.5), "", "between ticks stands nothing");
    }

    #[test]
    fn nothing_odd_breaks_a_scale() {
        for (low, high) in [(0.0, 0.0), (f64::NAN, 1.0), (5.0, f64::INFINITY), (3.0, -3.0)] {
            for scale in [Scale::linear(low, high, 5), Scale::padded(low, high, 5), Scale::logarithmic(low, high)] {
                let (from, to) = (scale.fraction(scale.low()), scale.fraction(scale.high()));
                assert_eq!((from, to), (0.0, 1.0), "{low} {high} {scale:?}");
                assert!(scale.ticks().len() < 400);
            }
        }
        assert_eq!(range([].into_iter()), (0.0, 1.0));
    }
}
