//! What is not comparable, and why: both sides by name, and what differs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::factor::{Factor, Level, document, flat, looks};
use super::ratios::related;
use super::{Combination, Place, Side};

/// Two groups that are not related.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NotCompared {
    /// What is refused.
    pub relation: Relation,
    /// One side.
    pub one: Place,
    /// The other.
    pub other: Place,
    /// What differs and should not.
    pub differences: Vec<Difference>,
    /// Combinations between these two levels to which it applies; `one` and `other` are of the first.
    pub combinations: usize,
}

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Any relation.
    All,
    /// Ratios and ranks of joules, and of the scores that are made of them.
    Energy,
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its path, such as `dataset.fingerprint`, `weights.sha256`, `evaluated`, `budget_bytes`, `energy.domain`.
    pub setting: String,
    /// On the one side; null where it has none.
    pub one: Value,
    /// On the other.
    pub other: Value,
}

/// Everything that is refused, of all combinations (also of those that only one level has).
pub(super) fn refusals(factor: Factor, levels: &[Level], combinations: &[Combination]) -> Vec<NotCompared> {
    let mut out = lookalikes(factor, combinations);
    for (i, one) in levels.iter().enumerate() {
        for (j, other) in levels.iter().enumerate().skip(i + 1) {
            let both: Vec<(&Side, &Side)> =
                combinations.iter().filter_map(|c| Some((c.side(i)?, c.side(j)?))).collect();
            out.extend(if related(one, other) { domains(&both) } else { other_weights(&both) });
        }
    }
    out
}

/// Groups of different levels that a table would show alike, that differ in more than the factor, and of which one is
/// left without its counterpart.
fn lookalikes(factor: Factor, combinations: &[Combination]) -> Vec<NotCompared> {
    let mut alike: BTreeMap<String, Vec<(&Combination, &Side)>> = BTreeMap::new();
    for combination in combinations {
        for side in &combination.sides {
            let looks = looks(factor, &side.settings, side.hardware.as_str());
            alike.entry(looks).or_default().push((combination, side));
        }
    }
    let mut out = Vec::new();
    for members in alike.into_values() {
        for (i, (c, a)) in members.iter().enumerate() {
            for (d, b) in &members[i + 1..] {
                let whole = c.side(b.at).is_some() && d.side(a.at).is_some();
                if a.at == b.at || whole {
                    continue;
                }
                let ((c, one), (d, other)) = if a.at < b.at { ((c, a), (d, b)) } else { ((d, b), (c, a)) };
                out.push(NotCompared {
                    relation: Relation::All,
                    one: one.place(),
                    other: other.place(),
                    differences: differences(&c.shared, &d.shared),
                    combinations: 1,
                });
            }
        }
    }
    out
}

fn differences(one: &Value, other: &Value) -> Vec<Difference> {
    let mut both: BTreeMap<String, (Value, Value)> = BTreeMap::new();
    for (path, value) in flat(one) {
        both.entry(path).or_default().0 = value;
    }
    for (path, value) in flat(other) {
        both.entry(path).or_default().1 = value;
    }
    both.into_iter()
        .filter(|(_, (a, b))| a != b)
        .map(|(setting, (one, other))| Difference { setting, one, other })
        .collect()
}

/// Joules that cover different parts of a machine.
fn domains(both: &[(&Side, &Side)]) -> Option<NotCompared> {
    let domain = |s: &Side| s.training.domain.or(s.inference.domain);
    let apart: Vec<(&Side, &Side)> =
        both.iter().copied().filter(|(a, b)| matches!((domain(a), domain(b)), (Some(x), Some(y)) if x != y)).collect();
    let (a, b) = apart.first()?;
    let name = |s: &Side| serde_json::to_value(domain(s)).unwrap_or_default();
    Some(NotCompared {
        relation: Relation::Energy,
        one: a.place(),
        other: b.place(),
        differences: vec![Difference { setting: "energy.domain".to_owned(), one: name(a), other: name(b) }],
        combinations: apart.len(),
    })
}

/// One backbone from two weights files.
fn other_weights(both: &[(&Side, &Side)]) -> Option<NotCompared> {
    let (a, b) = both.first()?;
    let whole = |s: &Side| document(&s.settings, s.hardware.as_str(), s.evaluated);
    Some(NotCompared {
        relation: Relation::All,
        one: a.place(),
        other: b.place(),
        differences: differences(&whole(a), &whole(b)),
        combinations: both.len(),
    })
}
