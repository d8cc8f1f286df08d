//! What one level costs in units of another.

use serde::Serialize;

use super::factor::Level;
use super::{Combination, Side};
use crate::compare::Cost;
use crate::record::Reading;
use crate::score::Summary;

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

/// Ratios of the costs of training or of inference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratios {
    /// Of wall-clock seconds.
    pub seconds: Reading<Ratio>,
    /// Of joules; only where they cover the same at both levels.
    pub joules: Reading<Ratio>,
    /// Of peak allocator memory.
    pub peak_bytes: Reading<Ratio>,
}

impl Ratios {
    /// The ratio of one quantity.
    pub fn of(&self, quantity: Quantity) -> &Reading<Ratio> {
        match quantity {
            Quantity::Seconds => &self.seconds,
            Quantity::Joules => &self.joules,
            Quantity::PeakBytes => &self.peak_bytes,
        }
    }
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
    /// Of energies: how far the two levels' meters may be off against each other, relative to the ratio. 0 where one
    /// device measured both, because its error cancels; absent for other quantities, and where nothing is known of a meter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meters_error: Option<f64>,
}

impl Ratio {
    /// Whether the meters alone could make the difference: a ratio that says nothing about the levels.
    pub fn is_within_meters_error(&self) -> bool {
        self.meters_error.is_some_and(|error| self.geometric_mean.ln().abs() <= (1.0 + error).ln())
    }
}

/// How far two costs' meters may be off against each other.
fn meters_error(one: &Cost, other: &Cost) -> Option<f64> {
    Some(one.energy_error.as_ref()?.against(other.energy_error.as_ref()?))
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

/// A cost that is set in relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Wall-clock time.
    Seconds,
    /// Energy.
    Joules,
    /// Peak allocator memory.
    PeakBytes,
}

impl Quantity {
    /// Every quantity.
    pub const ALL: [Self; 3] = [Self::Seconds, Self::Joules, Self::PeakBytes];

    fn of(self, cost: &Cost) -> Result<&Summary, String> {
        match (self, &cost.joules) {
            (Self::Seconds, _) => cost.seconds.as_ref().ok_or_else(|| "it was not measured".to_owned()),
            (Self::PeakBytes, _) => cost.peak_bytes.as_ref().ok_or_else(|| "it was not measured".to_owned()),
            (Self::Joules, Reading::Measured(joules)) => Ok(joules),
            (Self::Joules, Reading::Unavailable(why)) => Err(why.clone()),
        }
    }

    /// Both costs of one combination, where the second may be given as a multiple of the first.
    ///
    /// # Errors
    /// Why not, in words for a reader.
    pub fn both<'a>(self, one: &'a Cost, other: &'a Cost) -> Result<(&'a Summary, &'a Summary), String> {
        let (a, b) = (self.of(one)?, self.of(other)?);
        if self == Self::Joules && one.domain != other.domain {
            return Err("the energy of one covers another part of the machine than that of the other".to_owned());
        }
        let ratio = b.mean / a.mean;
        let usable = a.mean > 0.0 && b.mean > 0.0 && ratio.is_finite() && ratio > 0.0;
        if usable { Ok((a, b)) } else { Err("a value is zero, and nothing is a multiple of it".to_owned()) }
    }
}

fn ratios(matched: &[(&Side, &Side)], cost: fn(&Side) -> &Cost) -> Ratios {
    let costs: Vec<(&Cost, &Cost)> = matched.iter().map(|(a, b)| (cost(a), cost(b))).collect();
    Ratios {
        seconds: ratio(&costs, Quantity::Seconds),
        joules: ratio(&costs, Quantity::Joules),
        peak_bytes: ratio(&costs, Quantity::PeakBytes),
    }
}

/// The geometric mean over the combinations where both may be related.
fn ratio(costs: &[(&Cost, &Cost)], quantity: Quantity) -> Reading<Ratio> {
    let mut found = Vec::new();
    let mut why = None;
    let mut meters = (quantity == Quantity::Joules).then_some(0.0);
    for (a, b) in costs {
        match quantity.both(a, b) {
            Ok((one, other)) => {
                found.push(other.mean / one.mean);
                meters = meters.zip(meters_error(a, b)).map(|(most, this): (f64, f64)| most.max(this));
            }
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
        meters_error: meters,
    })
}
