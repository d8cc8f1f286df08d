//! All fine-tuning methods in one campaign, from the file to the comparison.

use fleet_tests::{Coordinator, Fleet};
use serde_json::Value;

/// What trains of `vit_micro` with a head for 8 classes: 6 blocks of width 128 with layers qkv (128 → 384),
/// proj (128 → 128), fc1 (128 → 512) and fc2 (512 → 128); the head has 1,032 parameters.
const TRAINABLE: [(&str, u64); 5] = [
    ("full", 1_224_072),
    // Rank 8 beside qkv, fc1 and fc2: 6 · 8 · (512 + 640 + 640).
    ("lora", 86_016 + 1_032),
    // Rank 12, and a singular value per rank: 6 · 12 · (512 + 640 + 640 + 3).
    ("adalora", 129_240 + 1_032),
    ("qlora", 86_016 + 1_032),
    // Of a block 1,408; the patches', the last norm's.
    ("bitfit", 6 * 1_408 + 128 + 128 + 1_032),
];

/// Of each of 18 adapted layers.
const TARGET_RANK: u64 = 8;

#[test]
fn a_campaign_of_all_methods_is_trained_told_apart_exported_and_compared() {
    let fleet = Fleet::new();
    let tail = "[method.adalora]\ntinit = 1\ntfinal = 2\ndelta_t = 1\n[method.qlora]\ndouble_quantization = true\n\
                [checkpointing.adaptive]\nratio = 0.01\n";
    let file = fleet.campaign("methods", 1, "", tail);
    let text = std::fs::read_to_string(&file).expect("a file").replace("steps = 4", "steps = 6");
    let all: Vec<String> = TRAINABLE.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let text = text.replace("[\"full\", \"lora\", \"bitfit\"]", &format!("[{}]", all.join(", ")));
    let text = text.replace("[\"none\", \"static\"]", "[\"none\", \"static\", \"adaptive\", \"planned\"]");
    std::fs::write(&file, text).expect("writes");

    // The coordinator below opens the same state.
    let local = ["local", "methods.toml", "--state", "."];
    let report = fleet.fleet(&[&local[..], &["--json"]].concat()).ended_with(0).json();
    assert_eq!(report["finished"]["completed"], 20, "{report}");
    let groups = report["comparison"]["groups"].as_array().expect("groups");
    for (name, trainable) in TRAINABLE {
        let of: Vec<&Value> = groups.iter().filter(|g| g["settings"]["method"]["name"] == name).collect();
        assert_eq!(of.len(), 4, "{name}, without and with checkpointing of each kind");
        assert!(of.iter().all(|g| g["trainable"] == trainable), "{name}: {}", of[0]["trainable"]);
        assert!(
            of.iter().all(|g| g["top1_percent"] == of[0]["top1_percent"]),
            "{name}: checkpointing changes no number"
        );
    }
    let table = fleet.fleet(&local).ended_with(0).stdout;
    for (name, _) in TRAINABLE {
        let rows = table.lines().filter(|l| l.starts_with("vit_micro") && l.split_whitespace().nth(1) == Some(name));
        assert_eq!(rows.count(), 4, "{name}:\n{table}");
    }

    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    let lines = fleet.fleet(&["export", "methods", "--jsonl", "records.jsonl", url[0], url[1]]).ended_with(0);
    let lines = lines.stdout + &std::fs::read_to_string(fleet.path().join("records.jsonl")).expect("records");
    let records: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("a record")).collect();
    assert_eq!(records.len(), 20);
    for record in &records {
        let (how, training) = (&record["settings"]["checkpointing"], &record["training"]);
        let again = training["recomputed_blocks"].as_array().expect("a list").len();
        // A hundredth of 1 GiB is in use after some of the six blocks, if not from the start.
        match how.as_str().expect("a name") {
            "none" => assert_eq!(again, 0, "{training}"),
            "static" => assert_eq!(again, 6, "{training}"),
            "adaptive" => assert!((1..=6).contains(&again), "{training}"),
            _ => assert_eq!(again, 0, "1 GiB is enough for everything: {training}"),
        }
        let plan = training["memory_plan"]["blocks"].as_array();
        let keep = (how == "planned").then_some(6);
        assert_eq!(plan.map(|p| p.iter().filter(|b| *b == "keep").count()), keep, "{training}");
        let threshold = (how == "adaptive").then_some(((1u64 << 30) as f64 * 0.01) as u64);
        assert_eq!(training["recompute_threshold_bytes"].as_u64(), threshold);
        let (method, ranks) = (&record["settings"]["method"]["name"], &record["training"]["ranks"]);
        let Some(ranks) = ranks.as_object() else {
            assert_ne!(method, "adalora", "only AdaLoRA allots ranks");
            continue;
        };
        assert_eq!(method, "adalora");
        assert!(ranks.contains_key("blocks.5.mlp.fc2"), "{ranks:?}");
        let left: Vec<u64> = ranks.values().filter_map(Value::as_u64).collect();
        assert_eq!((left.len() as u64, left.iter().sum::<u64>()), (18, 18 * TARGET_RANK), "{ranks:?}");
        assert!(left.iter().any(|r| *r != TARGET_RANK), "by importance, not evenly: {ranks:?}");
    }

    // What was planned against what was measured, before and after it is known.
    let peaks = |extra: &[&str]| -> Vec<(u64, String)> {
        let plan = fleet.fleet(&[&["plan", "methods.toml", "--json"], extra].concat()).ended_with(0).json();
        let cells = plan["cells"].as_array().expect("cells").iter();
        let of = |cell: &Value| {
            assert_eq!(cell["shortage"], Value::Null, "{cell}");
            let from = cell["expected"]["basis"]["from"].as_str().expect("a basis").to_owned();
            (cell["expected"]["peak_bytes"].as_u64().expect("bytes"), from)
        };
        cells.map(of).collect()
    };
    let (estimated, measured) = (peaks(&[]), peaks(&url));
    assert!(
        estimated.iter().all(|(_, from)| from == "estimated") && measured.iter().all(|(_, from)| from == "measured")
    );
    for ((estimated, _), (measured, _)) in estimated.iter().zip(&measured) {
        assert!(estimated.abs_diff(*measured) * 20 < *measured, "estimated {estimated}, measured {measured}");
    }

    fleet.fleet(&["import", "records.jsonl", "--as", "elsewhere", url[0], url[1]]).ended_with(0);
    for sets in [&["methods"][..], &["elsewhere"]] {
        let compared = fleet
            .fleet(&[&["compare"], sets, &["--by", "method", "--json", url[0], url[1]]].concat())
            .ended_with(0)
            .json();
        let levels: Vec<&str> =
            compared["levels"].as_array().expect("levels").iter().map(|l| l.as_str().expect("a name")).collect();
        assert_eq!(levels, TRAINABLE.map(|(name, _)| name), "in the order of tables");
        assert_eq!(compared["ratios"].as_array().map(Vec::len), Some(10), "every two of five");
        assert_eq!(compared["combinations"].as_array().map(Vec::len), Some(4), "by checkpointing");
    }
}

/// The example asks for all of it: nothing is left out but for data that is not in this folder.
#[test]
fn the_example_of_all_methods_is_a_whole_plan() {
    let fleet = Fleet::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/campaigns/methods.toml");
    let plan = fleet.fleet(&["plan", example, "--json"]).ended_with(0).json();
    let excluded = plan["excluded"].as_array().expect("a list");
    assert_eq!(excluded.iter().filter_map(|e| e["cells"].as_u64()).sum::<u64>(), 5 * 2 * 2 * 2, "{plan}");
    for one in excluded {
        let (data, reason) = (one["dataset"].as_str().expect("a name"), one["reason"].as_str().expect("a reason"));
        assert!(reason.contains(&format!("fleet data get {data}")), "{one}");
    }
}
