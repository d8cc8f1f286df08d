//! The levels of one factor side by side, in a terminal: costs, scores, ratios, agreement, and what is not compared.

use fleet_common::contrast::{Agreement, Contrast, Pair, Ratio, Side};
use fleet_common::record::Reading;
use fleet_common::score::Summary;

use super::words::{headline, looks, rankings, refusal, shared_and_names, untrained, whereabouts};
use crate::report::blocks::{BEFORE, counted};
use crate::report::grid::{Align, grid};
use crate::report::notes::Notes;
use crate::report::numbers::{accuracy_decimals, fixed, mean_and_spread, mib, significant, spread};
use crate::report::table::wrap;

/// So many refused or lonely groups are named; the others are counted.
const NAMED: usize = 12;

/// A contrast for a terminal of `width` columns; without a width, lines are as long as they are.
pub fn contrast(contrast: &Contrast, width: Option<u16>) -> String {
    let mut out = String::new();
    let mut notes = Notes::default();
    let columns = width.map_or(usize::MAX, usize::from);
    wrap(&mut out, &headline(contrast), columns);
    if !contrast.combinations.is_empty() {
        let (shared, names) = shared_and_names(contrast);
        wrap(&mut out, &format!("Shared by all: {}.", shared.join(", ")), columns);
        out.push('\n');
        out.push_str(&costs(contrast, &names, &mut notes, width));
        out.push('\n');
        out.push_str(&scores(contrast, &names, &mut notes, width));
        out.push('\n');
        out.push_str(&ratios(&contrast.ratios, &mut notes, width));
    }
    if !contrast.agreement.is_empty() {
        out.push('\n');
        out.push_str(&agreement(&contrast.agreement, &mut notes, width));
    }
    refusals(&mut out, contrast, columns);
    if !contrast.combinations.is_empty() {
        out.push('\n');
        wrap(&mut out, HOW_TO_READ, columns);
        if untrained(contrast) {
            wrap(&mut out, &format!("{BEFORE} {}", counted(contrast.preparation)), columns);
        }
    }
    if !contrast.agreement.is_empty() {
        wrap(&mut out, HOW_TO_READ_TAU, columns);
    }
    for (n, why) in notes.iter() {
        wrap(&mut out, &format!("[{n}] {why}"), columns);
    }
    out
}

const HOW_TO_READ: &str = "Values are means over n completed trials (seeds x repeats) ± the sample standard deviation. \
    Peak, train s and J are of training. NS-E, NS-M and NS# are given with training and with inference cost; joules that \
    cover different parts of a machine must not be held against each other. A ratio is the geometric mean over the \
    combinations that both levels have, with its range; 2 is twice the cost of the first.";
const HOW_TO_READ_TAU: &str = "Rank agreement is Kendall's tau-b of the combinations' means: 1 the same order, 0 no \
    relation, -1 the opposite order. Scores in it are with training cost.";

/// One row per combination and level; a combination is named once.
fn rows(contrast: &Contrast, names: &[String], mut cells: impl FnMut(&Side) -> Vec<String>) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (combination, name) in contrast.combinations.iter().zip(names) {
        for (i, side) in combination.sides.iter().enumerate() {
            let mut row = vec![if i == 0 { name.clone() } else { String::new() }, side.level.clone()];
            row.extend(cells(side));
            rows.push(row);
        }
    }
    rows
}

fn costs(contrast: &Contrast, names: &[String], notes: &mut Notes, width: Option<u16>) -> String {
    let head = [
        ("combination", Align::Left),
        (contrast.factor.name(), Align::Left),
        ("n", Align::Right),
        ("top-1 %", Align::Right),
        ("peak MiB", Align::Right),
        ("train s", Align::Right),
        ("J", Align::Right),
    ];
    let mean = |s: Option<&Summary>, scale: f64| {
        s.map_or_else(|| "-".to_owned(), |s| with_spread(mean_and_spread(&s.scaled(scale), 3)))
    };
    let rows = rows(contrast, names, |side| {
        let decimals = accuracy_decimals(side.evaluated);
        let top1 = side.top1_percent.map_or_else(
            || "-".to_owned(),
            |s| with_spread((fixed(s.mean, decimals), s.deviation.map(|d| spread(d, decimals)))),
        );
        let joules = match &side.training.joules {
            Reading::Measured(s) => mean(Some(s), 1.0),
            Reading::Unavailable(why) => missing(notes, why),
        };
        vec![
            side.completed.to_string(),
            top1,
            mean(side.training.peak_bytes.as_ref(), mib(1.0)),
            mean(side.training.seconds.as_ref(), 1.0),
            joules,
        ]
    });
    grid(&head, &rows, width)
}

fn scores(contrast: &Contrast, names: &[String], notes: &mut Notes, width: Option<u16>) -> String {
    let mut head = vec![("combination", Align::Left), (contrast.factor.name(), Align::Left)];
    let scores = ["NS", "NS-E train", "NS-M train", "NS# train", "NS-E infer", "NS-M infer", "NS# infer"];
    head.extend(scores.map(|name| (name, Align::Right)));
    let rows = rows(contrast, names, |side| {
        let (t, i) = (&side.training.scores, &side.inference.scores);
        [&i.ns, &t.ns_e, &t.ns_m, &t.ns_sharp, &i.ns_e, &i.ns_m, &i.ns_sharp]
            .into_iter()
            .map(|score| match score {
                Reading::Measured(s) => significant(s.mean, 4),
                Reading::Unavailable(why) => missing(notes, why),
            })
            .collect()
    });
    grid(&head, &rows, width)
}

fn ratios(pairs: &[Pair], notes: &mut Notes, width: Option<u16>) -> String {
    let head = [
        ("ratio", Align::Left),
        ("of", Align::Left),
        ("combinations", Align::Right),
        ("time", Align::Right),
        ("energy", Align::Right),
        ("peak memory", Align::Right),
    ];
    let mut rows = Vec::new();
    for pair in pairs {
        for (of, ratios) in [("training", &pair.training), ("inference", &pair.inference)] {
            let mut cell = |ratio: &Reading<Ratio>| match ratio {
                Reading::Measured(r) => {
                    let range = format!("{} to {}", significant(r.min, 3), significant(r.max, 3));
                    let fewer =
                        if r.combinations < pair.matched { format!(" of {}", r.combinations) } else { String::new() };
                    format!("{} ({range}){fewer}", significant(r.geometric_mean, 3))
                }
                Reading::Unavailable(why) => missing(notes, why),
            };
            let (time, energy, peak) = (cell(&ratios.seconds), cell(&ratios.joules), cell(&ratios.peak_bytes));
            let name = format!("{} / {}", pair.other, pair.one);
            rows.push(vec![name, of.to_owned(), pair.matched.to_string(), time, energy, peak]);
        }
    }
    grid(&head, &rows, width)
}

fn agreement(agreements: &[Agreement], notes: &mut Notes, width: Option<u16>) -> String {
    // The terminal shows training; everything is in the JSON document.
    let shown = [
        ("top-1", "top1_percent"),
        ("time", "training.seconds"),
        ("energy", "training.joules"),
        ("memory", "training.peak_bytes"),
        ("NS", "training.scores.ns"),
        ("NS-E", "training.scores.ns_e"),
        ("NS-M", "training.scores.ns_m"),
        ("NS#", "training.scores.ns_sharp"),
    ];
    let mut head = vec![("rank agreement", Align::Left), ("data", Align::Left), ("combinations", Align::Right)];
    head.extend(shown.map(|(name, _)| (name, Align::Right)));
    let mut rows = Vec::new();
    for (a, data) in agreements.iter().zip(rankings(agreements)) {
        let mut row = vec![format!("{} and {}", a.one, a.other), data, a.combinations.to_string()];
        row.extend(shown.iter().map(|(_, path)| match a.measures.iter().find(|m| m.measure == *path) {
            Some(m) => match &m.tau_b {
                Reading::Measured(tau) if m.combinations < a.combinations => {
                    format!("{} of {}", fixed(*tau, 2), m.combinations)
                }
                Reading::Measured(tau) => fixed(*tau, 2),
                Reading::Unavailable(why) => missing(notes, why),
            },
            None => "-".to_owned(),
        }));
        rows.push(row);
    }
    grid(&head, &rows, width)
}

fn refusals(out: &mut String, contrast: &Contrast, columns: usize) {
    let more = |out: &mut String, n: usize| {
        if n > NAMED {
            wrap(out, &format!("- and {} more; --html and --json name them all", n - NAMED), columns);
        }
    };
    if !contrast.not_compared.is_empty() {
        out.push_str("\nNot compared:\n");
        for refused in contrast.not_compared.iter().take(NAMED) {
            wrap(out, &format!("- {}", refusal(contrast.factor, refused)), columns);
        }
        more(out, contrast.not_compared.len());
    }
    if !contrast.alone.is_empty() {
        out.push_str("\nWithout a counterpart at another level:\n");
        for place in contrast.alone.iter().take(NAMED) {
            wrap(out, &format!("- {}: {}", place.level, whereabouts(contrast.factor, place)), columns);
        }
        more(out, contrast.alone.len());
    }
    if !contrast.failures.is_empty() {
        out.push_str("\nDid not complete, and are in no mean:\n");
        for f in contrast.failures.iter().take(NAMED) {
            let what = looks(contrast.factor, &f.settings).join(" · ");
            let reason = f.outcome.reason().map(|r| format!(": {r}")).unwrap_or_default();
            let line = format!("- {what} · seed {} on {}: {}{reason}", f.settings.seed, f.hardware, f.outcome.class());
            wrap(out, &line, columns);
        }
        more(out, contrast.failures.len());
    }
}

fn with_spread((mean, deviation): (String, Option<String>)) -> String {
    match deviation {
        Some(deviation) => format!("{mean} ± {deviation}"),
        None => mean,
    }
}

fn missing(notes: &mut Notes, why: &str) -> String {
    format!("n/a [{}]", notes.add(why))
}
