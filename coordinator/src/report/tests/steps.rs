//! Memory over a step: which trials stand for which strategies, and what is said of them.

use super::fixture::{self, World};
use super::{html, is_self_contained, is_well_formed, rich, times, visible};
use crate::report::blocks::blocks;
use crate::report::steps::families;
use crate::report::table;

#[test]
fn a_panel_per_strategy_of_the_first_seed_with_a_trace() {
    let world = fixture::traced();
    let blocks = blocks(&world.comparison);
    let shown: Vec<Vec<String>> = families(&blocks[0], &world.records)
        .iter()
        .map(|f| f.records.iter().map(|r| blocks[0].label(r)).collect())
        .collect();
    assert_eq!(
        shown,
        [
            [
                "full · none (seed 0, does not fit)",
                "full · static (seed 0)",
                "full · adaptive (seed 0)",
                "full · planned (seed 0)"
            ],
            ["lora · none (seed 1)", "lora · static (seed 0)", "lora · adaptive (seed 0)", "lora · planned (seed 0)"]
        ]
    );
}

#[test]
fn the_page_shows_them_with_what_ran_again_and_what_was_expected() {
    let page = html(&fixture::traced().input());
    assert_eq!(times(&page, "aria-label=\"Memory over one training step"), 8);
    let text = visible(&page);
    for fact in [
        "needs 270.0 MiB of 256.0 MiB during forward of block 5",
        "Blocks 0–5 ran again.",
        "The threshold is 128.0 MiB (0.5 of the budget). Blocks 3–5 ran again.",
        "The plan 4k 2w has 200.3 MiB to stay below: peak 200.0 MiB predicted, 201.0 MiB measured (+0.5 %); running \
         again takes 16.0 ms, 12 % of the blocks' time; it is the second, as the first missed.",
        "budget 256 MiB",
        "plan&apos;s limit 200 MiB",
        "threshold 128 MiB",
    ] {
        assert!(text.contains(fact), "{fact}");
    }
    is_self_contained(&page);
    is_well_formed(&page);
    assert!(!page.contains("could not be drawn"));
}

#[test]
fn without_traces_there_is_no_such_figure() {
    assert!(!html(&rich().input()).contains("Memory over one training step"));
}

#[test]
fn other_settings_are_another_family() {
    let mut world = fixture::traced();
    for record in &mut world.records {
        if record.settings.checkpointing.name() == "planned" && record.settings.seed == 0 {
            record.settings.planned_margin = Some(0.1);
        } else if record.settings.checkpointing.name() == "static" {
            record.settings.train.as_mut().expect("it trains").batch = 8;
        }
    }
    world.comparison = fleet_common::compare::compare(
        &world.records,
        &fleet_common::score::Exponents::default(),
        fleet_common::compare::Preparation::Apart,
    );
    let blocks = blocks(&world.comparison);
    let sizes: Vec<usize> = families(&blocks[0], &world.records).iter().map(|f| f.records.len()).collect();
    assert_eq!(sizes, [4, 1, 4, 1], "two margins beside each other, another batch apart");
}

#[test]
fn the_terminal_has_a_line_per_planned_combination() {
    let world = fixture::traced();
    let text = of(&world, None);
    let line = "full · planned (seed 0): plan 4k 2w has 200.3 MiB to stay below: peak 200.0 MiB predicted, 201.0 MiB \
                measured (+0.5 %); running again takes 16.0 ms, 12 % of the blocks' time; it is the second, as the first missed";
    assert!(text.lines().any(|l| l == line), "{text}");
    assert_eq!(times(&text, "MiB predicted"), 2);
    assert!(of(&world, Some(60)).lines().all(|l| l.chars().count() <= 60));
}

fn of(world: &World, width: Option<u16>) -> String {
    table(&world.comparison, &world.records, width)
}
