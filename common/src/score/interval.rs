//! Intervals around means of energies, and around the scores that rest on them.
//!
//! Two terms, independent of each other: what trials differ by from run to run (Student's t, 95 %, from five trials on:
//! fewer say little about their own spread), and how far the meter may be off (its sensor, and the edges of windows).
//! The sensor's is the same for all trials on one device, so it does not shrink with their number, and it cancels where
//! combinations on one device are compared.

use serde::Serialize;

use super::Summary;

/// From so many trials on a spread is taken for an interval.
pub const ENOUGH_FOR_AN_INTERVAL: usize = 5;

/// Where a mean lies, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether the run-to-run term is in it; with fewer than five trials it is not, and the interval is the meter's alone.
    pub run_to_run: bool,
}

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal's is within 2 %.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Half the width of the 95 % interval of a mean by its own trials; `None` with fewer than five.
pub fn run_to_run(summary: &Summary) -> Option<f64> {
    let deviation = summary.deviation.filter(|_| summary.n >= ENOUGH_FOR_AN_INTERVAL)?;
    let t = T.get(summary.n - 2).copied().unwrap_or(1.96);
    Some(t * deviation / (summary.n as f64).sqrt())
}

/// The interval around a mean of which a meter's error is the half width `meter`, in the same unit.
pub fn around(summary: &Summary, meter: f64) -> Interval {
    let runs = run_to_run(summary);
    let half = meter.hypot(runs.unwrap_or(0.0));
    Interval { low: summary.mean - half, high: summary.mean + half, run_to_run: runs.is_some() }
}

/// What an energy that may be off by the share `relative` does to a score with energy in the denominator to the power
/// `exponent`, as a half width in the score's decibels: 20·exponent·log₁₀(1 + relative).
pub fn decibels(relative: f64, exponent: f64) -> f64 {
    20.0 * exponent * (1.0 + relative).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_trials_make_an_interval_and_four_do_not() {
        let five = Summary::of(&[98.0, 99.0, 100.0, 101.0, 102.0]).expect("values");
        // Standard deviation 1.5811, standard error 0.7071, t(4) = 2.776.
        assert!((run_to_run(&five).expect("five") - 1.963).abs() < 1e-3);
        let interval = around(&five, 5.0);
        assert!((interval.high - interval.low - 2.0 * 5.0f64.hypot(1.963)).abs() < 1e-3 && interval.run_to_run);
        let four = Summary::of(&[98.0, 99.0, 100.0, 101.0]).expect("values");
        assert_eq!(run_to_run(&four), None);
        assert_eq!(around(&four, 5.0), Interval { low: 94.5, high: 104.5, run_to_run: false });
        let many: Vec<f64> = (0..200).map(f64::from).collect();
        assert!(run_to_run(&Summary::of(&many).expect("values")).is_some());
    }

    #[test]
    fn an_energy_that_is_off_moves_a_score_by_its_logarithm() {
        // NS-E = 20·log₁₀(A² / E^w): w = 1/8 and 12.7 % more energy.
        let score = |joules: f64| 20.0 * (80.0f64.powi(2) / joules.powf(0.125)).log10();
        assert!((score(1000.0) - score(1127.0) - decibels(0.127, 0.125)).abs() < 1e-12);
        assert_eq!(decibels(0.0, 0.125), 0.0);
    }
}
