//! Records → the levels of one factor side by side: hardware against hardware, method against method.
//!
//! Two groups of trials are set against each other only if they share everything but the factor (and seed and repeat):
//! such a set of groups is a combination. What looks alike in a table and differs in its data, its initial weights, the
//! number of evaluated images, its budget or any other setting is not related, and is listed with what differs.
//!
//! | module | what it decides |
//! |---|---|
//! | `factor` | what belongs to a level of the factor, and what must be shared |
//! | `ratios` | the cost of one level in units of another, over the combinations that have both |
//! | `agreement` | whether two hardware classes put combinations into the same order |
//! | `refusals` | what is not comparable, and why |

mod agreement;
mod factor;
mod ratios;
mod refusals;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::example;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::canonical;
use crate::compare::{self, Cost, Failure, Group, Preparation};
use crate::id::HardwareClass;
use crate::plan::CellSettings;
use crate::record::{Outcome, Record};
use crate::score::{Exponents, Summary};

pub use agreement::{Agreement, Measure};
pub use factor::Factor;
pub use ratios::{Pair, Quantity, Ratio, Ratios};
pub use refusals::{Difference, NotCompared, Relation};

/// Name and version of this form, for `--json`.
pub const SCHEMA: &str = "fleet.contrast/1";

/// One factor's levels, set against each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contrast {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What is compared.
    pub factor: Factor,
    /// Exponents of the scores.
    pub exponents: Exponents,
    /// What counts as inference of models that are not trained.
    pub preparation: Preparation,
    /// The levels that completed trials have, in the order in which everything below names them.
    pub levels: Vec<String>,
    /// What was measured at two levels or more.
    pub combinations: Vec<Combination>,
    /// For every two levels, what the second costs in units of the first.
    pub ratios: Vec<Pair>,
    /// For every two hardware classes, whether they rank alike; empty for other factors.
    pub agreement: Vec<Agreement>,
    /// What looks alike and is not comparable.
    pub not_compared: Vec<NotCompared>,
    /// Groups that no other level has anything like.
    pub alone: Vec<Place>,
    /// Trials that did not complete: they are in no mean.
    pub failures: Vec<Failure>,
    /// Records that were given more than once; each counts once.
    pub repeated: usize,
}

/// Groups that share everything but the factor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Combination {
    /// What they share, as settings by name, with `hardware` and `evaluated` among them.
    pub shared: Value,
    /// One per level that has it, in the order of the levels.
    pub sides: Vec<Side>,
}

/// A group of trials at one level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The level.
    pub level: String,
    /// Settings of its trials; the seed is the first trial's.
    pub settings: CellSettings,
    /// Where they ran.
    pub hardware: HardwareClass,
    /// Completed trials.
    pub completed: usize,
    /// Their seeds.
    pub seeds: BTreeSet<u64>,
    /// Parameters that train.
    pub trainable: u64,
    /// Images evaluated per trial.
    pub evaluated: u64,
    /// Top-1 accuracy, percent.
    pub top1_percent: Option<Summary>,
    /// Training: seconds and joules of the window after the warm-up, peak memory of both, scores with those costs.
    pub training: Cost,
    /// Inference over the evaluated images; with what was prepared for it, where [`Contrast::preparation`] says so.
    pub inference: Cost,
    #[serde(skip)]
    at: usize,
}

/// A group, by what names it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// The level.
    pub level: String,
    /// Settings of its trials; the seed is the first trial's.
    pub settings: CellSettings,
    /// Where they ran.
    pub hardware: HardwareClass,
    /// Images evaluated per trial.
    pub evaluated: u64,
}

impl Side {
    fn new(at: usize, level: &str, group: Group) -> Self {
        Self {
            level: level.to_owned(),
            settings: group.settings,
            hardware: group.hardware,
            completed: group.completed,
            seeds: group.seeds,
            trainable: group.trainable,
            evaluated: group.evaluated,
            top1_percent: group.top1_percent,
            training: group.training,
            inference: group.inference,
            at,
        }
    }

    fn place(&self) -> Place {
        Place {
            level: self.level.clone(),
            settings: self.settings.clone(),
            hardware: self.hardware.clone(),
            evaluated: self.evaluated,
        }
    }
}

impl Combination {
    /// The group at a level, by the level's name.
    pub fn at(&self, level: &str) -> Option<&Side> {
        self.sides.iter().find(|s| s.level == level)
    }

    fn side(&self, level: usize) -> Option<&Side> {
        self.sides.iter().find(|s| s.at == level)
    }
}

/// Sets the levels of `factor` against each other. A record that is given more than once counts once.
pub fn contrast<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    factor: Factor,
    exponents: &Exponents,
    preparation: Preparation,
) -> Contrast {
    let (records, repeated) = distinct(records);
    let (completed, others): (Vec<&Record>, Vec<&Record>) =
        records.into_iter().partition(|r| r.outcome == Outcome::Completed);
    let points: Vec<(factor::Point, &Record)> = completed.iter().map(|r| (factor::split(factor, r), *r)).collect();
    let levels = factor::levels(factor, &points);
    let mut found: BTreeMap<String, (Value, BTreeMap<usize, Vec<&Record>>)> = BTreeMap::new();
    for (point, record) in &points {
        let at = levels.iter().position(|l| l.key == point.level).unwrap_or_default();
        let entry = found.entry(canonical::json(&point.rest)).or_insert_with(|| (point.rest.clone(), BTreeMap::new()));
        entry.1.entry(at).or_default().push(record);
    }
    let mut all: Vec<(compare::Order, Combination)> = found
        .into_values()
        .filter_map(|(shared, sides)| {
            let groups: Vec<(usize, Group)> =
                sides.into_iter().map(|(at, records)| (at, compare::group(&records, exponents, preparation))).collect();
            let order = compare::order(&groups.first()?.1);
            let sides = groups.into_iter().map(|(at, group)| Side::new(at, &levels[at].name, group)).collect();
            Some((order, Combination { shared, sides }))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let all: Vec<Combination> = all.into_iter().map(|(_, combination)| combination).collect();
    let not_compared = refusals::refusals(factor, &levels, &all);
    let ratios = ratios::pairs(&levels, &all);
    let agreement = if factor == Factor::Hardware { agreement::agreements(&levels, &all) } else { Vec::new() };
    let named: Vec<&Place> = not_compared.iter().flat_map(|n| [&n.one, &n.other]).collect();
    let alone = all
        .iter()
        .filter(|c| c.sides.len() == 1)
        .map(|c| c.sides[0].place())
        .filter(|place| !named.contains(&place))
        .collect();
    let mut failures: Vec<Failure> = others.into_iter().map(Failure::of).collect();
    failures.sort_by(|a, b| a.trial.cmp(&b.trial));
    Contrast {
        schema: SCHEMA,
        factor,
        exponents: *exponents,
        preparation,
        levels: levels.into_iter().map(|l| l.name).collect(),
        combinations: all.into_iter().filter(|c| c.sides.len() > 1).collect(),
        ratios,
        agreement,
        not_compared,
        alone,
        failures,
        repeated,
    }
}

/// Each record once, and how many stood there again. Equal in everything is what counts: an agent that has served two
/// coordinators may have given the same trial, attempt and name to two measurements.
pub fn distinct<'a>(records: impl IntoIterator<Item = &'a Record>) -> (Vec<&'a Record>, usize) {
    let mut kept: BTreeMap<_, Vec<&Record>> = BTreeMap::new();
    let mut order = Vec::new();
    let mut repeated = 0;
    for record in records {
        let same = kept.entry((&record.trial, record.attempt, &record.machine.agent)).or_default();
        if same.contains(&record) {
            repeated += 1;
        } else {
            same.push(record);
            order.push(record);
        }
    }
    (order, repeated)
}
