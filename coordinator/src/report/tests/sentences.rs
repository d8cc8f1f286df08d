//! What the sentences at the top may claim.

use fleet_common::compare::{Preparation, compare};
use fleet_common::record::Record;
use fleet_common::score::Exponents;

use super::fixture::{CPU, GPU, Trial, World, matrix, rich, trial};
use crate::report::blocks::blocks;
use crate::report::findings::findings;
use crate::report::summary::lead;

/// The sentences on trials with these accuracies, one list per combination.
fn found(accuracies: &[(&'static str, &'static str, &[f64])]) -> Vec<String> {
    let mut records: Vec<Record> = Vec::new();
    for (method, checkpointing, values) in accuracies {
        for (seed, value) in values.iter().enumerate() {
            let mut record = trial(method, checkpointing, CPU, seed as u64).record();
            record.training.top1_percent = Some(*value);
            records.push(record);
        }
    }
    let comparison = compare(&records, &Exponents::default(), Preparation::Apart);
    let blocks = blocks(&comparison);
    assert_eq!(blocks.len(), 1);
    findings(&blocks[0])
}

#[test]
fn an_order_is_established_by_three_trials_each_and_ranges_apart() {
    let text = found(&[("full", "none", &[63.0, 62.5, 64.0]), ("lora", "none", &[59.0, 60.0, 61.0])]);
    assert_eq!(
        text[0],
        "full · none reached the highest mean top-1 accuracy (63.2 ± 0.8 %, n = 3); each of its trials is above every \
         trial of the others."
    );
    assert!(text[1].contains("41 % less peak memory (412 → 243 MiB), at 3.2 points less accuracy."), "{}", text[1]);
    assert!(
        text[1].starts_with("Next to full fine-tuning (with checkpointing none throughout), lora needed"),
        "{}",
        text[1]
    );
}

#[test]
fn overlapping_ranges_establish_nothing() {
    let text = found(&[("full", "none", &[63.0, 60.5, 64.0]), ("lora", "none", &[59.0, 60.0, 61.0])]);
    assert!(text[0].ends_with("overlaps that of lora · none, so it is not established as the best."), "{}", text[0]);
    assert!(text[1].ends_with("points less accuracy (the ranges overlap)."), "{}", text[1]);
    assert!(!text[0].contains("above every trial"));
}

#[test]
fn fewer_than_three_trials_establish_nothing_however_far_apart() {
    for few in [&[63.0][..], &[63.0, 64.0]] {
        let text = found(&[("full", "none", few), ("lora", "none", &[10.0, 11.0, 12.0])]);
        assert!(
            text[0].contains("fewer than 3 trials and no established spread, so the order may change"),
            "{}",
            text[0]
        );
        assert!(text[1].ends_with("points less accuracy (n < 3)."), "{}", text[1]);
        assert!(text[1].contains("(412 → 243 MiB; n < 3)"), "{}", text[1]);
        let all = found(&[("full", "none", few), ("lora", "none", few)]);
        assert_eq!(all.last().map(String::as_str), Some(FEW));
        assert!(!all.concat().contains("above every trial"));
    }
    let alone = found(&[("lora", "none", &[41.0])]);
    assert_eq!(alone, ["lora · none reached a top-1 accuracy of 41.0 %, n = 1.", FEW]);
}

const FEW: &str = "With fewer than 3 trials of a combination the spread is not established.";

#[test]
fn what_did_not_fit_or_diverged_is_not_passed_over() {
    let text = findings(&blocks(&rich().comparison)[0]);
    assert_eq!(
        text.last().map(String::as_str),
        Some(
            "Outside the means: vit_small · full · none does not fit (1 of 1 trial) and vit_micro · full · none diverged \
             (1 of 4 trials)."
        )
    );
}

#[test]
fn energies_are_set_against_each_other_only_where_both_were_measured() {
    let text =
        |hardware| findings(&blocks(&World::of(&matrix("vit_micro", "textures", hardware, 3)).comparison)[0]).concat();
    assert!(text(GPU).contains("less training energy ("), "{}", text(GPU));
    assert!(!text(CPU).contains("energy"));
}

#[test]
fn strategies_that_compute_the_same_share_their_place() {
    let same: &[f64] = &[63.0, 62.5, 64.0];
    let text = found(&[("full", "none", same), ("full", "static", same)]);
    assert_eq!(text[0], "full · none and full · static reached the same mean top-1 accuracy: 63.2 ± 0.8 %, n = 3.");
    assert!(text[1].starts_with("Static checkpointing left full · none with 55 % less peak memory"), "{}", text[1]);
    assert!(text[1].contains("more training time") && text[1].ends_with("at the same accuracy."), "{}", text[1]);
}

#[test]
fn combinations_that_differ_in_more_than_their_method_are_not_set_against_each_other() {
    let world = World::of(&[
        trial("full", "none", CPU, 0),
        Trial { batch: 8, ..trial("lora", "none", CPU, 0) },
        Trial { backbone: "vit_tiny_patch16_224", ..trial("bitfit", "none", CPU, 0) },
    ]);
    let text = findings(&blocks(&world.comparison)[0]);
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(!text.concat().contains("Next to"));
}

#[test]
fn the_lead_counts_every_trial_once() {
    assert_eq!(
        lead(&rich().input()),
        "40 of 47 trials finished on 2 hardware classes: 36 completed, 1 does not fit, 1 diverged, 1 bad input and 1 \
         crashed; 2 are running, 3 are waiting, 1 is cancelled and 1 left no record."
    );
    let world = World::of(&matrix("vit_micro", "textures", GPU, 1));
    assert_eq!(lead(&world.input()), "6 of 6 trials completed on 1 hardware class.");
}
