//! Facts that a report must state, whatever it looks like.

mod answers;
mod contrast;
mod contrast_page;
mod csv;
mod fixture;
mod sentences;
mod steps;
mod terminal;
mod untrained;

use fleet_common::compare::{Preparation, compare};
use fleet_common::record::{EnergyDomain, Reading};
use fleet_common::score::Exponents;
use fleet_common::spec::{Checkpointing, Method};

use fixture::{CPU, GPU, NO_METER, Trial, World, matrix, rich, trial};
use serde_json::json;

use super::blocks::{Cost, blocks};
use super::html;

/// Records of both hardware classes, for tests of what carries them.
pub(crate) fn records() -> Vec<fleet_common::record::Record> {
    [CPU, GPU].iter().flat_map(|hardware| matrix("vit_micro", "textures", hardware, 1)).map(|t| t.record()).collect()
}

/// One model that is used as it is published, on both hardware classes.
pub(crate) fn published() -> Vec<fleet_common::record::Record> {
    let model = |hardware| Trial { backbone: "dinov2_small", ..trial("knn", "none", hardware, 0) };
    [CPU, GPU].map(|hardware| model(hardware).record()).into()
}

/// A model that was asked, and has answered.
pub(crate) fn asked() -> Vec<fleet_common::record::Record> {
    answers::asked(answers::said()).records
}

/// What must nowhere become markup.
const EVIL: &str = "\"><script>alert(1)</script><svg/onload=x>'&";

/// How often `needle` occurs.
fn times(text: &str, needle: &str) -> usize {
    text.matches(needle).count()
}

/// What a reader sees: the page without its style sheet and its tags.
fn visible(page: &str) -> String {
    let body = page.split_once("</style>").map_or(page, |(_, rest)| rest);
    let mut text = String::new();
    let mut inside = false;
    for c in body.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_failure_stands_with_its_class_and_reason() {
    let text = visible(&html(&rich().input()));
    for fact in [
        "needs 913.0 MiB of 512.0 MiB during forward of block 7",
        "the loss was not a number at step 31",
        "the worker ended by signal 11",
        "expected 8 classes, found 10",
        "stopped on request",
        "does not fit",
        "diverged",
        "crashed",
        "bad input",
        "cancelled",
        "data/dtd is not there",
        "an interval wants 5",
        "several owners of the device",
    ] {
        assert!(text.contains(fact), "{fact}");
    }
    // The diverged seed belongs to a combination with a mean, which must say that it is a mean over survivors.
    assert!(text.contains("3 +1 diverged"), "survivors");
}

#[test]
fn a_reason_for_missing_values_stands_once_and_is_referred_to() {
    let page = html(&rich().input());
    assert_eq!(times(&visible(&page), "the package energy counter can be read by root only"), 1);
    assert!(times(&page, "href=\"#note-1\"") > 12);
    assert_eq!(times(&page, "id=\"note-1\""), 1);
}

#[test]
fn nothing_is_fetched_from_anywhere() {
    is_self_contained(&html(&rich().input()));
}

fn is_self_contained(page: &str) {
    for (at, _) in page.match_indices("://") {
        let context = &page[at.saturating_sub(16)..(at + 30).min(page.len())];
        assert!(context.contains("href=\"https://arxiv.org/abs/"), "{context}");
    }
    for tag in ["<script", "<link", "<img", "<iframe", "<object", "@import", "url(", "src=", "onload", "xlink"] {
        assert!(!page.contains(tag), "{tag}");
    }
}

#[test]
fn markup_from_outside_is_text() {
    let mut world = World::of(&[
        Trial {
            dataset: EVIL,
            outcome: json!({ "class": "crashed", "message": EVIL }),
            ..trial("full", "none", CPU, 0)
        },
        Trial { dataset: EVIL, flags: vec![EVIL], ..trial("full", "static", CPU, 0) },
        Trial { dataset: EVIL, flags: vec![EVIL], ..trial("lora", "static", CPU, 0) },
        Trial { dataset: EVIL, hardware: "<script>GPU<\\script>", ..trial("lora", "none", CPU, 0) },
    ]);
    world.campaign = EVIL.to_owned();
    world.toml = EVIL.to_owned();
    world.warnings = vec![EVIL.to_owned()];
    for record in &mut world.records {
        record.machine.host = EVIL.to_owned();
        record.machine.os = EVIL.to_owned();
        record.training.software.libtorch = EVIL.to_owned();
    }
    let page = html(&world.input());
    assert!(!page.contains("<script") && !page.contains("<svg/onload"), "markup got through");
    assert!(times(&page, "&lt;script&gt;alert(1)&lt;/script&gt;") > 8);
}

#[test]
fn elements_are_closed_and_anchors_exist() {
    is_well_formed(&html(&rich().input()));
}

fn is_well_formed(page: &str) {
    const VOID: [&str; 5] = ["!DOCTYPE", "meta", "br", "hr", "input"];
    let mut open: Vec<&str> = Vec::new();
    for piece in page.split('<').skip(1) {
        let tag = piece.split('>').next().expect("a tag");
        let name = tag.split([' ', '\n']).next().expect("a name");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for (at, _) in page.match_indices("href=\"#") {
        let id = page[at + 7..].split('"').next().expect("an anchor");
        assert_eq!(times(page, &format!("id=\"{id}\"")), 1, "{id}");
    }
}

#[test]
fn every_mark_of_the_front_is_shown() {
    let world = rich();
    let marks: usize = blocks(&world.comparison)
        .iter()
        .flat_map(|b| &b.rows)
        .map(|r| Cost::ALL.iter().filter(|c| r.on_front(**c) == Some(true)).count())
        .sum();
    assert!(marks > 2);
    // One more explains the mark.
    assert_eq!(times(&html(&world.input()), "◆"), marks + 1);
}

#[test]
fn trials_that_were_given_up_are_named_with_their_reason() {
    let world = rich();
    let given_up = [("lora · vit_micro · none · textures · seed 9".to_owned(), "agent x fell silent".to_owned())];
    let page = html(&super::ReportInput { given_up: &given_up, ..world.input() });
    let text = visible(&page);
    assert!(text.contains("seed 9: agent x fell silent") && text.contains("fleet retry --failed"));
    assert!(!visible(&html(&world.input())).contains("Given up"));
}

#[test]
fn numbers_of_evaluated_images_are_not_mixed() {
    let mut trials = matrix("vit_micro", "textures", CPU, 1);
    trials.extend(matrix("vit_micro", "textures", CPU, 1).into_iter().map(|t| Trial {
        evaluated: 100,
        batch: 16,
        ..t
    }));
    let outcome = json!({ "class": "diverged", "step": 3 });
    let diverged = |batch, seed| Trial { outcome: outcome.clone(), batch, ..trial("lora", "none", CPU, seed) };
    trials.extend([diverged(32, 5), diverged(8, 6)]);
    let world = World::of(&trials);
    let blocks = blocks(&world.comparison);
    assert_eq!(
        blocks.iter().map(|b| (b.evaluated, b.rows.len())).collect::<Vec<_>>(),
        [(Some(100), 6), (Some(400), 6)]
    );
    assert_eq!(blocks.iter().map(|b| b.failures.len()).collect::<Vec<_>>(), [1, 1], "beside their combinations");
    assert_eq!(times(&html(&world.input()), "aria-label=\"Allocated memory"), 6 + 6 + 1, "no trace in two blocks");
    for block in &blocks {
        assert!(block.rows.iter().any(|r| r.on_front(Cost::Memory) == Some(true)), "each has a front of its own");
    }
}

#[test]
fn joules_of_different_domains_are_not_mixed() {
    let mut world = World::of(&matrix("vit_micro", "textures", GPU, 3));
    for record in &mut world.records {
        if record.settings.checkpointing != Checkpointing::None || record.settings.method.method() == Method::Lora {
            for phase in &mut record.phases {
                if let Reading::Measured(energy) = &mut phase.energy {
                    energy.domain = EnergyDomain::CpuPackages;
                }
            }
        }
    }
    world.comparison = compare(&world.records, &Exponents::default(), Preparation::Apart);
    let blocks = blocks(&world.comparison);
    let on: Vec<&str> =
        blocks[0].rows.iter().filter(|r| r.on_front(Cost::Energy) == Some(true)).map(|r| r.label.as_str()).collect();
    // By joules alone, full · static would lose to full · none; of its domain it is the most accurate.
    assert_eq!(on, ["full · none", "full · static", "lora · none", "bitfit · none"]);
    let page = html(&world.input());
    assert_eq!(times(&page, "Top-1 accuracy against training energy"), 2, "a chart for each");
    let text = visible(&page);
    assert!(text.contains("of all CPU packages of the machine") && text.contains("of the GPU board"));
    let sentences = super::findings::findings(&blocks[0]).concat();
    assert!(sentences.contains("bitfit needed 48 % less peak memory (412 → 214 MiB) and 26 % less training energy"));
    assert!(sentences.contains("lora needed 41 % less peak memory (412 → 243 MiB), at"), "{sentences}");
}

#[test]
fn settings_stand_with_the_row_or_with_the_table() {
    let world = World::of(&matrix("vit_micro", "textures", CPU, 1));
    let blocks = blocks(&world.comparison);
    let lora = blocks[0].rows.iter().find(|r| r.label == "lora · none").expect("a row");
    assert_eq!(lora.particular, ["alpha 16", "dropout 0", "rank 8", "targets fc1 fc2 qkv", "learning rate 5e-3"]);
    assert_eq!(
        blocks[0].common,
        [
            "memory budget 512.0 MiB",
            "classes 8",
            "evaluation batch 64",
            "image side 64",
            "augment yes",
            "batch 32",
            "sampling replacement",
            "steps 240",
            "warm up steps 2",
            "weight decay 0.05"
        ]
    );
}

#[test]
fn rows_of_one_name_are_told_apart_by_what_differs() {
    let twin = |batch, weights: Option<&str>| Trial {
        batch,
        weights: weights.map(|w| w.repeat(16)),
        ..trial("lora", "none", GPU, 0)
    };
    let world = World::of(&[twin(32, None), twin(64, None), twin(64, Some("c0de"))]);
    let blocks = blocks(&world.comparison);
    let mut labels: Vec<&str> = blocks[0].rows.iter().map(|r| r.label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(
        labels,
        [
            "lora · none · batch 32 · from scratch",
            "lora · none · batch 64 · from a file · weights c0dec0de",
            "lora · none · batch 64 · from scratch"
        ]
    );
}

#[test]
fn charts_are_drawn_where_there_is_something_to_draw() {
    let page = html(&rich().input());
    // Per hardware class: memory and time, energy where it was measured, one loss chart; a trace per combination.
    for (what, count) in [
        ("Top-1 accuracy against peak training memory", 2),
        ("Top-1 accuracy against training time", 2),
        ("Top-1 accuracy against training energy", 1),
        ("Training loss of", 2),
        ("Allocated memory over the time of one trial", 6 + 6 + 3),
        ("Power over the time of one trial", 6),
    ] {
        assert_eq!(times(&page, &format!("aria-label=\"{what}")), count, "{what}");
    }
    assert!(!page.contains("could not be drawn"));
    let lone = html(&World::of(&[trial("lora", "none", CPU, 0)]).input());
    assert!(!lone.contains("Top-1 accuracy against"), "one point is no comparison");
    assert_eq!(times(&lone, "◆"), 1, "only the explanation: a row without rivals wins nothing");
}

#[test]
fn nothing_finished_is_a_page_too() {
    let mut world = World::of(&[]);
    world.waiting = 10;
    world.running = 2;
    let page = html(&world.input());
    let text = visible(&page);
    assert!(
        text.contains("Nothing has finished yet: the campaign asks for 12 trials; 2 are running and 10 are waiting.")
    );
    assert!(text.contains("The campaign file"));
    for absent in ["NS-E", "Figures", "NaN", "not a number"] {
        assert!(!text.contains(absent), "{absent}");
    }
    assert!(!text.contains(NO_METER));
}

/// Writes pages to look at: `FLEET_REPORT_DIR=/some/folder cargo test … -- --ignored write_pages`.
#[test]
#[ignore = "writes files for people to look at"]
fn write_pages() {
    let Some(folder) = std::env::var_os("FLEET_REPORT_DIR").map(std::path::PathBuf::from) else { return };
    let mut sixty = Vec::new();
    for backbone in ["vit_micro", "vit_tiny_patch16_224", "vit_small_patch16_224"] {
        for batch in [16, 32, 64] {
            sixty.extend(matrix(backbone, "textures", GPU, 2).into_iter().map(|t| Trial { batch, ..t }));
        }
    }
    let mut twelve = matrix("vit_micro", "textures", GPU, 3);
    twelve.extend(matrix("vit_tiny_patch16_224", "textures", GPU, 3));
    let mut empty = World::of(&[]);
    empty.waiting = 12;
    for (name, world) in [
        ("rich", rich()),
        ("empty", empty),
        ("one", World::of(&[trial("lora", "none", CPU, 0)])),
        ("traced", fixture::traced()),
        ("twelve", World::of(&twelve)),
        ("sixty", World::of(&sixty)),
        ("untrained", untrained::every_method()),
    ] {
        std::fs::write(folder.join(format!("{name}.html")), html(&world.input())).expect("written");
    }
    for factor in fleet_common::contrast::Factor::ALL {
        let page = contrast_page::page(factor, &contrast::two_machines().iter().map(Trial::record).collect::<Vec<_>>());
        std::fs::write(folder.join(format!("by-{}.html", factor.name())), page).expect("written");
    }
}
