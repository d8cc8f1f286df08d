//! Models that are used as they were published, beside those that are fine-tuned.

use fleet_common::record::Reading;

use super::fixture::{CPU, GPU, Trial, World, trial};
use crate::report::{self, html, table};

/// Zero-shot, neighbours and a probe, and one fine-tuned model, on a device with a meter.
fn mixed() -> World {
    let model = |method, backbone| Trial { backbone, ..trial(method, "none", GPU, 0) };
    World::of(&[
        model("zero-shot", "openclip_vit_b_32"),
        model("knn", "dinov2_small"),
        model("linear-probe", "dinov2_small"),
        trial("full", "static", GPU, 0),
    ])
}

#[test]
fn the_terminal_compares_inference_where_something_is_not_trained() {
    let world = mixed();
    let text = table(&world.comparison, &world.records, None);
    for head in ["test MiB", "test ms/img", "test J/img", "test NS#"] {
        assert!(text.lines().nth(1).is_some_and(|l| l.contains(head)), "{head}\n{text}");
    }
    let line = |name: &str| text.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
    assert!(line("zero-shot").contains(" – "), "no strategy of checkpointing: {}", line("zero-shot"));
    // Its training side has no scores and says why; its inference side has them.
    assert!(line("zero-shot").contains("n/a ["), "{}", line("zero-shot"));
    let group = &world.comparison.groups.iter().find(|g| g.settings.train.is_none()).expect("one").inference;
    let score = group.scores.ns_sharp.value().expect("measured").mean;
    let shown = crate::report::numbers::significant(score, 4);
    assert!(text.contains(&shown), "{shown}\n{text}");
    assert!(text.contains("Where nothing is trained, the training side is"), "{text}");
    // Of fine-tuned models alone nothing changes.
    let world = World::of(&[trial("full", "static", GPU, 0)]);
    assert!(!table(&world.comparison, &world.records, None).contains("test "));
}

#[test]
fn the_page_has_one_table_of_inference_and_the_settings_in_words() {
    let world = mixed();
    let page = html(&world.input());
    assert_eq!(page.matches("<table class=\"inference\">").count(), 1);
    for words in [
        "openclip_vit_b_32",
        "published c0ffee00",
        "2 templates",
        "20 neighbours",
        "whose votes weigh the same",
        "the best of 3 rates from 1e-5 to 0.1",
        "0.1 of each class held back",
        "what it takes before the first image can be classified",
        "A trial that trains nothing prepares instead",
        "<th class=\"num\">prepare</th>",
        "colspan=\"18\"",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // What only one row of the table has is not said of all, nor of each that could have it.
    assert!(!page.contains("zero-shot · none") && page.contains("full · static"));
}

#[test]
fn settings_of_training_are_shared_by_those_that_train() {
    let model = |method, backbone, hardware| Trial { backbone, ..trial(method, "none", hardware, 0) };
    let world = World::of(&[
        model("zero-shot", "openclip_vit_b_32", CPU),
        trial("full", "none", CPU, 0),
        trial("full", "static", CPU, 0),
    ]);
    let page = html(&world.input());
    let common = page.split("Common to all rows: ").nth(1).and_then(|rest| rest.split("</p>").next()).expect("there");
    assert!(common.contains("training batch 32") && common.contains("evaluation batch 64"), "{common}");
}

#[test]
fn columns_of_training_are_empty_and_those_of_inference_are_not() {
    let world = mixed();
    let bytes = report::csv(&world.records).expect("a table");
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let head: Vec<String> = reader.headers().expect("a head").iter().map(str::to_owned).collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(|r| r.expect("a row")).collect();
    let of = |row: usize, name: &str| rows[row][head.iter().position(|h| h == name).expect("a column")].to_owned();
    for name in [
        "steps",
        "batch",
        "learning_rate",
        "sampling",
        "augment",
        "schedule",
        "precision",
        "batch_norm",
        "train_seconds",
        "train_joules",
        "training_ns_m",
    ] {
        assert_eq!(of(0, name), "", "{name}");
        assert_ne!(of(3, name), "", "{name}");
    }
    assert_eq!((of(0, "weights"), of(0, "weights_from")), ("c0ffee00".repeat(8), "published".to_owned()));
    assert_eq!((of(0, "method"), of(1, "method_settings")), ("zero-shot".to_owned(), "{\"k\":20}".to_owned()));
    for name in ["ns", "inference_ns_m", "inference_seconds_per_image", "inference_joules_per_image"] {
        assert!((0..4).all(|row| of(row, name).parse::<f64>().is_ok()), "{name}");
    }
    assert!(of(0, "prepare_seconds").parse::<f64>().is_ok() && of(3, "prepare_seconds").is_empty());
    let Reading::Measured(energy) = &world.records[0].phases[2].energy else { panic!("measured") };
    assert_eq!(of(0, "inference_joules_per_image").parse(), Ok(energy.joules / 400.0));
}
