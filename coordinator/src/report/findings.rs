//! What a block shows, in sentences computed from the records and no stronger than they are.
//!
//! An order of two combinations counts as established where each has at least [`ENOUGH`] trials and their ranges do
//! not touch. Three trials each do that by chance once in ten, in either order: weak, but it assumes nothing about the
//! distribution, and anyone can check it in the table. Everything else carries a hedge.

use std::collections::BTreeMap;

use fleet_common::record::OutcomeClass;
use fleet_common::score::Summary;
use fleet_common::spec::{Checkpointing, Method};

use super::blocks::{Block, Row, brief, same_but_seed};
use super::numbers::{accuracy_decimals, fixed, listed, mib, plural, significant, spread};
use super::settings::{self, Flat};

/// Trials from which a spread is taken for one.
const ENOUGH: usize = 3;
/// Things that a sentence names; more would make a list of it.
const NAMED: usize = 3;

/// What the block shows: the most accurate, what methods and checkpointing save, and what did not run to its end.
pub(super) fn findings(block: &Block<'_>) -> Vec<String> {
    let telling = Telling { block, few: block.rows.iter().all(|r| r.group.completed < ENOUGH) };
    let mut sentences: Vec<String> =
        [telling.most_accurate(), telling.methods(), telling.checkpointing()].into_iter().flatten().collect();
    if telling.few && !sentences.is_empty() {
        sentences.push("With fewer than 3 trials of a combination the spread is not established.".to_owned());
    }
    sentences.extend(telling.without_result());
    sentences
}

/// Whether an order of means is more than the luck of seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Established,
    Overlapping,
    TooFew,
}

fn order(a: &Summary, b: &Summary) -> Order {
    if a.n < ENOUGH || b.n < ENOUGH {
        Order::TooFew
    } else if a.min > b.max || b.min > a.max {
        Order::Established
    } else {
        Order::Overlapping
    }
}

struct Telling<'b, 'a> {
    block: &'b Block<'a>,
    /// No combination has enough trials: that is said once, not with every number.
    few: bool,
}

impl<'b, 'a> Telling<'b, 'a> {
    fn most_accurate(&self) -> Option<String> {
        let rows: Vec<(&Row<'_>, Summary)> =
            self.block.rows.iter().filter_map(|r| Some((r, r.group.top1_percent?))).collect();
        let top = rows.iter().map(|(_, s)| s.mean).reduce(f64::max)?;
        let (best, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, s)| s.mean >= top);
        let (first, summary) = best.first()?;
        let digits = accuracy_decimals(first.group.evaluated);
        let equal = best.iter().all(|(_, s)| s == summary);
        let value = match summary.deviation {
            Some(d) if equal => format!("{} ± {} %, n = {}", fixed(top, digits), spread(d, digits), summary.n),
            None if equal => format!("{} %, n = 1", fixed(top, digits)),
            _ => format!("{} %", fixed(top, digits)),
        };
        let names = named(&best.iter().map(|(r, _)| r.label.clone()).collect::<Vec<_>>());
        let one = best.len() == 1;
        if rest.is_empty() {
            return Some(match one {
                true => format!("{names} reached a top-1 accuracy of {value}."),
                false => format!("{names} reached the same mean top-1 accuracy: {value}."),
            });
        }
        let against = |s: &Summary| best.iter().map(|(_, b)| order(b, s)).max().unwrap_or(Order::TooFew);
        let near = |wanted: Order| -> Vec<String> {
            rest.iter().filter(|(_, s)| against(s) == wanted).map(|(r, _)| r.label.clone()).collect()
        };
        let (few, overlapping) = (near(Order::TooFew), near(Order::Overlapping));
        let (their, are) = if one { ("its", "it is") } else { ("their", "they are") };
        let hedge = if self.few {
            String::new()
        } else if !few.is_empty() {
            "; some combinations have fewer than 3 trials and no established spread, so the order may change".to_owned()
        } else if !overlapping.is_empty() {
            let who = named(&overlapping);
            format!("; {their} range overlaps that of {who}, so {are} not established as the best")
        } else {
            format!("; each of {their} trials is above every trial of the others")
        };
        let verb = if one { "reached" } else { "share" };
        Some(format!("{names} {verb} the highest mean top-1 accuracy ({value}){hedge}."))
    }

    /// Full fine-tuning and the methods that differ from it in nothing else.
    fn methods(&self) -> Option<String> {
        // The learning rate belongs to the method: the protocol has one for full fine-tuning and one for the others.
        let full = |r: &Row<'_>| r.group.settings.method.method() == Method::Full;
        let (full, mut others) = self.reference(full, &["method.", "train.learning_rate"])?;
        others.sort_by(|a, b| peak(b).total_cmp(&peak(a)));
        let clauses = others.iter().rev().take(NAMED).rev().filter_map(|row| {
            let name = row.group.settings.method.method().name();
            let energy = self.energy_change(full, row).map(|e| format!(" and {e}")).unwrap_or_default();
            let memory = self.memory_change(full, row)?;
            Some(format!("{name} needed {memory}{energy}, at {}", self.accuracy_change(full, row)?))
        });
        let clauses: Vec<String> = clauses.collect();
        let settings = &full.group.settings;
        let backbone = match self.block.several_backbones() {
            true => format!("{} and ", settings::brief_backbone(settings.backbone.name())),
            false => String::new(),
        };
        (!clauses.is_empty()).then(|| {
            format!(
                "Next to full fine-tuning (with {backbone}checkpointing {} throughout), {}.",
                settings.checkpointing.name(),
                clauses.join("; ")
            )
        })
    }

    /// No checkpointing, and the strategy that saves most.
    fn checkpointing(&self) -> Option<String> {
        let none = |r: &Row<'_>| r.group.settings.checkpointing == Checkpointing::None;
        let (none, others) = self.reference(none, &["checkpointing"])?;
        let other = others.into_iter().min_by(|a, b| peak(a).total_cmp(&peak(b)))?;
        let time = match (none.group.training.seconds, other.group.training.seconds) {
            (Some(a), Some(b)) => format!(" and {}", self.change(&a, &b, "training time", None)),
            _ => String::new(),
        };
        Some(format!(
            "{} checkpointing left {} with {}{time}, at {}.",
            capital(other.group.settings.checkpointing.name()),
            none.label,
            self.memory_change(none, other)?,
            self.accuracy_change(none, other)?
        ))
    }

    /// Combinations that ended in a result other than an accuracy: leaving them out of the sentences would hide it.
    fn without_result(&self) -> Option<String> {
        let mut ended: BTreeMap<(OutcomeClass, String), (u64, u64)> = BTreeMap::new();
        for failure in self.block.failures.iter().filter(|f| f.outcome.kind().is_result()) {
            let name = brief(&failure.settings, true);
            let entry = ended.entry((failure.outcome.kind(), name)).or_default();
            entry.0 += 1;
            let same = |s| same_but_seed(s, &failure.settings);
            let completed: usize =
                self.block.rows.iter().filter(|r| same(&r.group.settings)).map(|r| r.group.completed).sum();
            let failed = self.block.failures.iter().filter(|f| same(&f.settings)).count();
            entry.1 = (completed + failed) as u64;
        }
        let clauses: Vec<String> = ended
            .into_iter()
            .map(|((class, name), (n, of))| format!("{name} {} ({n} of {})", class.name(), plural(of, "trial")))
            .collect();
        (!clauses.is_empty()).then(|| format!("Outside the means: {}.", named(&clauses)))
    }

    /// The combination that others are set against, and those that differ from it in the settings under `differing` and
    /// in no others. Of several such, the one on the backbone and weights that did best.
    fn reference(
        &self,
        wanted: impl Fn(&Row<'_>) -> bool,
        differing: &[&str],
    ) -> Option<(&'b Row<'a>, Vec<&'b Row<'a>>)> {
        let rest = |row: &Row<'_>| -> Flat {
            let mut flat = settings::flat(&row.group.settings);
            flat.retain(|path, _| !differing.iter().any(|d| path.starts_with(d)));
            flat
        };
        let rows: Vec<(&'b Row<'a>, Flat)> = self.block.rows.iter().map(|r| (r, rest(r))).collect();
        let accuracy = |r: &Row<'_>| r.group.top1_percent.map_or(f64::NEG_INFINITY, |s| s.mean);
        let best = self.block.rows.iter().max_by(|a, b| accuracy(a).total_cmp(&accuracy(b)))?;
        rows.iter()
            .filter(|(row, _)| wanted(row))
            .map(|(row, flat)| {
                let alike = rows.iter().filter(|(other, f)| !wanted(other) && f == flat);
                (*row, alike.map(|(other, _)| *other).collect::<Vec<_>>())
            })
            .filter(|(_, others)| !others.is_empty())
            .min_by_key(|(row, _)| {
                let (s, b) = (&row.group.settings, &best.group.settings);
                (s.backbone != b.backbone, s.weights != b.weights, s.method.method(), s.checkpointing)
            })
    }

    fn memory_change(&self, from: &Row<'_>, to: &Row<'_>) -> Option<String> {
        let (a, b) = (from.group.training.peak_bytes?, to.group.training.peak_bytes?);
        let values = format!("{} → {} MiB", significant(mib(a.mean), 3), significant(mib(b.mean), 3));
        Some(self.change(&a, &b, "peak memory", Some(values)))
    }

    /// Joules of training, where both were measured in the same way.
    fn energy_change(&self, from: &Row<'_>, to: &Row<'_>) -> Option<String> {
        let (a, b) = (&from.group.training, &to.group.training);
        let (x, y) = (a.joules.value()?, b.joules.value()?);
        let values = format!("{} → {} J", significant(x.mean, 3), significant(y.mean, 3));
        let meters = a.energy_error.as_ref().zip(b.energy_error.as_ref()).map_or(0.0, |(a, b)| a.against(b));
        let within = meters > 0.0 && (y.mean / x.mean).ln().abs() <= (1.0 + meters).ln();
        let hedge =
            within.then(|| format!("; not established, as the meters may differ by {} %", fixed(meters * 100.0, 0)));
        let values = values + &hedge.unwrap_or_default();
        (a.domain == b.domain).then(|| self.change(x, y, "training energy", Some(values)))
    }

    /// "41 % less peak memory (412 → 243 MiB)", with what weakens it.
    fn change(&self, from: &Summary, to: &Summary, noun: &str, values: Option<String>) -> String {
        let percent = 100.0 * (to.mean / from.mean - 1.0);
        let (text, hedge) = match percent {
            p if !p.is_finite() => (format!("an unknown change of {noun}"), None),
            p if p.abs() < 0.5 => (format!("about the same {noun}"), None),
            p => {
                let word = if p < 0.0 { "less" } else { "more" };
                (format!("{} % {word} {noun}", fixed(p.abs(), 0)), self.hedge(order(from, to)))
            }
        };
        in_brackets(text, values.into_iter().chain(hedge.map(str::to_owned)))
    }

    fn accuracy_change(&self, from: &Row<'_>, to: &Row<'_>) -> Option<String> {
        let (a, b) = (from.group.top1_percent?, to.group.top1_percent?);
        let points = b.mean - a.mean;
        let text = match points {
            0.0 => "the same accuracy".to_owned(),
            p => {
                let word = if p < 0.0 { "less" } else { "more" };
                format!("{} points {word} accuracy", spread(p.abs(), accuracy_decimals(from.group.evaluated)))
            }
        };
        let order = order(&a, &b);
        let hedge = if points == 0.0 && order == Order::Overlapping { None } else { self.hedge(order) };
        Some(in_brackets(text, hedge.map(str::to_owned).into_iter()))
    }

    fn hedge(&self, order: Order) -> Option<&'static str> {
        match order {
            Order::Established => None,
            Order::Overlapping => Some("the ranges overlap"),
            Order::TooFew => (!self.few).then_some("n < 3"),
        }
    }
}

fn peak(row: &Row<'_>) -> f64 {
    row.group.training.peak_bytes.map_or(f64::INFINITY, |s| s.mean)
}

fn in_brackets(text: String, remarks: impl Iterator<Item = String>) -> String {
    let remarks: Vec<String> = remarks.collect();
    if remarks.is_empty() { text } else { format!("{text} ({})", remarks.join("; ")) }
}

/// The first few, and how many more there are.
fn named(items: &[String]) -> String {
    // One more than that is named too: "and 1 more" is no shorter.
    if items.len() <= NAMED + 1 {
        return listed(items);
    }
    format!("{} and {} more", items[..NAMED].join(", "), items.len() - NAMED)
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
