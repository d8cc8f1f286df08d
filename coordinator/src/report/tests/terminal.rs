//! The table in a terminal.

use super::fixture::{CPU, GPU, NO_METER, Trial, World, matrix, rich, trial};
use crate::report::table;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/tests/golden/table.txt");

fn of(world: &World, width: Option<u16>) -> String {
    table(&world.comparison, &world.records, width)
}

/// The whole form on one small comparison. To bless a wanted change: `FLEET_BLESS=1 cargo test -p fleet-coordinator`.
#[test]
fn golden_table() {
    let mut trials = matrix("vit_micro", "textures", CPU, 3);
    trials.extend([trial("full", "none", GPU, 0), trial("lora", "none", GPU, 0)]);
    let outcome = serde_json::json!({ "class": "diverged", "step": 31 });
    trials.extend([7, 8].map(|seed| Trial { outcome: outcome.clone(), ..trial("lora", "none", CPU, seed) }));
    let text = of(&World::of(&trials), Some(120));
    if std::env::var_os("FLEET_BLESS").is_some() {
        std::fs::write(GOLDEN, &text).expect("written");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("the golden file; FLEET_BLESS=1 writes it");
    assert!(text == golden, "the table differs from {GOLDEN} (FLEET_BLESS=1 accepts it):\n{text}");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let world = rich();
    for width in [40, 60, 80, 100, 200] {
        for line in of(&world, Some(width)).lines() {
            assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
        }
    }
}

#[test]
fn a_narrow_terminal_keeps_what_matters_and_names_what_it_left_out() {
    let world = rich();
    let wide = of(&world, None);
    for head in ["backbone", "method", "checkpointing", "top-1 %", "±", "trainable", "img/s", "NS-M", "NS#", "front"] {
        assert!(wide.contains(head), "{head}");
    }
    assert!(!wide.contains("Left out"));
    let narrow = of(&world, Some(60));
    assert!(narrow.contains("Left out for want of room: front, trainable"), "{narrow}");
    for head in ["method", "checkpointing", "top-1 %", "peak MiB"] {
        assert!(narrow.contains(head), "{head}");
    }
}

#[test]
fn failures_stand_under_the_table_with_their_reasons_and_missing_values_have_one_note() {
    let text = of(&rich(), None);
    for fact in [
        "x vit_small · full · none, seed 0: does not fit: needs 913.0 MiB of 512.0 MiB during forward of block 7",
        "x vit_micro · full · none, seed 7: diverged: the loss was not a number at step 31",
        "x vit_small · lora · none, seed 1: crashed: the worker ended by signal 11",
        "x vit_small · lora · static, seed 1: bad input: expected 8 classes, found 10",
        "x vit_micro · bitfit · none, seed 9: cancelled",
    ] {
        assert!(text.contains(fact), "{fact}\n{text}");
    }
    assert_eq!(text.matches(NO_METER).count(), 1);
    assert!(text.contains("n/a [1]"));
    assert!(text.contains("J covers the GPU board, idle power included."));
}

#[test]
fn messages_do_not_steer_the_terminal() {
    let outcome = serde_json::json!({ "class": "crashed", "message": "\u{1b}[2Jgone\u{7}" });
    let text = of(&World::of(&[Trial { outcome, ..trial("full", "none", CPU, 0) }]), Some(80));
    assert!(text.contains("?[2Jgone?"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn an_empty_comparison_says_so() {
    assert_eq!(of(&World::of(&[]), None), "Nothing has finished yet.\n");
}
