//! How the figures came about: the conventions in words, then every trial.

use std::collections::BTreeSet;

use fleet_common::record::{EnergyDomain, LoadSummary, Record};
use maud::{Markup, html};

use super::shell::Section;
use super::{Page, trials};
use crate::report::blocks::domain_in_words;
use crate::report::numbers::{plural, whole};

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    if page.input.records.is_empty() {
        return None;
    }
    let body = html! {
        (conventions(&page.records, "energies of different device models are not compared here"))
        (trials::list(page))
    };
    Some(Section { id: "measurement", heading: "How it was measured", body })
}

/// The conventions in words. `sensors` ends the sentence on the errors of power sensors.
pub(super) fn conventions(records: &[&Record], sensors: &str) -> Markup {
    html! {
        dl.measured {
            dt { "Windows" }
            dd {
                "A trial loads, warms up, trains and evaluates; each phase has its own time, memory and energy. Where checkpointing is "
                "planned, a phase of profiling comes before the warm-up. "
                "Training time and energy are those of the train phase, waiting for data included; the first "
                (warm_up_steps(records)) ", which train like the others, are the warm-up and lie outside. Before each "
                "edge the device finishes its work."
                @if records.iter().any(|r| r.settings.train.is_none()) {
                    " A trial that trains nothing prepares instead: it embeds descriptions of the classes, or looks at the training "
                    "images and trains a probe on their features. Its evaluation is that of any other trial."
                }
            }
            dt { "Peak memory" }
            dd {
                "The most bytes that tensors held at once in libtorch's allocator, over warm-up and training, because the optimiser's "
                "state appears in the first step. The allocator's cache (“reserved”) and the resident memory of the "
                "process are kept with each trial. A CUDA context lies outside the allocator."
            }
            dt { "Energy" }
            dd { (energy(records)) }
            dt { "Accuracy" }
            dd {
                "Share of the evaluated test images whose most likely class is right (top-1), after the last step; no "
                "step is picked by its accuracy. Evaluated per trial: " (evaluated(records)) "."
            }
            dt { "Parameters" }
            dd { "All of the model, adapters and head included; “trainable” are those that the optimiser changes." }
            dt { "Multiply-accumulates" }
            dd { "One forward pass of one image through backbone and head, with adapters merged; one multiply with its add counts once." }
            dt { "Spread" }
            dd {
                "Sample standard deviation (n − 1) over seeds and repeats on one hardware class. It contains neither "
                "the choice of test images nor the error of a power sensor, which can reach ten percent or more and differs by board: "
                (sensors) "."
            }
            @for text in loads(records) { dt { "Initial weights" } dd { (text) } }
        }
    }
}

fn warm_up_steps(records: &[&Record]) -> String {
    let steps: BTreeSet<u32> = records.iter().filter_map(|r| Some(r.settings.train.as_ref()?.warm_up_steps)).collect();
    match steps.iter().collect::<Vec<_>>().as_slice() {
        [one] => plural(u64::from(**one), "step"),
        many => format!("{} steps", many.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" or ")),
    }
}

fn evaluated(records: &[&Record]) -> String {
    let counts: BTreeSet<(&str, u64)> = records
        .iter()
        .filter(|r| r.training.evaluated > 0)
        .map(|r| (r.settings.dataset.name.as_str(), r.training.evaluated))
        .collect();
    match counts.is_empty() {
        true => "none yet".to_owned(),
        false => counts.iter().map(|(d, n)| format!("{} images of {d}", whole(*n))).collect::<Vec<_>>().join(", "),
    }
}

/// Domains and sources of the energies that were measured.
fn energy(records: &[&Record]) -> Markup {
    let kinds: BTreeSet<(EnergyDomain, &str)> = records
        .iter()
        .flat_map(|r| &r.phases)
        .filter_map(|p| p.energy.value().map(|e| (e.domain, e.source.as_str())))
        .collect();
    html! {
        @if kinds.is_empty() {
            "No trial had a usable energy meter; the reasons stand under “Why values are missing”. A missing meter is not zero "
            "energy, so scores that need it are n/a."
        } @else {
            @for (domain, source) in &kinds { "Joules of " (domain_in_words(*domain)) " (" (source) "). " }
            "Total energy, idle power included. "
            @if kinds.iter().any(|(d, _)| *d == EnergyDomain::CpuPackages) {
                "The CPU packages also power whatever else ran on the machine. "
            }
            "Scores use the mean power of the window. Joules of different domains are never ranked together."
        }
    }
}

/// How files of weights were matched, each distinct outcome once.
fn loads(records: &[&Record]) -> Vec<String> {
    let names = |names: &[String]| match names.len() {
        0 => String::new(),
        n if n <= 6 => format!(" ({})", names.join(", ")),
        _ => format!(" ({}, …)", names[..6].join(", ")),
    };
    let mut texts = Vec::new();
    for r in records {
        let Some(LoadSummary { matched, missing, unexpected, replaced, resampled }) = &r.training.loaded else {
            continue;
        };
        let mut parts = vec![format!("{} taken from the file", plural(*matched, "tensor"))];
        for (list, what) in [
            (missing, "not in the file, fresh"),
            (replaced, "of another shape, fresh"),
            (resampled, "resampled to the input's size"),
            (unexpected, "in the file only, unused"),
        ] {
            if !list.is_empty() {
                parts.push(format!("{} {what}{}", list.len(), names(list)));
            }
        }
        let text =
            format!("{}, {}: {}.", r.settings.backbone.name(), r.settings.method.method().name(), parts.join("; "));
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}
