//! The levels of one factor in a terminal.

use fleet_common::compare::Preparation;
use fleet_common::contrast::{Contrast, Factor, contrast};
use fleet_common::record::Record;
use fleet_common::score::Exponents;

use super::fixture::{CPU, GPU, NO_METER, Trial, matrix, trial};
use crate::report;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/tests/golden/contrast.txt");

fn by(factor: Factor, trials: &[Trial]) -> Contrast {
    let records: Vec<Record> = trials.iter().map(Trial::record).collect();
    contrast(&records, factor, &Exponents::default(), Preparation::Apart)
}

/// Two machines with the same matrix, a group on one only, one that evaluated fewer images, and a failure.
pub(super) fn two_machines() -> Vec<Trial> {
    let mut trials = matrix("vit_micro", "textures", CPU, 2);
    trials.extend(matrix("vit_micro", "textures", GPU, 2));
    let tiny = |t: Trial| Trial { backbone: "vit_tiny_patch16_224", ..t };
    trials.push(tiny(trial("full", "none", GPU, 0)));
    trials.push(tiny(trial("lora", "none", CPU, 0)));
    trials.push(tiny(Trial { evaluated: 100, ..trial("lora", "none", GPU, 0) }));
    trials.push(Trial {
        outcome: serde_json::json!({ "class": "diverged", "step": 31 }),
        ..trial("full", "none", CPU, 9)
    });
    trials
}

/// The whole form. To bless a wanted change: `FLEET_BLESS=1 cargo test -p fleet-coordinator`.
#[test]
fn golden_contrast() {
    let text = report::contrast(&by(Factor::Hardware, &two_machines()), Some(140));
    if std::env::var_os("FLEET_BLESS").is_some() {
        std::fs::write(GOLDEN, &text).expect("written");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("the golden file; FLEET_BLESS=1 writes it");
    assert!(text == golden, "the contrast differs from {GOLDEN} (FLEET_BLESS=1 accepts it):\n{text}");
}

#[test]
fn what_is_refused_or_missing_is_said_in_words() {
    let text = report::contrast(&by(Factor::Hardware, &two_machines()), None);
    let expected = [
        "By hardware: 6 combinations",
        "images evaluated 400 and 100",
        "Without a counterpart at another level:",
        "the loss was not a number at step 31",
        NO_METER,
    ];
    for words in expected {
        assert!(text.contains(words), "lacks {words}:\n{text}");
    }
    let method = report::contrast(&by(Factor::Method, &two_machines()), None);
    assert!(method.contains("lora / full") && !method.contains("rank agreement"), "{method}");
    let checkpointing = report::contrast(&by(Factor::Checkpointing, &two_machines()), None);
    assert!(checkpointing.contains("static / none"), "{checkpointing}");
}

#[test]
fn one_level_is_nothing_to_compare() {
    let text = report::contrast(&by(Factor::Hardware, &matrix("vit_micro", "textures", CPU, 1)), None);
    assert!(text.contains(&format!("all completed trials have the same one: {CPU}")), "{text}");
    let none = report::contrast(&by(Factor::Hardware, &[]), None);
    assert!(none.contains("no trial has completed"), "{none}");
}

#[test]
fn a_name_from_elsewhere_does_not_steer_the_terminal() {
    let dataset = "evil\u{1b}[2J";
    let trials = [CPU, GPU].map(|hardware| Trial { dataset, ..trial("full", "none", hardware, 0) });
    for factor in Factor::ALL {
        let text = report::contrast(&by(factor, &trials), None);
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
