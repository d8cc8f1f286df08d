//! What a contrast says in words, whether on a page or in a terminal: names of combinations, and refusals.

use std::collections::BTreeSet;

use fleet_common::contrast::{Agreement, Combination, Contrast, Factor, NotCompared, Place, Ratio, Relation, Side};
use fleet_common::plan::CellSettings;

use crate::report::numbers::{fixed, listed, plural};
use crate::report::settings::{self, Flat, brief_backbone};

/// What was found to compare, in a sentence.
pub(in crate::report) fn headline(contrast: &Contrast) -> String {
    let factor = contrast.factor.name();
    match contrast.levels.as_slice() {
        [] => format!("Nothing to compare by {factor}: no trial has completed."),
        [only] => format!("Nothing to compare by {factor}: all completed trials have the same one: {only}."),
        _ => {
            let combinations = plural(contrast.combinations.len() as u64, "combination");
            format!("By {factor}: {combinations} with two levels or more.")
        }
    }
}

/// What all combinations share, and the name of each.
pub(in crate::report) fn shared_and_names(contrast: &Contrast) -> (Vec<String>, Vec<String>) {
    let flats: Vec<Flat> = contrast.combinations.iter().map(|c| settings::flat_document(&c.shared)).collect();
    (settings::common(&flats), names(contrast.factor, &contrast.combinations, &flats))
}

/// Whether there are models that are not trained.
pub(in crate::report) fn untrained(contrast: &Contrast) -> bool {
    contrast.combinations.iter().flat_map(|c| &c.sides).any(|s| s.settings.train.is_none())
}

/// What each agreement is on: the data, and whatever else tells it from the others.
pub(in crate::report) fn rankings(agreements: &[Agreement]) -> Vec<String> {
    let flats: Vec<Flat> = agreements.iter().map(|a| settings::flat_document(&a.shared)).collect();
    let of = |i: usize| {
        let twins: Vec<&Flat> = (0..flats.len()).filter(|&k| k != i).map(|k| &flats[k]).collect();
        let data = agreements[i].shared["dataset"]["name"].as_str().unwrap_or("-").to_owned();
        [vec![data], settings::distinction(&flats[i], &twins)].concat().join(" · ")
    };
    (0..agreements.len()).map(of).collect()
}

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
pub(in crate::report) fn looks(factor: Factor, settings: &CellSettings) -> Vec<String> {
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

/// Both sides, and what differs.
pub(in crate::report) fn refusal(factor: Factor, refused: &NotCompared) -> String {
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
pub(in crate::report) fn whereabouts(factor: Factor, place: &Place) -> String {
    let mut parts = looks(factor, &place.settings);
    parts.push(place.settings.dataset.name.clone());
    let on = if factor == Factor::Hardware { String::new() } else { format!(" on {}", place.hardware) };
    format!("{}{on}", parts.join(" · "))
}

/// How far a ratio of energies may be off because two devices measured them; nothing where one device did.
pub(in crate::report) fn meters(ratio: &Ratio) -> Option<String> {
    let error = ratio.meters_error.filter(|error| *error > 0.0)?;
    let percent = fixed(error * 100.0, 1);
    Some(match ratio.is_within_meters_error() {
        true => format!("not established: the two meters may differ by ± {percent} %"),
        false => format!("± {percent} % by the two meters"),
    })
}
