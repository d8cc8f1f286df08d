//! Readings as a curve, and windows cut out of it.
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

/// The first place where readings fall that should only rise, among those that a window `[from, to]` rests on: the
/// value before and the value after.
pub fn first_fall(readings: &[Point], from: f64, to: f64) -> Option<(f64, f64)> {
    let points = sorted(readings);
    let pairs = points.windows(2).filter(|w| w[1].0 >= from && w[0].0 <= to);
    pairs.map(|w| (w[0].1, w[1].1)).find(|(before, after)| after < before)
}

/// The longest time within `[from, to]` without a reading, its edges included; the whole window where there is none.
pub fn longest_gap(readings: &[Point], from: f64, to: f64) -> f64 {
    let inside = sorted(readings).into_iter().map(|p| p.0).filter(|t| (from..=to).contains(t));
    let (mut last, mut longest) = (from, 0.0f64);
    for t in inside.chain([to]) {
        longest = longest.max(t - last);
        last = t;
    }
    longest
}

/// The readings in the order of their times, without repetitions and what is no number.
fn sorted(readings: &[Point]) -> Vec<Point> {
    let finite = |p: &&Point| p.0.is_finite() && p.1.is_finite();
    let mut points: Vec<Point> = readings.iter().filter(finite).copied().collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by_key(|p| p.0);
    points
}

/// The readings sorted, extended to the window's edges; `None` if they do not cover it.
fn covering(readings: &[Point], from: f64, to: f64, slack: f64) -> Option<Vec<Point>> {
    let mut points = sorted(readings);
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
    fn falls_and_gaps_are_found_where_they_matter() {
        let readings = [(0.0, 10.0), (1.0, 20.0), (2.0, 5.0), (6.0, 9.0)];
        assert_eq!(first_fall(&readings, 0.0, 6.0), Some((20.0, 5.0)));
        assert_eq!(first_fall(&readings, 1.5, 1.6), Some((20.0, 5.0)), "a window inside the fall rests on it");
        assert_eq!(first_fall(&readings, 2.5, 6.0), None);
        assert_eq!(first_fall(&readings, 0.0, 0.5), None);
        assert_eq!(longest_gap(&readings, 0.0, 6.0), 4.0);
        assert_eq!(longest_gap(&readings, 0.0, 2.5), 1.0);
        assert_eq!(longest_gap(&readings, 3.0, 5.0), 2.0);
        assert_eq!(longest_gap(&[], 1.0, 2.5), 1.5);
    }

    proptest! {
        #[test]
        fn piecewise_linear_power_integrates_exactly(
            steps in prop::collection::vec((0.01f64..3.0, 0.0f64..900.0), 2..30),
            cuts in (0.0f64..1.0, 0.0f64..1.0),
            extra in prop::collection::vec(0.0f64..1.0, 0..40),
        ) {
            // The curve's corners, and readings of it anywhere else besides: they say nothing new.
            let mut corners = Vec::new();
            let mut now = 0.0;
            for (step, watts) in steps {
                corners.push((now, watts));
                now += step;
            }
            let end = corners.last().expect("two at least").0;
            let value = |t: f64| {
                let right = corners.partition_point(|p| p.0 < t).clamp(1, corners.len() - 1);
                let (a, b) = (corners[right - 1], corners[right]);
                a.1 + (b.1 - a.1) * (t - a.0) / (b.0 - a.0)
            };
            let (from, to) = (cuts.0.min(cuts.1) * end, cuts.0.max(cuts.1) * end);
            // By brute force: the corners in the window and its edges, trapezoid by trapezoid.
            let mut times: Vec<f64> = corners.iter().map(|p| p.0).filter(|t| (from..to).contains(t)).collect();
            times.extend([from, to]);
            times.sort_by(f64::total_cmp);
            let exact: f64 = times.windows(2).map(|w| (w[1] - w[0]) * (value(w[0]) + value(w[1])) / 2.0).sum();
            let mut readings = corners.clone();
            readings.extend(extra.iter().map(|e| (e * end, value(e * end))));
            let sum = integrate(&readings, from, to, 0.0).expect("covered");
            prop_assert!((sum - exact).abs() < 1e-8 * (1.0 + exact.abs()), "{sum} {exact}");
        }

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
