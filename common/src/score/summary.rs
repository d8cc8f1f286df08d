//! Mean and spread over seeds and repeats.

use serde::Serialize;

/// Mean, spread and number of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (n − 1); `None` for a single value, which has no spread.
    pub deviation: Option<f64>,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// How many.
    pub n: usize,
}

impl Summary {
    /// Summarises `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Self {
            mean,
            deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            n,
        })
    }

    /// The summary of the same values in another unit, `factor` of which make one of this.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            mean: self.mean * factor,
            deviation: self.deviation.map(|d| d * factor),
            min: self.min * factor,
            max: self.max * factor,
            n: self.n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let s = Summary::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).expect("values");
        assert_eq!((s.mean, s.min, s.max, s.n), (5.0, 2.0, 9.0, 8));
        assert!((s.deviation.expect("a spread") - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Summary::of(&[3.0]).expect("one value").deviation, None);
        assert_eq!(Summary::of(&[]), None);
        let halves = Summary::of(&[1.0, 2.0]).expect("values");
        assert_eq!(Some(halves.scaled(2.0)), Summary::of(&[2.0, 4.0]));
    }
}
