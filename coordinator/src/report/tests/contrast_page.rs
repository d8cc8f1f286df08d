//! Facts that the page of a comparison must state.

use fleet_common::compare::Preparation;
use fleet_common::contrast::{Contrast, Factor, contrast};
use fleet_common::record::{EnergyDomain, Reading, Record};
use fleet_common::score::Exponents;
use serde_json::json;

use super::contrast::two_machines;
use super::fixture::{CPU, GPU, NO_METER, Trial, matrix, trial};
use super::{is_self_contained, is_well_formed, times, visible};
use crate::report::{ContrastInput, contrast_html};

pub(super) fn page(factor: Factor, records: &[Record]) -> String {
    page_of(&contrast(records, factor, &Exponents::default(), Preparation::Apart), records)
}

pub(super) fn page_of(contrast: &Contrast, records: &[Record]) -> String {
    contrast_html(&ContrastInput {
        generated_unix_ms: 1_790_003_600_000,
        version: "0.1.0",
        sets: &[("nightly".to_owned(), records.len()), ("lab-b".to_owned(), 3)],
        contrast,
        records,
    })
}

fn records(trials: &[Trial]) -> Vec<Record> {
    trials.iter().map(Trial::record).collect()
}

#[test]
fn what_was_compared_is_stated_before_anything_is_claimed() {
    let text = visible(&page(Factor::Hardware, &records(&two_machines())));
    for fact in [
        "nightly and lab-b",
        "By hardware: 6 combinations with two levels or more.",
        "campaign or imported set records nightly 28 lab-b 3",
        "27 trials completed, of which 24 stand in a combination that two levels or more have; 1 did not complete.",
        // Level, combinations, trials, n, seeds, energy.
        &format!("{CPU} 6 12 2 0, 1 n/a 1"),
        &format!("{GPU} 6 12 2 0, 1 the GPU board (NVML energy counter)"),
        "Shared by all combinations: memory budget 512.0 MiB",
        // What a careful reader must know of the records.
        "Flags of the records short window (28 trials)",
        // Device facts.
        "driver 580.95.05 · compute 8.9 · board 9f31c2aa04d7e6b1 · limit 450 W",
    ] {
        assert!(text.contains(fact), "lacks {fact}:\n{text}");
    }
}

#[test]
fn ratios_and_orders_stand_at_the_top_with_their_range_and_their_number() {
    let text = visible(&page(Factor::Hardware, &records(&two_machines())));
    for fact in [
        &format!(
            "{GPU} in units of {CPU}: training time 0.0713 (0.0709 to 0.0716) and peak training memory 1.00 (1.00 to \
             1.00), geometric mean over 6 combinations; training energy not available: {NO_METER}."
        ),
        &format!(
            "Order of combinations on {CPU} and {GPU}, textures: Kendall's tau-b over 6 combinations: accuracy 1.00, \
             training time 1.00 and peak training memory 1.00; not available for training energy and NS#."
        ),
        "With fewer than 3 trials the spread is not established: all rows have fewer.",
        "1 refused comparison, 1 group without a counterpart and 1 trial that did not complete.",
        "6 combinations, which without ties have 720 orders",
    ] {
        assert!(text.contains(fact), "lacks {fact}:\n{text}");
    }
}

#[test]
fn what_is_missing_refused_or_failed_says_why_and_is_never_zero() {
    let html = page(Factor::Hardware, &records(&two_machines()));
    let text = visible(&html);
    for fact in [
        "images evaluated 400 and 100",
        &format!(
            "Without a counterpart No other level has anything like these groups, so they are in no ratio and no table of this page. {GPU}: vit_tiny · full · none · textures"
        ),
        "the loss was not a number at step 31",
        // The diverged seed belongs to a combination with a mean over the others.
        "2 seeds 0, 1 +1 diverged",
        "it is never zero",
    ] {
        assert!(text.to_lowercase().contains(&fact.to_lowercase()), "lacks {fact}:\n{text}");
    }
    assert_eq!(times(&text, &format!("1 {NO_METER}")), 0, "the list numbers its items itself");
    assert_eq!(times(&html, "id=\"note-1\""), 1);
    assert!(times(&html, "href=\"#note-1\"") > 6 * 6, "each cell without a value leads there");
    assert!(!text.contains("NaN") && !text.contains("not a number to"));
}

#[test]
fn a_chart_for_each_pair_and_cost_that_can_be_related() {
    // Fourteen times as fast, and not as slow; and each point says of how many trials.
    let text = visible(&page(Factor::Hardware, &records(&two_machines())));
    assert!(
        text.contains("1. vit_micro · full · none: 0.07") && text.contains("between trials (n = 2 and 2)"),
        "{text}"
    );
    let of = |factor, what: &str| times(&page(factor, &records(&two_machines())), &format!("aria-label=\"{what}"));
    for (factor, pairs) in [(Factor::Hardware, 1), (Factor::Method, 3), (Factor::Checkpointing, 1)] {
        assert_eq!(of(factor, "Training time of"), pairs, "{factor:?}");
        assert_eq!(of(factor, "Peak training memory of"), pairs, "{factor:?}");
        // Across these two machines energy cannot be related; within the one that measures it, it can.
        assert_eq!(of(factor, "Training energy of"), if factor == Factor::Hardware { 0 } else { pairs }, "{factor:?}");
    }
}

#[test]
fn joules_of_other_parts_of_a_machine_are_not_related() {
    let mut all = records(&matrix("vit_micro", "textures", GPU, 3));
    for mut record in all.clone() {
        record.machine.hardware = "Other GPU".parse().expect("a class");
        for phase in &mut record.phases {
            if let Reading::Measured(energy) = &mut phase.energy {
                energy.domain = EnergyDomain::CpuPackages;
            }
        }
        all.push(record);
    }
    let html = page(Factor::Hardware, &all);
    let text = visible(&html);
    assert!(text.contains("joules cover the GPU board and all CPU packages"), "{text}");
    assert!(text.contains("training energy not available: the energy of one covers another part"), "{text}");
    assert!(!html.contains("aria-label=\"Training energy of"));
    assert!(!text.contains("the spread is not established"), "three trials each");
}

#[test]
fn levels_that_had_other_seeds_or_half_a_meter_say_so() {
    let mut trials = matrix("vit_micro", "textures", GPU, 2);
    trials.extend(matrix("vit_micro", "textures", CPU, 2));
    let text = visible(&page(Factor::Method, &records(&trials)));
    assert!(text.contains("the GPU board (NVML energy counter); n/a 1 in 2 of 4 combinations"), "{text}");
    assert!(!text.contains("different seeds"), "{text}");
    trials.retain(|t| (t.method, t.checkpointing, t.hardware, t.seed) != ("lora", "none", CPU, 1));
    let text = visible(&page(Factor::Hardware, &records(&trials)));
    assert!(text.contains("In 1 of 6 combinations the levels have different seeds"), "{text}");
}

#[test]
fn the_label_of_a_machine_stands_with_it() {
    let mut all = records(&matrix("vit_micro", "textures", CPU, 1));
    for mut record in all.clone() {
        record.machine.hardware = format!("{CPU} [250 W]").parse().expect("a class");
        record.machine.label = Some("250 W".to_owned());
        all.push(record);
    }
    assert!(visible(&page(Factor::Hardware, &all)).contains("cpu label 250 W"));
}

#[test]
fn one_level_or_none_is_a_page_too() {
    let one = visible(&page(Factor::Hardware, &records(&matrix("vit_micro", "textures", CPU, 1))));
    assert!(one.contains(&format!("all completed trials have the same one: {CPU}.")), "{one}");
    let none = visible(&page(Factor::Method, &[]));
    assert!(none.contains("Nothing to compare by method: no trial has completed."), "{none}");
    for text in [one, none] {
        assert!(!text.contains("Ratios of cost") && !text.contains("NaN") && !text.contains("Kendall"), "{text}");
    }
}

#[test]
fn pages_are_well_formed_and_fetch_nothing_whatever_comes_from_outside() {
    const EVIL: &str = "\"><script>alert(1)</script><svg/onload=x>'&";
    let mut evil = records(&[CPU, GPU].map(|hardware| Trial { dataset: EVIL, ..trial("full", "none", hardware, 0) }));
    let crashed = json!({ "class": "crashed", "message": EVIL });
    evil.push(Trial { dataset: EVIL, outcome: crashed, ..trial("full", "static", CPU, 1) }.record());
    for record in &mut evil {
        record.machine.host = EVIL.to_owned();
        record.machine.label = Some(EVIL.to_owned());
    }
    for factor in Factor::ALL {
        let pages = [page(factor, &records(&two_machines())), page(factor, &[]), page(factor, &evil)];
        pages.iter().for_each(|page| is_well_formed(page));
        pages[..2].iter().for_each(|page| is_self_contained(page));
        assert!(!pages[2].contains("<script") && !pages[2].contains("<svg/onload"), "markup got through");
        assert!(times(&pages[2], "&lt;script&gt;alert(1)&lt;/script&gt;") > 2);
    }
}
