//! The levels of one factor side by side, in a terminal: costs, scores, ratios, agreement, and what is not compared.

use std::collections::BTreeSet;

use fleet_common::contrast::{
    Agreement, Combination, Contrast, Factor, NotCompared, Pair, Place, Ratio, Relation, Side,
};
use fleet_common::plan::CellSettings;
use fleet_common::record::Reading;
use fleet_common::score::Summary;

use super::grid::{Align, grid};
use super::notes::Notes;
use super::numbers::{accuracy_decimals, fixed, listed, mean_and_spread, mib, plural, significant, spread};
use super::settings::{self, Flat, brief_backbone};
use super::table::wrap;

/// So many refused or lonely groups are named; the others are counted.
const NAMED: usize = 12;

/// A contrast for a terminal of `width` columns; without a width, lines are as long as they are.
pub fn contrast(contrast: &Contrast, width: Option<u16>) -> String {
    let mut out = String::new();
    let mut notes = Notes::default();
    let columns = width.map_or(usize::MAX, usize::from);
    let levels = contrast.levels.len();
    if levels < 2 {
        let found = contrast.levels.first().map_or_else(
            || "no trial has completed".to_owned(),
            |only| format!("all completed trials have the same one: {only}"),
        );
        wrap(&mut out, &format!("Nothing to compare by {}: {found}.", contrast.factor.name()), columns);
    } else {
        let combinations = plural(contrast.combinations.len() as u64, "combination");
        wrap(&mut out, &format!("By {}: {combinations} with two levels or more.", contrast.factor.name()), columns);
    }
    if !contrast.combinations.is_empty() {
        let flats: Vec<Flat> = contrast.combinations.iter().map(|c| settings::flat_document(&c.shared)).collect();
        wrap(&mut out, &format!("Shared by all: {}.", settings::common(&flats).join(", ")), columns);
        let names = names(contrast.factor, &contrast.combinations, &flats);
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

/// What tells each combination from the others.
fn names(factor: Factor, combinations: &[Combination], flats: &[Flat]) -> Vec<String> {
    let several =
        |part: fn(&Side) -> &str| combinations.iter().map(|c| part(&c.sides[0])).collect::<BTreeSet<_>>().len() > 1;
    let with_data = several(|s| s.settings.dataset.name.as_str());
    let with_hardware = several(|s| s.hardware.as_str());
    let base: Vec<String> = combinations
        .iter()
        .map(|c| {
            let side = &c.sides[0];
            let mut parts = looks(factor, &side.settings);
            if with_data {
                parts.push(side.settings.dataset.name.clone());
            }
            if factor != Factor::Hardware && with_hardware {
                parts.push(side.hardware.to_string());
            }
            parts.join(" · ")
        })
        .collect();
    base.iter()
        .enumerate()
        .map(|(i, name)| {
            let twins: Vec<&Flat> =
                (0..base.len()).filter(|&k| k != i && base[k] == *name).map(|k| &flats[k]).collect();
            let mut parts = vec![name.clone()];
            parts.extend(settings::distinction(&flats[i], &twins));
            parts.join(" · ")
        })
        .collect()
}

/// Backbone, method and checkpointing, without the factor.
fn looks(factor: Factor, settings: &CellSettings) -> Vec<String> {
    [
        (Factor::Backbone, brief_backbone(settings.backbone.name())),
        (Factor::Method, settings.method.method().name()),
        (Factor::Checkpointing, settings.checkpointing.name()),
    ]
    .into_iter()
    .filter(|(of, _)| *of != factor)
    .map(|(_, name)| name.to_owned())
    .collect()
}

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
        let scaled = |s: &Summary| Summary { mean: s.mean * scale, deviation: s.deviation.map(|d| d * scale), ..*s };
        s.map_or_else(|| "-".to_owned(), |s| with_spread(mean_and_spread(&scaled(s), 3)))
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
        [&t.ns, &t.ns_e, &t.ns_m, &t.ns_sharp, &i.ns_e, &i.ns_m, &i.ns_sharp]
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
    let flats: Vec<Flat> = agreements.iter().map(|a| settings::flat_document(&a.shared)).collect();
    let mut rows = Vec::new();
    for (i, a) in agreements.iter().enumerate() {
        let twins: Vec<&Flat> = (0..flats.len()).filter(|&k| k != i).map(|k| &flats[k]).collect();
        let data = a.shared["dataset"]["name"].as_str().unwrap_or("-").to_owned();
        let mut parts = vec![data];
        parts.extend(settings::distinction(&flats[i], &twins));
        let mut row = vec![format!("{} and {}", a.one, a.other), parts.join(" · "), a.combinations.to_string()];
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
            wrap(out, &format!("- and {} more; --json names them all", n - NAMED), columns);
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

/// Both sides, and what differs.
fn refusal(factor: Factor, refused: &NotCompared) -> String {
    let differences: Vec<String> = refused
        .differences
        .iter()
        .map(|d| {
            let (one, other) = (settings::word(&d.setting, &d.one), settings::word(&d.setting, &d.other));
            match d.setting.as_str() {
                "energy.domain" => format!("joules cover {} and {}", covers(&one), covers(&other)),
                path => format!("{} {one} and {other}", settings::name(path)),
            }
        })
        .collect();
    let sides = format!("{} and {}", refused.one.level, refused.other.level);
    match refused.relation {
        Relation::Energy => format!(
            "energy of {sides}, {}: {}",
            plural(refused.combinations as u64, "combination"),
            listed(&differences)
        ),
        Relation::All => format!("{sides}, {}: {}", whereabouts(factor, &refused.one), listed(&differences)),
    }
}

fn covers(domain: &str) -> &str {
    match domain {
        "gpu" => "the GPU board",
        "cpu_packages" => "all CPU packages",
        other => other,
    }
}

/// A group in words, without the factor.
fn whereabouts(factor: Factor, place: &Place) -> String {
    let mut parts = looks(factor, &place.settings);
    parts.push(place.settings.dataset.name.clone());
    let on = if factor == Factor::Hardware { String::new() } else { format!(" on {}", place.hardware) };
    format!("{}{on}", parts.join(" · "))
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
