//! Whether two hardware classes put the same combinations into the same order.
//!
//! Only what may be ranked on one machine is: combinations that share everything but method, backbone and checkpointing
//! (with the learning rate, input size and weights file that go with those). Other steps, other data or another budget
//! make another ranking, with an agreement of its own.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::factor::{Level, take, weights_hash};
use super::{Combination, Side};
use crate::canonical;
use crate::compare::Cost;
use crate::record::Reading;
use crate::score::kendall_tau_b;

/// How alike two hardware classes rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// One class.
    pub one: String,
    /// The other.
    pub other: String,
    /// What the ranked combinations share, as settings by name.
    pub shared: Value,
    /// Combinations that both classes have.
    pub combinations: usize,
    /// Kendall's tau-b of each quantity.
    pub measures: Vec<Measure>,
}

/// The agreement on one quantity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measure {
    /// Which: a path into a [`Side`].
    pub measure: &'static str,
    /// Combinations that have it at both classes.
    pub combinations: usize,
    /// Kendall's tau-b of the combinations' means, from −1 to 1.
    pub tau_b: Reading<f64>,
}

/// Groups of one combination at both classes.
type Matched<'a> = Vec<(&'a Side, &'a Side)>;
type Value64 = Result<f64, String>;
/// Name, whether it is made of joules, and its value.
type Quantity = (&'static str, Option<fn(&Side) -> &Cost>, fn(&Side) -> Value64);

fn known(mean: Option<f64>) -> Value64 {
    mean.ok_or_else(|| "it was not measured".to_owned())
}

fn mean(reading: &Reading<crate::score::Summary>) -> Value64 {
    match reading {
        Reading::Measured(s) => Ok(s.mean),
        Reading::Unavailable(why) => Err(why.clone()),
    }
}

const TRAINING: fn(&Side) -> &Cost = |s| &s.training;
const INFERENCE: fn(&Side) -> &Cost = |s| &s.inference;

/// Everything that is ranked.
const QUANTITIES: [Quantity; 14] = [
    ("top1_percent", None, |s| known(s.top1_percent.map(|t| t.mean))),
    ("training.seconds", None, |s| known(s.training.seconds.map(|t| t.mean))),
    ("training.joules", Some(TRAINING), |s| mean(&s.training.joules)),
    ("training.peak_bytes", None, |s| known(s.training.peak_bytes.map(|t| t.mean))),
    ("training.scores.ns", None, |s| mean(&s.training.scores.ns)),
    ("training.scores.ns_e", Some(TRAINING), |s| mean(&s.training.scores.ns_e)),
    ("training.scores.ns_m", None, |s| mean(&s.training.scores.ns_m)),
    ("training.scores.ns_sharp", Some(TRAINING), |s| mean(&s.training.scores.ns_sharp)),
    ("inference.seconds", None, |s| known(s.inference.seconds.map(|t| t.mean))),
    ("inference.joules", Some(INFERENCE), |s| mean(&s.inference.joules)),
    ("inference.peak_bytes", None, |s| known(s.inference.peak_bytes.map(|t| t.mean))),
    ("inference.scores.ns_e", Some(INFERENCE), |s| mean(&s.inference.scores.ns_e)),
    ("inference.scores.ns_m", None, |s| mean(&s.inference.scores.ns_m)),
    ("inference.scores.ns_sharp", Some(INFERENCE), |s| mean(&s.inference.scores.ns_sharp)),
];

/// For every two classes and everything that they both have.
pub(super) fn agreements(levels: &[Level], combinations: &[Combination]) -> Vec<Agreement> {
    let mut out = Vec::new();
    for (i, one) in levels.iter().enumerate() {
        for (j, other) in levels.iter().enumerate().skip(i + 1) {
            let mut rankings: BTreeMap<String, (Value, Matched<'_>)> = BTreeMap::new();
            for combination in combinations {
                if let (Some(a), Some(b)) = (combination.side(i), combination.side(j)) {
                    let shared = ranked_together(&combination.shared);
                    let entry = rankings.entry(canonical::json(&shared)).or_insert_with(|| (shared, Vec::new()));
                    entry.1.push((a, b));
                }
            }
            out.extend(rankings.into_values().map(|(shared, matched)| Agreement {
                one: one.name.clone(),
                other: other.name.clone(),
                shared,
                combinations: matched.len(),
                measures: QUANTITIES.iter().map(|q| measure(q, &matched)).collect(),
            }));
        }
    }
    out
}

/// What combinations must share to be ranked together.
fn ranked_together(shared: &Value) -> Value {
    let mut shared = shared.clone();
    for path in [
        &["method"][..],
        &["train", "learning_rate"],
        &["backbone"],
        &["image_size"],
        &["weights", "sha256"],
        &["checkpointing"],
    ] {
        take(&mut shared, path);
    }
    shared
}

fn measure((name, energy, value): &Quantity, matched: &[(&Side, &Side)]) -> Measure {
    let unavailable =
        |why: String, combinations| Measure { measure: name, combinations, tau_b: Reading::Unavailable(why) };
    if let Some(backbone) = several_weights(matched) {
        return unavailable(format!("{backbone} began from different weights, which are not ranked together"), 0);
    }
    if let Some(cost) = energy
        && matched.iter().any(|(a, b)| matches!((cost(a).domain, cost(b).domain), (Some(x), Some(y)) if x != y))
    {
        return unavailable("the energy of one covers another part of the machine than that of the other".into(), 0);
    }
    let mut pairs = Vec::new();
    let mut why = None;
    for (a, b) in matched {
        match (value(a), value(b)) {
            (Ok(a), Ok(b)) => pairs.push((rounded(a), rounded(b))),
            (Err(reason), _) | (_, Err(reason)) => why = why.or(Some(reason)),
        }
    }
    match (kendall_tau_b(&pairs), why) {
        (Ok(tau), _) => Measure { measure: name, combinations: pairs.len(), tau_b: Reading::Measured(tau) },
        (Err(_), Some(why)) if pairs.is_empty() => unavailable(why, 0),
        (Err(none), _) => unavailable(none.to_string(), pairs.len()),
    }
}

/// A backbone that occurs with more than one weights file.
fn several_weights(matched: &[(&Side, &Side)]) -> Option<&'static str> {
    let mut first: BTreeMap<&'static str, Option<&str>> = BTreeMap::new();
    matched.iter().map(|(side, _)| &side.settings).find_map(|s| {
        let hash = weights_hash(s);
        let known = *first.entry(s.backbone.name()).or_insert(hash);
        (known != hash).then(|| s.backbone.name())
    })
}

/// To twelve digits: means of the same values in another order may differ in the last of sixteen, and are a tie.
fn rounded(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}
