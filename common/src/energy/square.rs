//! How a power sensor follows its device, seen in its answer to a square wave of load: how often it is updated, and
//! what it averages over. The method is that of arXiv 2312.02741, with the load's edges known.

use super::curve::Point;

/// A load that is on and off in turns.
#[derive(Debug, Clone, PartialEq)]
pub struct SquareWave {
    /// When it was on: beginnings and ends, seconds, in order and apart.
    pub on: Vec<(f64, f64)>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Response {
    /// Seconds between two updates: the median time between two changes of the reading.
    pub update_seconds: f64,
    /// Seconds that the sensor averages over.
    pub averaging_seconds: f64,
    /// Power without and with load, watts.
    pub off_watts: f64,
    /// See `off_watts`.
    pub on_watts: f64,
    /// Share of the updates' variance that the model explains, 0 to 1: near 1 where the sensor does what is assumed.
    pub explained: f64,
}

/// The longest averaging window and delay that are tried, and the step between tries, seconds.
const LONGEST: f64 = 2.0;
const STEP: f64 = 0.02;
const LONGEST_DELAY: f64 = 0.3;
/// Fewer updates tell nothing.
const ENOUGH: usize = 20;

/// Fits the model "the mean of off or on power over a window that ended a moment ago" to readings (seconds, watts).
///
/// # Errors
/// The readings do not follow the load, in words.
pub fn response(readings: &[Point], wave: &SquareWave) -> Result<Response, String> {
    // Between two updates a sensor repeats itself; what it shows belongs to the time of the update.
    let updates: Vec<Point> = readings.windows(2).filter(|w| w[1].1 != w[0].1).map(|w| w[1]).collect();
    if updates.len() < ENOUGH {
        return Err(format!("{} readings with {} changes are too few to tell", readings.len(), updates.len()));
    }
    let mut between: Vec<f64> = updates.windows(2).map(|w| w[1].0 - w[0].0).collect();
    between.sort_by(f64::total_cmp);
    let update_seconds = between[between.len() / 2];
    let steps = |longest: f64| (0..=(longest / STEP).round() as usize).map(|i| i as f64 * STEP);
    let fits = steps(LONGEST).flat_map(|window| steps(LONGEST_DELAY).map(move |delay| (window, delay)));
    let (averaging_seconds, fit) = fits
        .map(|(window, delay)| (window, fit(&updates, |t| wave.share(t - delay - window, t - delay))))
        .min_by(|a, b| a.1.residual.total_cmp(&b.1.residual))
        .ok_or("nothing to fit")?;
    let explained = 1.0 - fit.residual / fit.variance;
    if !(explained > 0.5 && fit.slope > 0.0) {
        return Err("its readings do not follow the load".to_owned());
    }
    Ok(Response {
        update_seconds,
        averaging_seconds,
        off_watts: fit.offset,
        on_watts: fit.offset + fit.slope,
        explained,
    })
}

impl SquareWave {
    /// The share of `[from, to]` in which the load was on; at a moment, whether it was.
    fn share(&self, from: f64, to: f64) -> f64 {
        // No narrower than a thousandth of a second, so that a moment is a window too.
        let from = from.min(to - 1e-3);
        let on: f64 = self.on.iter().map(|(a, b)| (b.min(to) - a.max(from)).max(0.0)).sum();
        on / (to - from)
    }
}

struct Fit {
    offset: f64,
    slope: f64,
    residual: f64,
    variance: f64,
}

/// Least squares of readings on `x`; sums of squares for residual and variance.
fn fit(readings: &[Point], x: impl Fn(f64) -> f64) -> Fit {
    let n = readings.len() as f64;
    let xs: Vec<f64> = readings.iter().map(|p| x(p.0)).collect();
    let (mean_x, mean_y) = (xs.iter().sum::<f64>() / n, readings.iter().map(|p| p.1).sum::<f64>() / n);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, (_, y)) in xs.iter().zip(readings) {
        xx += (x - mean_x).powi(2);
        xy += (x - mean_x) * (y - mean_y);
        yy += (y - mean_y).powi(2);
    }
    let slope = if xx > 0.0 { xy / xx } else { 0.0 };
    Fit { offset: mean_y - slope * mean_x, slope, residual: yy - slope * xy, variance: yy }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sensor polled every 5 ms that shows, since its latest update, the mean over `window` seconds before it.
    fn sensor(wave: &SquareWave, update: f64, window: f64) -> Vec<Point> {
        (0..4000)
            .map(|i| {
                let t = f64::from(i) * 0.005;
                let updated = (t / update).floor() * update;
                // A little that differs each time, as in any real reading.
                let noise = 0.05 * ((updated * 1e3).sin() + (updated * 377.0).cos());
                (t, 30.0 + 200.0 * wave.share(updated - window, updated) + noise)
            })
            .collect()
    }

    fn wave() -> SquareWave {
        // Periods that no update divides, as the paper has them.
        SquareWave { on: (0..8).map(|k| (f64::from(k) * 2.37 + 0.4, f64::from(k) * 2.37 + 1.5)).collect() }
    }

    #[test]
    fn update_period_and_averaging_window_are_found_again() {
        for (update, window) in [(0.1, 1.0), (0.1, 0.1), (0.02, 0.02), (0.1, 0.0), (0.05, 0.5)] {
            let found = response(&sensor(&wave(), update, window), &wave()).expect("it follows");
            assert!((found.update_seconds - update).abs() < 0.011, "{update} {window}: {found:?}");
            assert!((found.averaging_seconds - window).abs() < 0.081, "{update} {window}: {found:?}");
            assert!((found.off_watts - 30.0).abs() < 8.0 && (found.on_watts - 230.0).abs() < 8.0, "{found:?}");
            assert!(found.explained > 0.97, "{found:?}");
        }
    }

    #[test]
    fn a_sensor_that_shows_something_else_is_not_believed() {
        let flat: Vec<Point> = (0..400).map(|i| (f64::from(i) * 0.01, 50.0)).collect();
        assert!(response(&flat, &wave()).expect_err("it never changes").contains("too few"));
        let noise: Vec<Point> =
            (0..2000).map(|i| (f64::from(i) * 0.01, 50.0 + 9.0 * (f64::from(i) * 2.3).sin())).collect();
        assert!(response(&noise, &wave()).expect_err("noise").contains("do not follow"));
    }
}
