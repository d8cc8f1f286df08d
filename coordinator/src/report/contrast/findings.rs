//! The sentences at the top of a comparison's page: the ratios, how alike the orders are, and what stands outside.

use fleet_common::contrast::{Agreement, Contrast, Pair, Quantity};
use fleet_common::record::Reading;

use super::words::rankings;
use crate::report::numbers::{fixed, listed, plural, significant};

/// Trials from which a spread is taken for one, as in the report.
const ENOUGH: usize = 3;
/// Pairs of levels that are told; the tables have all of them.
const TOLD: usize = 6;

/// Each with a title.
pub(in crate::report) fn findings(contrast: &Contrast) -> Vec<(String, Vec<String>)> {
    let matched: Vec<&Pair> = contrast.ratios.iter().filter(|p| p.matched > 0).collect();
    let mut out: Vec<(String, Vec<String>)> = matched
        .iter()
        .take(TOLD)
        .map(|pair| (format!("{} in units of {}", pair.other, pair.one), vec![ratios(pair)]))
        .collect();
    if matched.len() > TOLD {
        let more = matched.len() - TOLD;
        out.push(("And".to_owned(), vec![format!("{} in the table of ratios.", plural(more as u64, "more pair"))]));
    }
    for (agreement, on) in contrast.agreement.iter().zip(rankings(&contrast.agreement)).take(TOLD) {
        let title = format!("Order of combinations on {} and {}, {on}", agreement.one, agreement.other);
        out.push((title, vec![orders(agreement)]));
    }
    let caveats: Vec<String> = [few(contrast), unpaired(contrast), outside(contrast)].into_iter().flatten().collect();
    if !caveats.is_empty() {
        out.push(("To be kept in mind".to_owned(), caveats));
    }
    out
}

/// "training time 0.0713 (0.0709 to 0.0716), …, over 6 combinations."
fn ratios(pair: &Pair) -> String {
    let noun = |quantity| match quantity {
        Quantity::Seconds => "training time",
        Quantity::Joules => "training energy",
        Quantity::PeakBytes => "peak training memory",
    };
    let (mut told, mut absent) = (Vec::new(), Vec::new());
    for quantity in [Quantity::Seconds, Quantity::PeakBytes, Quantity::Joules] {
        match pair.training.of(quantity) {
            Reading::Measured(r) => {
                let fewer = match r.combinations < pair.matched {
                    true => format!(", over {} of them", r.combinations),
                    false => String::new(),
                };
                let (mean, range) = (significant(r.geometric_mean, 3), (significant(r.min, 3), significant(r.max, 3)));
                let meters = super::words::meters(r).map_or(String::new(), |words| format!("; {words}"));
                told.push(format!("{} {mean} ({} to {}{fewer}{meters})", noun(quantity), range.0, range.1));
            }
            Reading::Unavailable(why) => absent.push(format!("{} not available: {why}", noun(quantity))),
        }
    }
    let over = plural(pair.matched as u64, "combination");
    let told = match told.is_empty() {
        true => format!("nothing can be related over {over}"),
        false => format!("{}, geometric mean over {over}", listed(&told)),
    };
    format!("{}.", [vec![told], absent].concat().join("; "))
}

fn orders(agreement: &Agreement) -> String {
    let shown = [
        ("accuracy", "top1_percent"),
        ("training time", "training.seconds"),
        ("peak training memory", "training.peak_bytes"),
        ("training energy", "training.joules"),
        ("NS#", "training.scores.ns_sharp"),
    ];
    let tau = |path: &str| agreement.measures.iter().find(|m| m.measure == path).map(|m| &m.tau_b);
    let (mut told, mut absent) = (Vec::new(), Vec::new());
    for (name, path) in shown {
        match tau(path) {
            Some(Reading::Measured(tau)) => told.push(format!("{name} {}", fixed(*tau, 2))),
            _ => absent.push(name.to_owned()),
        }
    }
    let over = plural(agreement.combinations as u64, "combination");
    let told = match told.is_empty() {
        true => format!("no rank agreement can be given over {over}"),
        false => format!("Kendall's tau-b over {over}: {}", listed(&told)),
    };
    match absent.is_empty() {
        true => format!("{told}."),
        false => format!("{told}; not available for {}.", listed(&absent)),
    }
}

/// Too few trials for a spread.
fn few(contrast: &Contrast) -> Option<String> {
    let sides: Vec<usize> = contrast.combinations.iter().flat_map(|c| &c.sides).map(|s| s.completed).collect();
    let few = sides.iter().filter(|n| **n < ENOUGH).count();
    let which = match few {
        0 => return None,
        n if n == sides.len() => "all rows have".to_owned(),
        1 => "1 row has".to_owned(),
        n => format!("{n} of {} rows have", sides.len()),
    };
    Some(format!("With fewer than {ENOUGH} trials the spread is not established: {which} fewer."))
}

/// Combinations whose levels did not have the same luck.
fn unpaired(contrast: &Contrast) -> Option<String> {
    let all = contrast.combinations.len();
    let n = contrast.combinations.iter().filter(|c| c.sides.windows(2).any(|w| w[0].seeds != w[1].seeds)).count();
    (n > 0).then(|| {
        format!(
            "In {n} of {} the levels have different seeds, whose luck is part of the difference.",
            plural(all as u64, "combination")
        )
    })
}

/// What is in no mean and no ratio.
fn outside(contrast: &Contrast) -> Option<String> {
    let count = |n: usize, noun: &str, which: &str| (n > 0).then(|| format!("{}{which}", plural(n as u64, noun)));
    let parts: Vec<String> = [
        count(contrast.not_compared.len(), "refused comparison", ""),
        count(contrast.alone.len(), "group", " without a counterpart"),
        count(contrast.failures.len(), "trial", " that did not complete"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| format!("Outside of everything above, and listed below: {}.", listed(&parts)))
}
