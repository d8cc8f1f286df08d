//! The table for spreadsheets.

use std::collections::BTreeMap;

use fleet_common::record::Record;

use super::fixture::{self, CPU, GPU, NO_METER, Trial, trial};
use crate::report;

fn table(trials: &[Trial]) -> (Vec<String>, Vec<BTreeMap<String, String>>) {
    of_records(&trials.iter().map(Trial::record).collect::<Vec<_>>())
}

fn of_records(records: &[Record]) -> (Vec<String>, Vec<BTreeMap<String, String>>) {
    let bytes = report::csv(records).expect("a table");
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let head: Vec<String> = reader.headers().expect("a head").iter().map(str::to_owned).collect();
    let rows = reader
        .records()
        .map(|row| head.iter().cloned().zip(row.expect("as long as the head").iter().map(str::to_owned)).collect())
        .collect();
    (head, rows)
}

/// Scripts refer to columns by name or number: new ones come last, and none goes.
#[test]
fn the_columns_are_those_of_the_readme() {
    let (head, rows) = table(&[]);
    assert_eq!(rows.len(), 0);
    assert_eq!((head[0].as_str(), head[38].as_str(), head[39].as_str()), ("trial", "macs", "top1_percent"));
    assert_eq!((head[49].as_str(), head[78].as_str(), head[79].as_str()), ("load_seconds", "save_images", "hardware"));
    assert_eq!((head[96].as_str(), head[99].as_str()), ("flags", "batch_norm"));
    assert_eq!((head[101].as_str(), head[102].as_str()), ("last_losses", "adaptive_ratio"));
    assert_eq!((head[109].as_str(), head[110].as_str()), ("replanned", "budget_scope"));
    assert_eq!((head[115].as_str(), head[116].as_str()), ("profile_peak_bytes", "train_above_idle_joules"));
    assert_eq!((head[132].as_str(), head[133].as_str()), ("agent_cpu_seconds", "method_settings"));
    assert_eq!((head[140].as_str(), head[141].as_str()), ("weights_from", "inference_with_prepare_seconds_per_image"));
    assert_eq!((head.len(), head[146].as_str()), (147, "inference_with_prepare_ns_sharp"));
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let phases = ["load_", "warm_up_", "train_", "evaluate_", "save_"];
    for (i, name) in head.iter().enumerate() {
        let of_phase =
            (49..79).contains(&i).then(|| phases.iter().find_map(|p| name.strip_prefix(p)).expect("a phase"));
        let name = of_phase.unwrap_or(name);
        assert!(readme.contains(&format!("`{name}`")), "the README lacks the column {name}");
    }
}

#[test]
fn values_are_those_of_the_record_and_what_is_missing_is_empty_with_its_reason() {
    let crashed = serde_json::json!({ "class": "crashed", "message": "said \"no\",\nand left" });
    let trials = [
        trial("lora", "static", GPU, 3),
        trial("full", "none", CPU, 0),
        Trial { outcome: crashed, ..trial("full", "none", CPU, 1) },
    ];
    let (_, rows) = table(&trials);
    let record = trials[0].record();
    let of = |row: usize, column: &str| rows[row][column].as_str();
    assert_eq!((of(0, "method"), of(0, "lora_rank"), of(0, "lora_targets")), ("lora", "8", "fc1 fc2 qkv"));
    assert_eq!((of(0, "seed"), of(0, "weights"), of(0, "learning_rate")), ("3", "scratch", "0.005"));
    assert_eq!(of(0, "top1_percent").parse(), Ok(record.training.top1_percent.expect("an accuracy")));
    let train = record.phase(fleet_common::worker::Phase::Train).expect("a phase");
    assert_eq!(of(0, "train_joules").parse(), Ok(train.energy.value().expect("measured").joules));
    assert_eq!((of(0, "train_energy_domain"), of(0, "gpu")), ("gpu", GPU));
    assert!(of(0, "training_ns_sharp").parse::<f64>().is_ok_and(|s| s > 0.0));
    assert_eq!((of(1, "train_joules"), of(1, "train_energy_unavailable"), of(1, "training_ns_e")), ("", NO_METER, ""));
    assert!(!of(1, "training_ns_m").is_empty());
    let mean = |losses: &[f32]| losses.iter().copied().map(f64::from).sum::<f64>() / losses.len() as f64;
    let (losses, tenth) = (&record.training.losses, record.training.losses.len().div_ceil(10));
    assert_eq!(of(0, "first_losses").parse(), Ok(mean(&losses[..tenth])));
    assert_eq!(of(0, "last_losses").parse(), Ok(mean(&losses[losses.len() - tenth..])));
    // Quotes, commas and line breaks survive; a trial that ended early has no scores.
    assert_eq!((of(2, "outcome"), of(2, "reason"), of(2, "ns")), ("crashed", "said \"no\",\nand left", ""));
}

#[test]
fn what_a_strategy_was_told_and_what_a_plan_expected_have_columns() {
    let records = fixture::traced().records;
    let (_, rows) = of_records(&records);
    let row = |checkpointing| rows.iter().find(|r| r["checkpointing"] == checkpointing).expect("a row");
    let of =
        |checkpointing, columns: &[&str]| columns.iter().map(|c| row(checkpointing)[*c].clone()).collect::<Vec<_>>();
    let adaptive = ["adaptive_ratio", "recompute_threshold_bytes", "planned_margin", "plan"];
    assert_eq!(of("adaptive", &adaptive), ["0.5", "134217728", "", ""]);
    let planned = ["adaptive_ratio", "planned_margin", "plan", "predicted_peak_bytes", "plan_measured_peak_bytes"];
    assert_eq!(of("planned", &planned), ["", "0.02", "4k 2w", "209715200", "210763776"]);
    assert_eq!(of("planned", &["recompute_seconds", "replanned"]), ["0.016", "false"]);
    assert!(of("static", &["plan", "recompute_seconds", "replanned"]).iter().all(String::is_empty));
}
