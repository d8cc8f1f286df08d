//! What one level costs in units of another.

use serde::Serialize;

use super::factor::Level;
use super::{Combination, Side};
use crate::compare::Cost;
use crate::record::Reading;

/// What level `other` costs in units of level `one`: 2 is twice as much.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The unit.
    pub one: String,
    /// What is measured in it.
    pub other: String,
    /// Combinations that both levels have.
    pub matched: usize,
    /// Of training.
    pub training: Ratios,
    /// Of inference.
    pub inference: Ratios,
}

/// Ratios of the costs of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratios {
    /// Of wall-clock seconds.
    pub seconds: Reading<Ratio>,
    /// Of joules; only where they cover the same at both levels.
    pub joules: Reading<Ratio>,
    /// Of peak allocator memory.
    pub peak_bytes: Reading<Ratio>,
}

/// A ratio over matched combinations. Each combination counts once, however many trials it has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// exp of the mean logarithm: the mean of ratios that does not depend on which level is the unit.
    pub geometric_mean: f64,
    /// Smallest ratio of a combination.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Combinations that are in it.
    pub combinations: usize,
}

/// Whether two levels may be related at all: other initial weights of one backbone are not another backbone.
pub(super) fn related(one: &Level, other: &Level) -> bool {
    let backbone = |l: &Level| l.key.get("backbone").cloned();
    backbone(one).is_none() || backbone(one) != backbone(other)
}

/// For every two levels that may be related.
pub(super) fn pairs(levels: &[Level], combinations: &[Combination]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (i, one) in levels.iter().enumerate() {
        for (j, other) in levels.iter().enumerate().skip(i + 1).filter(|(_, other)| related(one, other)) {
            let matched: Vec<(&Side, &Side)> =
                combinations.iter().filter_map(|c| Some((c.side(i)?, c.side(j)?))).collect();
            pairs.push(Pair {
                one: one.name.clone(),
                other: other.name.clone(),
                matched: matched.len(),
                training: ratios(&matched, |s| &s.training),
                inference: ratios(&matched, |s| &s.inference),
            });
        }
    }
    pairs
}

fn ratios(matched: &[(&Side, &Side)], cost: fn(&Side) -> &Cost) -> Ratios {
    let costs: Vec<(&Cost, &Cost)> = matched.iter().map(|(a, b)| (cost(a), cost(b))).collect();
    let was = |mean: Option<f64>| mean.ok_or_else(|| "it was not measured".to_owned());
    Ratios {
        seconds: ratio(&costs, |c| was(c.seconds.map(|s| s.mean)), |_, _| true),
        joules: ratio(
            &costs,
            |c| match &c.joules {
                Reading::Measured(joules) => Ok(joules.mean),
                Reading::Unavailable(why) => Err(why.clone()),
            },
            |a, b| a.domain == b.domain,
        ),
        peak_bytes: ratio(&costs, |c| was(c.peak_bytes.map(|s| s.mean)), |_, _| true),
    }
}

/// The geometric mean over the combinations where both means are there and `alike`.
fn ratio(
    costs: &[(&Cost, &Cost)],
    mean: impl Fn(&Cost) -> Result<f64, String>,
    alike: impl Fn(&Cost, &Cost) -> bool,
) -> Reading<Ratio> {
    let one = |a: &Cost, b: &Cost| {
        let (x, y) = (mean(a)?, mean(b)?);
        if !alike(a, b) {
            return Err("the energy of one covers another part of the machine than that of the other".to_owned());
        }
        let ratio = y / x;
        let usable = x > 0.0 && y > 0.0 && ratio.is_finite() && ratio > 0.0;
        if usable { Ok(ratio) } else { Err("a value is zero, and nothing is a multiple of it".to_owned()) }
    };
    let mut found = Vec::new();
    let mut why = None;
    for (a, b) in costs {
        match one(a, b) {
            Ok(ratio) => found.push(ratio),
            Err(reason) => why = why.or(Some(reason)),
        }
    }
    if found.is_empty() {
        return Reading::Unavailable(why.unwrap_or_else(|| "no combination was measured at both".to_owned()));
    }
    let mean_log = found.iter().map(|r| r.ln()).sum::<f64>() / found.len() as f64;
    Reading::Measured(Ratio {
        geometric_mean: mean_log.exp(),
        min: found.iter().copied().fold(f64::INFINITY, f64::min),
        max: found.iter().copied().fold(0.0, f64::max),
        combinations: found.len(),
    })
}
