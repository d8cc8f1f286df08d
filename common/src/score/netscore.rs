//! NetScore (Wong 2018, arXiv 1806.05512) and its extensions by energy and memory, as works that cite
//! arXiv 2607.02158 implement them.
//!
//! Units are part of the definition, because every one of them shifts the score by a constant: accuracy in percent (a
//! fraction would lower every score by 80), parameters in millions, multiply-accumulates in billions, time in seconds,
//! power in watts, memory in MiB (GiB would add 2.5·log10 1024 = 7.526 to NS-M and NS#).

use serde::{Deserialize, Serialize};

use crate::record::Reading;

/// Exponents of the scores. The defaults are those of the implementations named above; an earlier extension used
/// w = 1/4.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Exponents {
    /// Of the accuracy.
    pub alpha: f64,
    /// Of the parameters, in NS.
    pub beta: f64,
    /// Of the multiply-accumulates, in NS.
    pub gamma: f64,
    /// Of time, power and memory, in NS-E, NS-M and NS#.
    pub w: f64,
}

impl Default for Exponents {
    fn default() -> Self {
        Self { alpha: 2.0, beta: 0.5, gamma: 0.5, w: 0.125 }
    }
}

/// Why a quantity has no score.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoScore {
    /// An input is zero, negative or not finite: its logarithm means nothing.
    #[error("{quantity} is {value}, and only a positive number has a score")]
    NotPositive {
        /// Which.
        quantity: &'static str,
        /// Its value.
        value: f64,
    },
    /// An input was not measured.
    #[error("{0}")]
    NotMeasured(String),
}

/// 20·log10(accuracy^α / ∏ cost^exponent).
fn score(alpha: f64, accuracy_percent: f64, costs: &[(&'static str, f64, f64)]) -> Result<f64, NoScore> {
    let log = |quantity, value: f64| {
        if value.is_finite() && value > 0.0 { Ok(value.log10()) } else { Err(NoScore::NotPositive { quantity, value }) }
    };
    let mut sum = alpha * log("accuracy", accuracy_percent)?;
    for (quantity, value, exponent) in costs {
        sum -= exponent * log(quantity, *value)?;
    }
    Ok(20.0 * sum)
}

/// NS = 20·log10(A^α / (p^β · m^γ)): accuracy in percent, parameters in millions, multiply-accumulates in billions.
///
/// # Errors
/// An input that is not a positive number.
pub fn netscore(e: &Exponents, accuracy_percent: f64, parameters_millions: f64, gmacs: f64) -> Result<f64, NoScore> {
    score(
        e.alpha,
        accuracy_percent,
        &[("parameters", parameters_millions, e.beta), ("multiply-accumulates", gmacs, e.gamma)],
    )
}

/// NS-E = 20·log10(A^α / (t^w · P^w)): time in seconds, mean power in watts.
///
/// # Errors
/// An input that is not a positive number.
pub fn netscore_energy(e: &Exponents, accuracy_percent: f64, seconds: f64, watts: f64) -> Result<f64, NoScore> {
    score(e.alpha, accuracy_percent, &[("time", seconds, e.w), ("power", watts, e.w)])
}

/// NS-M = 20·log10(A^α / r^w): peak memory in MiB.
///
/// # Errors
/// An input that is not a positive number.
pub fn netscore_memory(e: &Exponents, accuracy_percent: f64, peak_mib: f64) -> Result<f64, NoScore> {
    score(e.alpha, accuracy_percent, &[("peak memory", peak_mib, e.w)])
}

/// NS# = 20·log10(A^α / (r^w · t^w · P^w)).
///
/// # Errors
/// An input that is not a positive number.
pub fn netscore_all(
    e: &Exponents,
    accuracy_percent: f64,
    peak_mib: f64,
    seconds: f64,
    watts: f64,
) -> Result<f64, NoScore> {
    score(e.alpha, accuracy_percent, &[("peak memory", peak_mib, e.w), ("time", seconds, e.w), ("power", watts, e.w)])
}

/// All four scores of one trial; each is a number or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// NS.
    pub ns: Reading<f64>,
    /// NS-E.
    pub ns_e: Reading<f64>,
    /// NS-M.
    pub ns_m: Reading<f64>,
    /// NS#.
    pub ns_sharp: Reading<f64>,
}

/// The costs that one set of scores is about: of training, or of inference.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Costs {
    pub accuracy_percent: f64,
    pub parameters_millions: f64,
    pub gmacs: f64,
    pub seconds: f64,
    pub peak_mib: f64,
    pub watts: Reading<f64>,
}

impl Scores {
    /// The family for one trial.
    pub(crate) fn of(e: &Exponents, c: &Costs) -> Self {
        let reading = |score: Result<f64, NoScore>| match score {
            Ok(value) => Reading::Measured(value),
            Err(why) => Reading::Unavailable(why.to_string()),
        };
        let watts = || match &c.watts {
            Reading::Measured(watts) => Ok(*watts),
            Reading::Unavailable(why) => Err(NoScore::NotMeasured(why.clone())),
        };
        Self {
            ns: reading(netscore(e, c.accuracy_percent, c.parameters_millions, c.gmacs)),
            ns_e: reading(watts().and_then(|w| netscore_energy(e, c.accuracy_percent, c.seconds, w))),
            ns_m: reading(netscore_memory(e, c.accuracy_percent, c.peak_mib)),
            ns_sharp: reading(watts().and_then(|w| netscore_all(e, c.accuracy_percent, c.peak_mib, c.seconds, w))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_row_of_vit_small() {
        // Full fine-tuning of ViT-S on CIFAR-100, arXiv 2607.02158 Table V; the scores to ten digits are recomputed.
        let (e, a, t, p, r) = (Exponents::default(), 89.7, 21.3, 144.2, 1084.0);
        let near =
            |x: Result<f64, NoScore>, y: f64| assert!((x.clone().expect("a score") - y).abs() < 1e-9, "{x:?} {y}");
        near(netscore_energy(&e, a, t, p), 69.393_335_562_2);
        near(netscore_memory(&e, a, r), 70.524_124_516_3);
        near(netscore_all(&e, a, r, t, p), 61.805_762_356_7);
    }

    #[test]
    fn the_other_published_rows() {
        let e = Exponents::default();
        for (a, t, p, r, ns_e, ns_m, ns_sharp) in [
            (65.1, 78.878, 44.32, 214.0, 63.68, 66.72, 57.86),
            (67.1, 164.436, 54.70, 324.0, 63.18, 66.79, 56.91),
            (69.5, 604.281, 58.59, 2156.0, 62.31, 65.35, 53.97),
            (61.1, 229.964, 56.31, 1250.0, 61.16, 63.70, 53.42),
        ] {
            let rounds = |x: Result<f64, NoScore>, y: f64| assert!((x.expect("a score") - y).abs() < 0.005 + 1e-9);
            rounds(netscore_energy(&e, a, t, p), ns_e);
            rounds(netscore_memory(&e, a, r), ns_m);
            rounds(netscore_all(&e, a, r, t, p), ns_sharp);
        }
    }

    #[test]
    fn units_shift_scores_by_the_stated_constants() {
        let e = Exponents::default();
        let of = |a: f64, mib: f64, s: f64| netscore_all(&e, a, mib, s, 100.0).expect("a score");
        assert!((of(80.0, 2048.0, 10.0) - of(0.8, 2048.0, 10.0) - 80.0).abs() < 1e-9);
        assert!((of(80.0, 2.0, 10.0) - of(80.0, 2048.0, 10.0) - 7.526).abs() < 1e-3);
        assert!((of(80.0, 2048.0, 10.0) - of(80.0, 2048.0, 10_000.0) - 7.5).abs() < 1e-9);
    }

    #[test]
    fn ns_by_hand() {
        // 100 percent, 1 million parameters, 1 GMAC: 20·log10(100²) = 80.
        assert_eq!(netscore(&Exponents::default(), 100.0, 1.0, 1.0), Ok(80.0));
    }

    #[test]
    fn what_has_no_logarithm_has_no_score() {
        let e = Exponents::default();
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(netscore_memory(&e, bad, 1.0), Err(NoScore::NotPositive { quantity: "accuracy", .. })));
            assert!(matches!(netscore_memory(&e, 1.0, bad), Err(NoScore::NotPositive { quantity: "peak memory", .. })));
        }
        let costs = Costs {
            accuracy_percent: 50.0,
            parameters_millions: 1.0,
            gmacs: 1.0,
            seconds: 1.0,
            peak_mib: 100.0,
            watts: Reading::Unavailable("no meter".into()),
        };
        let scores = Scores::of(&e, &costs);
        assert_eq!(scores.ns_e, Reading::Unavailable("no meter".into()));
        assert_eq!(scores.ns_sharp, Reading::Unavailable("no meter".into()));
        assert!(scores.ns.value().is_some() && scores.ns_m.value().is_some());
    }
}
