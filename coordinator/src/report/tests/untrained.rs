//! Models that are used as they were published, beside those that are fine-tuned.

use fleet_common::compare::{Preparation, compare};
use fleet_common::contrast::{Factor, contrast};
use fleet_common::record::{Frozen, Record};
use fleet_common::score::Exponents;
use fleet_common::spec::Method;
use fleet_common::worker::Phase;

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

/// One trial of each method, and what one that answers has said.
pub(super) fn every_method() -> World {
    let trials = Method::ALL.map(|method| match method {
        m if m.trains() => trial(m.name(), "static", GPU, 0),
        Method::ZeroShot => Trial { backbone: "openclip_vit_b_32", ..trial("zero-shot", "none", GPU, 0) },
        Method::Knn | Method::LinearProbe => Trial { backbone: "dinov2_small", ..trial(method.name(), "none", GPU, 0) },
        _ => Trial { backbone: "smolvlm_256m", ..trial(method.name(), "none", GPU, 0) },
    });
    let mut world = World::of(&trials);
    super::answers::say(&mut world, super::answers::said());
    world
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
        "Hollow points are of models that are not trained.",
        "<th class=\"num\">prepare</th>",
        "colspan=\"18\"",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // What only one row of the table has is not said of all, nor of each that could have it.
    assert!(!page.contains("zero-shot · none") && page.contains("full · static"));
}

/// Seconds and joules of a phase.
fn took(record: &Record, phase: Phase) -> (f64, f64) {
    let phase = record.phase(phase).expect("a phase");
    (phase.seconds, phase.energy.value().expect("measured").joules)
}

#[test]
fn what_is_prepared_counts_where_that_is_asked_for_and_both_say_which_it_is() {
    const APART: &str =
        "What is prepared before the first image does not count as inference; with --count-preparation it does.";
    const COUNTED: &str = "What is prepared before the first image counts as inference (--count-preparation):";
    let mut world = mixed();
    let record = world.records.iter().find(|r| r.settings.method.method().name() == "knn").expect("one");
    let ((before, prepared), (after, classified)) = (took(record, Phase::Prepare), took(record, Phase::Evaluate));
    let shown = |x: f64| crate::report::numbers::significant(x, 3);
    // 400 images are evaluated; the fixture prepares for longer than it classifies.
    let apart = [shown(after / 400.0 * 1e3), shown(classified / 400.0)];
    let counted = [shown((before + after) / 400.0 * 1e3), shown((prepared + classified) / 400.0)];
    assert!(apart != counted, "{apart:?}");
    let alone = [shown(before), shown(prepared)];
    let check = |world: &World, says: &str, other: &str, values: &[String; 2]| {
        let text = table(&world.comparison, &world.records, None);
        let line = text.lines().find(|l| l.contains("knn")).expect("a row");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert!(values.iter().all(|v| cells.contains(&v.as_str())), "{values:?}\n{line}");
        assert!(text.contains(says) && !text.contains(other), "{text}");
        let page = html(&world.input());
        // Under the heads of inference, energy, and in the definitions of the scores.
        assert_eq!((page.matches(says).count(), page.matches(other).count()), (3, 0));
        let inference = page.split("<section id=\"inference\">").nth(1).and_then(|s| s.split("</section>").next());
        let inference = inference.expect("a section");
        assert!(inference.contains(says), "{inference}");
        let row = super::visible(inference.split("<tr>").find(|row| row.contains("knn")).expect("a row"));
        let cells: Vec<&str> = row.split_whitespace().collect();
        // Whatever counts, what is prepared stands there on its own.
        assert!(values.iter().chain(&alone).all(|v| cells.contains(&v.as_str())), "{values:?} {alone:?}\n{row}");
    };
    check(&world, APART, COUNTED, &apart);
    let trained = |world: &World| world.comparison.groups.iter().find(|g| g.settings.train.is_some()).cloned();
    let before = trained(&world);
    world.comparison = compare(&world.records, &Exponents::default(), Preparation::Counted);
    check(&world, COUNTED, APART, &counted);
    assert_eq!(trained(&world), before, "nothing changes where something is trained");
    // Where nothing is prepared there is nothing to say.
    let world = World::of(&[trial("full", "static", GPU, 0)]);
    let page = html(&world.input());
    assert!(!page.contains("What is prepared") && !table(&world.comparison, &world.records, None).contains("prepared"));
}

#[test]
fn a_comparison_by_hardware_says_it_too() {
    let records = super::published();
    for (preparation, says) in [
        (Preparation::Apart, "What is prepared before the first image does not count"),
        (Preparation::Counted, "What is prepared before the first image counts"),
    ] {
        let contrast = contrast(&records, Factor::Hardware, &Exponents::default(), preparation);
        assert!(report::contrast(&contrast, None).contains(says));
        assert_eq!(super::contrast_page::page_of(&contrast, &records).matches(says).count(), 2);
        let one = contrast.combinations[0].sides.iter().find(|s| s.hardware.as_str() == GPU).expect("a side");
        let whole = took(&records[1], Phase::Prepare).0 + took(&records[1], Phase::Evaluate).0;
        let seconds = one.inference.seconds.expect("timed").mean;
        assert_eq!(seconds == whole, preparation == Preparation::Counted, "{seconds} {whole}");
    }
}

#[test]
fn the_page_says_how_such_models_saw_the_images() {
    let model = |seed| Trial { backbone: "dinov2_small", ..trial("linear-probe", "none", GPU, seed) };
    let mut world = World::of(&[model(0), model(1), trial("full", "static", GPU, 0)]);
    let saw = |batch, image_size| Some(Frozen { batch, image_size, ..Frozen::default() });
    world.records[0].training.frozen = saw(64, Some(224));
    world.records[1].training.frozen = saw(64, Some(224));
    let page = html(&world.input());
    assert_eq!(page.matches("64 images of 224 × 224 at once").count(), 1, "alike in both trials");
    // Where less memory was free, fewer went through at once.
    world.records[1].training.frozen = saw(1, None);
    let page = super::visible(&html(&world.input()));
    assert!(page.contains("dinov2_small · linear-probe 1 image at once 64 images of 224 × 224 at once"), "{page}");
}

#[test]
fn models_that_are_not_trained_have_hollow_marks_and_no_strategy_in_legends() {
    let hollow = "r=\"3.7\" fill=\"none\"";
    let world = mixed();
    let figures = |world: &World| {
        let page = html(&world.input());
        let figures = page.split("<section id=\"figures\">").nth(1).and_then(|s| s.split("</section>").next());
        figures.expect("a section").to_owned()
    };
    let page = figures(&world);
    assert_eq!(page.matches(hollow).count(), 3, "one per such method");
    let legend = page.split("checkpointing:").nth(1).and_then(|s| s.split("</p>").next()).expect("a legend");
    assert!(legend.contains("static") && !legend.contains("none</span>"), "{legend}");
    // Their points have paper in the middle: a third circle beside its border and its colour.
    assert_eq!(page.matches("r=\"32\"").count(), 3 * 3, "three models in three charts");
    let world = World::of(&[trial("full", "static", GPU, 0), trial("lora", "static", GPU, 0)]);
    let page = figures(&world);
    assert!(!page.contains(hollow) && !page.contains("Hollow") && !page.contains("r=\"32\""));
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
    assert!(
        common.contains("training batch 32")
            && common.contains("training image side 64")
            && common.contains("evaluation batch 64"),
        "{common}"
    );
}

#[test]
fn columns_of_training_are_empty_and_those_of_inference_are_not() {
    let mut world = mixed();
    let zero_shot = world.records.iter_mut().find(|r| r.settings.method.method().name() == "zero-shot").expect("one");
    zero_shot.training.frozen = Some(Frozen { image_size: Some(256), ..Frozen::default() });
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
    let ((before, prepared), (after, classified)) =
        (took(&world.records[0], Phase::Prepare), took(&world.records[0], Phase::Evaluate));
    assert_eq!(of(0, "inference_joules_per_image").parse(), Ok(classified / 400.0));
    // Both numbers, whatever a report counts; of what is trained they are one.
    assert_eq!(of(0, "inference_with_prepare_joules_per_image").parse(), Ok((prepared + classified) / 400.0));
    assert_eq!(of(0, "inference_with_prepare_seconds_per_image").parse(), Ok((before + after) / 400.0));
    let peak = world.records[0].worker_phase(Phase::Prepare).expect("a phase").peak_bytes;
    assert_eq!(of(0, "inference_with_prepare_peak_bytes").parse(), Ok(peak));
    let score = |row, name: &str| of(row, name).parse::<f64>().expect("a score");
    for name in ["ns_e", "ns_sharp"] {
        assert!(score(0, &format!("inference_with_prepare_{name}")) < score(0, &format!("inference_{name}")));
        assert_eq!(score(3, &format!("inference_with_prepare_{name}")), score(3, &format!("inference_{name}")));
    }
    // What it saw is in its record; the settings have a nominal side.
    assert_eq!(
        (of(0, "image_size"), of(1, "image_size"), of(3, "image_size")),
        ("256".into(), String::new(), "64".into())
    );
}
