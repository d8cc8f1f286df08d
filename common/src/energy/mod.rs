//! Counters and power readings → joules over a window: arithmetic only.
//!
//! A reading is a time in seconds (of any one clock) and a value. Windows are cut out of the readings' piecewise-linear
//! interpolation, so that adjacent windows add up to what the whole would give, however they are cut.

/// A reading: seconds, and a value in the unit that the caller knows.
pub type Point = (f64, f64);

/// The integral of the readings' piecewise-linear interpolation over `[from, to]`: watts over seconds give joules.
///
/// Readings need not be sorted; of several at one time the first counts. `None` where the readings do not cover the
/// window: what lies outside them is unknown, not zero. `slack` seconds at each edge may be uncovered; there the
/// nearest reading is taken to hold.
pub fn integrate(readings: &[Point], from: f64, to: f64, slack: f64) -> Option<f64> {
    let points = covering(readings, from, to, slack)?;
    let mut sum = 0.0;
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let (left, right) = (a.0.max(from), b.0.min(to));
        if right > left {
            sum += (right - left) * (at(a, b, left) + at(a, b, right)) / 2.0;
        }
    }
    Some(sum)
}

/// How much a rising counter grew over `[from, to]`, interpolated linearly between readings. `None` where the readings
/// do not cover the window (up to `slack` seconds at each edge, where the counter is taken to stand still).
pub fn counter_difference(readings: &[Point], from: f64, to: f64, slack: f64) -> Option<f64> {
    let points = covering(readings, from, to, slack)?;
    let value = |t: f64| {
        let right = points.partition_point(|p| p.0 < t).clamp(1, points.len() - 1);
        at(points[right - 1], points[right], t)
    };
    Some(value(to) - value(from))
}

/// The readings sorted, without repetitions, extended to the window's edges; `None` if they do not cover it.
fn covering(readings: &[Point], from: f64, to: f64, slack: f64) -> Option<Vec<Point>> {
    let finite = |p: &&Point| p.0.is_finite() && p.1.is_finite();
    let mut points: Vec<Point> = readings.iter().filter(finite).copied().collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by_key(|p| p.0);
    let (first, last) = (*points.first()?, *points.last()?);
    if from.is_nan() || to.is_nan() || from > to || first.0 > from + slack || last.0 < to - slack {
        return None;
    }
    if first.0 > from {
        points.insert(0, (from, first.1));
    }
    if last.0 < to {
        points.push((to, last.1));
    }
    if points.len() == 1 {
        points.push((points[0].0 + 1.0, points[0].1));
    }
    Some(points)
}

/// The value at `t` on the line through two points.
fn at(a: Point, b: Point, t: f64) -> f64 {
    a.1 + (b.1 - a.1) * ((t - a.0) / (b.0 - a.0)).clamp(0.0, 1.0)
}

/// Turns a counter that wraps into one that only rises.
///
/// RAPL's `energy_uj` starts again at 0 after `max_energy_range_uj`. Readings must come at least once per wrap.
#[derive(Debug, Clone)]
pub struct Unwrap {
    range: u64,
    latest: Option<u64>,
    total: u64,
}

impl Unwrap {
    /// For a counter that takes the values 0 to `range`.
    pub fn new(range: u64) -> Self {
        Self { range, latest: None, total: 0 }
    }

    /// The counter's growth since the first reading.
    pub fn read(&mut self, raw: u64) -> u64 {
        if let Some(latest) = self.latest {
            self.total += if raw >= latest { raw - latest } else { (self.range - latest.min(self.range)) + raw };
        }
        self.latest = Some(raw);
        self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ramp_integrates_exactly() {
        let ramp: Vec<Point> = (0..=100).map(|i| (f64::from(i) / 10.0, f64::from(i) * 3.0)).collect();
        assert!((integrate(&ramp, 0.0, 10.0, 0.0).expect("covered") - 1500.0).abs() < 1e-9);
        assert!((integrate(&ramp, 2.05, 2.15, 0.0).expect("covered") - 6.3).abs() < 1e-9);
    }

    #[test]
    fn an_uncovered_window_has_no_energy() {
        let readings = [(1.0, 50.0), (2.0, 50.0)];
        assert_eq!(integrate(&readings, 0.0, 2.0, 0.5), None);
        assert_eq!(integrate(&readings, 1.0, 3.0, 0.5), None);
        assert_eq!(integrate(&[], 0.0, 1.0, 10.0), None);
        assert!((integrate(&readings, 0.9, 2.1, 0.2).expect("within slack") - 60.0).abs() < 1e-9);
    }

    #[test]
    fn duplicates_and_disorder_change_nothing() {
        let tidy = [(0.0, 10.0), (1.0, 20.0), (2.0, 0.0)];
        let messy = [(2.0, 0.0), (0.0, 10.0), (1.0, 20.0), (1.0, 20.0), (f64::NAN, 5.0)];
        assert_eq!(integrate(&tidy, 0.0, 2.0, 0.0), integrate(&messy, 0.0, 2.0, 0.0));
    }

    #[test]
    fn a_wrapping_counter_rises() {
        let mut unwrap = Unwrap::new(999);
        assert_eq!([900, 950, 20, 20, 500].map(|raw| unwrap.read(raw)), [0, 50, 119, 119, 599]);
    }

    proptest! {
        #[test]
        fn splitting_a_window_never_changes_the_sum(
            values in prop::collection::vec(0.0f64..500.0, 2..40),
            cuts in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        ) {
            let readings: Vec<Point> = values.iter().enumerate().map(|(i, v)| (i as f64 * 0.1, *v)).collect();
            let end = (values.len() - 1) as f64 * 0.1;
            let mut cuts = [cuts.0 * end, cuts.1 * end, cuts.2 * end];
            cuts.sort_by(f64::total_cmp);
            let [a, b, c] = cuts;
            for window in [integrate, counter_difference] {
                let part = |x, y| window(&readings, x, y, 0.0).expect("covered");
                prop_assert!((part(a, c) - part(a, b) - part(b, c)).abs() < 1e-9 * (1.0 + part(a, c).abs()));
            }
        }
    }
}
