//! The tables and the picture, of an answer made by hand.

use clap::{Args as _, Command, FromArgMatches as _};
use fleet_common::profile::{Block, Choice, Profile, Request, Step, StepOutcome};
use fleet_common::record::{BlockChoice, MemoryPlan, MemoryTrace, MemoryWindow, PeakPlace};
use fleet_common::spec::Checkpointing;
use fleet_common::worker::JobDevice;

use super::{Document, Options, SCHEMA, picture, text};

const MIB: u64 = 1 << 20;

fn options(args: &[&str]) -> Result<Options, String> {
    let command = Options::augment_args(Command::new("profile"));
    let matches = command.try_get_matches_from([&["profile"], args].concat()).map_err(|e| e.to_string())?;
    Options::from_arg_matches(&matches).map_err(|e| e.to_string())
}

fn request(args: &[&str]) -> Result<Request, String> {
    options(args)?.request(JobDevice::Cpu, 2)
}

fn block(name: &str, forward_ms: f64, kept_mib: u64) -> Block {
    let choice = |choice, kept: u64, again_ms: f64| Choice {
        choice,
        kept_bytes: kept * MIB,
        forward_bytes: 0,
        backward_bytes: 0,
        backward_seconds: 0.02,
        recompute_seconds: again_ms / 1e3,
    };
    let choices = vec![
        choice(BlockChoice::Keep, kept_mib, 0.0),
        choice(BlockChoice::Cheap, kept_mib / 2, forward_ms / 5.0),
        choice(BlockChoice::Whole, kept_mib / 5, forward_ms),
        choice(BlockChoice::WholeCheap, kept_mib / 5, forward_ms),
    ];
    Block { name: name.to_owned(), forward_seconds: forward_ms / 1e3, choices }
}

fn ran(checkpointing: Checkpointing, peak: u64, ms: f64, again: &[usize], plan: Option<MemoryPlan>) -> Step {
    let choice = |i| if again.contains(&i) { BlockChoice::Whole } else { BlockChoice::Keep };
    let window = |phase: &str, block, at, live, peak| {
        let place = PeakPlace { phase: phase.to_owned(), block };
        MemoryWindow { place, at, live, peak }
    };
    let windows = vec![
        window("forward", Some(0), 0.0, 50 * MIB, 90 * MIB),
        window("backward", Some(0), 20.0, 80 * MIB, peak * MIB),
        window("optimizer", None, 60.0, 60 * MIB, 61 * MIB),
    ];
    let outcome = StepOutcome::Ran {
        seconds: ms / 1e3,
        peak_bytes: peak * MIB,
        peak_place: Some(PeakPlace { phase: "backward".to_owned(), block: Some(0) }),
        choices: (0..12).map(choice).collect(),
        recompute_seconds: again.len() as f64 * 0.01,
        plan,
        trace: MemoryTrace { step: 1, milliseconds: ms as f32, windows },
    };
    Step { checkpointing, outcome }
}

fn document() -> Document {
    let plan = MemoryPlan {
        blocks: [vec![BlockChoice::Whole; 3], vec![BlockChoice::Cheap; 2], vec![BlockChoice::Keep; 7]].concat(),
        limit_bytes: 490 * MIB,
        predicted_peak_bytes: 480 * MIB,
        measured_peak_bytes: 482 * MIB,
        recompute_seconds: 0.04,
        blocks_seconds: 0.7,
        replanned: true,
    };
    let mut blocks: Vec<Block> =
        (0..11).map(|i| block(&format!("blocks.{i}"), 10.0 + 0.01 * f64::from(i), 40)).collect();
    blocks.push(block("blocks.11", 14.0, 40));
    blocks.push(block("norm", 14.0, 40));
    let steps = vec![
        Step {
            checkpointing: Checkpointing::None,
            outcome: StepOutcome::Failed { reason: "does not fit: needs 560.0 MiB of 500.0 MiB".to_owned() },
        },
        ran(Checkpointing::Static, 180, 1000.0, &(0..12).collect::<Vec<_>>(), None),
        ran(Checkpointing::Adaptive, 350, 900.0, &[7, 8, 9, 11], None),
        ran(Checkpointing::Planned, 482, 800.0, &[0, 1, 2], Some(plan)),
    ];
    let request = request(&["vit_small_patch16_224", "--budget", "500MiB"]).expect("a request");
    Document {
        schema: SCHEMA,
        request,
        profile: Profile { persistent_bytes: 331 * MIB, least_bytes: 400 * MIB, blocks, steps },
    }
}

#[test]
fn the_whole_text() {
    let expected = "\
vit_small_patch16_224, full, batch 32, 224 pixels, 100 classes, fp32, budget 500.0 MiB, 2 threads
From step to step stay 331 MiB: weights, optimiser state, buffers. A step needs at least 400 MiB, whatever runs again.

block        forward ms  keep MiB  cheap MiB  again ms  whole MiB  again ms
blocks.0–10        10.1      40.0       20.0      2.01       8.00      10.1
blocks.11          14.0      40.0       20.0      2.80       8.00      14.0
norm               14.0      40.0       20.0      2.80       8.00      14.0

checkpointing  peak MiB  of budget  in                   step ms  x none  runs again
static              180       36 %  backward of block 0     1000       -  blocks 0–11: 120 ms by the profile
adaptive            350       70 %  backward of block 0      900       -  blocks 7–9, 11: 40.0 ms by the profile
planned             482       96 %  backward of block 0      800       -  \
3w 2c 7k: 40.0 ms by the profile; peak 480 MiB predicted, 482 MiB measured (+0.4 %), the second plan
x none: does not fit: needs 560.0 MiB of 500.0 MiB
";
    let text = text(&document());
    assert!(text == expected, "{text}");
}

#[test]
fn blocks_share_a_line_only_if_all_their_figures_are_within_2_percent_and_they_follow_each_other() {
    let mut document = document();
    let names = |document: &Document| -> Vec<String> {
        let table = text(document);
        let lines = table.lines().skip_while(|l| !l.starts_with("block ")).skip(1).take_while(|l| !l.is_empty());
        lines.map(|l| l.split_whitespace().next().unwrap_or_default().to_owned()).collect()
    };
    document.profile.blocks = vec![
        block("stages.1.blocks.0", 10.0, 40),
        block("stages.1.blocks.1", 10.19, 40),
        block("stages.1.blocks.2", 10.21, 40),
        block("stages.2.blocks.3", 10.21, 40),
        block("stages.2.blocks.5", 10.21, 40),
    ];
    assert_eq!(
        names(&document),
        ["stages.1.blocks.0–1", "stages.1.blocks.2", "stages.2.blocks.3", "stages.2.blocks.5"]
    );
    document.profile.blocks = vec![block("blocks.0", 10.0, 40), block("blocks.1", 10.0, 40)];
    document.profile.blocks[1].choices[1].kept_bytes += MIB;
    assert_eq!(names(&document), ["blocks.0", "blocks.1"], "the cheap parts differ");
    document.profile.blocks[0].choices.truncate(1);
    assert!(
        text(&document).contains("blocks.0        10.0      40.0          -         -          -         -"),
        "{}",
        text(&document)
    );
    document.profile.blocks.clear();
    assert_eq!(names(&document), [""; 0]);
}

#[test]
fn times_are_set_against_those_without_checkpointing() {
    let mut document = document();
    document.profile.steps[0] = ran(Checkpointing::None, 499, 640.0, &[], None);
    let text = text(&document);
    let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
    assert!(
        line("none").ends_with("640    1.00  nothing") && line("planned").contains("800    1.25  3w 2c 7k"),
        "{text}"
    );
}

#[test]
fn the_picture_has_a_panel_per_strategy_with_its_limits() {
    let svg = picture(&document());
    assert_eq!(svg.matches("aria-label=\"Memory over one training step").count(), 4);
    for words in [
        "planned: peak 482 MiB in backward of block 0, 800 ms",
        "does not fit: needs 560.0 MiB of 500.0 MiB",
        "plan&apos;s limit 490 MiB",
        "threshold 250 MiB",
        "vit_small_patch16_224, full, batch 32, 224 pixels",
    ] {
        assert!(svg.contains(words), "{words}");
    }
    assert_eq!(svg.matches("budget 500 MiB").count(), 4);
}

#[test]
fn what_is_not_said_is_the_backbone_s_and_the_protocol_s() {
    let small = request(&["vit_small_patch16_224"]).expect("a request");
    let cell = &small.cells[0];
    let batch = |cell: &fleet_common::plan::CellSettings| cell.train.as_ref().expect("it trains").batch;
    assert_eq!((batch(cell), cell.image_size, cell.dataset.classes, small.steps), (32, 224, 100, 3));
    let strategies = |r: &Request| r.cells.iter().map(|c| c.checkpointing).collect::<Vec<_>>();
    assert_eq!(strategies(&small), [Checkpointing::None, Checkpointing::Static]);
    let micro = request(&["vit_micro", "--method", "lora", "--budget", "2GiB", "--batch", "8"]).expect("a request");
    assert_eq!(strategies(&micro), Checkpointing::ALL);
    let [cell, _, adaptive, planned] = &micro.cells[..] else { panic!("{:?}", micro.cells) };
    assert_eq!((batch(cell), cell.image_size, cell.budget_bytes), (8, 64, Some(2 << 30)));
    assert_eq!((adaptive.adaptive_ratio, planned.planned_margin), (Some(0.5), Some(0.02)));
    let targets = cell.method.targets().expect("adapters");
    assert_eq!(targets, ["fc1", "fc2", "qkv"]);
}

#[test]
fn what_is_wrong_says_what_was_expected_what_was_found_and_what_to_do() {
    for (args, parts) in [
        (&["vit_smal_patch16_224"][..], &["unknown backbone", "did you mean \"vit_small_patch16_224\"?"][..]),
        (&["vit_micro", "--method", "loar"], &["unknown method", "did you mean \"lora\"?"]),
        (&["vit_micro", "--budget", "MiB"], &["expected a size such as", "found \"MiB\""]),
        (&["vit_micro", "--budget", "0"], &["--budget", "expected a size such as 500MiB", "leave it out"]),
        (&["vit_micro", "--adaptive-ratio", "1.5"], &["expected a number above 0 and at most 1, found \"1.5\""]),
        (&["vit_micro", "--adaptive-ratio", "0"], &["above 0"]),
        (&["vit_micro", "--adaptive-ratio", "NaN"], &["above 0"]),
        (&["vit_micro", "--planned-margin", "0.6"], &["expected a number from 0 to 0.5, found \"0.6\""]),
        (&["vit_micro", "--checkpointing", "none,planed"], &["did you mean \"planned\"?"]),
        (
            &["vit_micro", "--checkpointing", "none,planned"],
            &["planned keeps as many activations as the budget allows", "--budget 500MiB", "leave planned out"],
        ),
        (&["vit_micro", "--checkpointing", "none,none"], &["each strategy once", "none twice"]),
        (&["vit_micro", "--image-size", "60"], &["expected a multiple of 8 for vit_micro, found 60"]),
        (&["vit_micro", "--precision", "fp16"], &["expected fp32 or bf16, found \"fp16\""]),
        (&["vit_micro", "--steps", "0"], &["--steps"]),
    ] {
        let error = request(args).expect_err("wrong");
        for part in parts {
            assert!(error.contains(part), "{args:?} lacks \"{part}\": {error}");
        }
    }
}
