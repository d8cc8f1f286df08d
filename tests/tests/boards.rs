//! From the symbols of NVIDIA's library to the words of a report: two unlike boards that a script plays, their trials'
//! records, a real coordinator that imports them, and what it says of the boards' joules.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fleet_agent::device::Nvidia;
use fleet_agent::meter::{self, Account, Cache, Places};
use fleet_common::energy::Readings;
use fleet_common::id::Attempt;
use fleet_common::record::{Metering, PhaseRecord, Record};
use fleet_common::telemetry::MonoNanos;
use fleet_common::worker::Phase;
use fleet_tests::{Coordinator, Fleet};
use serde_json::{Value, json};

const SCRIPT: &str = "boards 2
0 name NVIDIA GeForce RTX 4090
0 power 0:60 9.9:60 10:320 75:320 75.1:200
0 averaging 1
0 update 0.1
1 name NVIDIA GeForce RTX 2060 SUPER
1 power 0:15 9.9:15 10:170 75:170 75.1:120
1 counter 0
1 capability 7 5
1 others 0:0 30:2 40:0
";

fn compile(dir: &Path) -> PathBuf {
    let library = dir.join("libnvidia-ml.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("stand_ins/nvml.c");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-lm").status();
    assert!(status.unwrap().success(), "the stand-in does not compile");
    std::fs::write(dir.join("script"), SCRIPT).unwrap();
    library
}

fn at(seconds: f64) -> MonoNanos {
    MonoNanos((seconds * 1e9).round() as u64)
}

/// The phases of a trial on each board, by its name: it trains from 10 s to 75 s and evaluates until 140 s.
fn trials(dir: &Path) -> Vec<(String, Vec<PhaseRecord>, Vec<String>, Metering)> {
    let nvidia = Arc::new(Nvidia::open(Some(&compile(dir))).unwrap());
    let places = Places { powercap: "/nowhere".into(), hwmon: "/nowhere".into(), wall: None };
    let cache = Cache::open(Path::new("/nowhere"));
    let set = |t: f64| std::fs::write(dir.join("now"), t.to_string()).unwrap();
    set(0.0);
    let slots = nvidia.boards(None, None).slots;
    let of = |slot: &fleet_agent::device::Slot| {
        let mut found = meter::of(slot, "host", Some(&nvidia), &places, None, &cache);
        let mut readings = Readings::default();
        for tick in 0..1420 {
            let t = f64::from(tick) / 10.0;
            set(t);
            found.meters[0].read(at(t)).iter().for_each(|r| readings.push(r.at, r.channel, r.value));
        }
        let account = Account { readings: &readings, covered: &found.covered };
        let marks = [(Phase::Load, at(2.0)), (Phase::Train, at(10.0)), (Phase::Evaluate, at(75.0))];
        let (phases, remarks) = account.phases(Attempt::FIRST, &marks, at(140.0));
        let meters = found.covered.all().map(meter::Metered::describe).collect();
        (slot.hardware.to_string(), phases, remarks, Metering { every_seconds: 0.1, meters, ..Metering::default() })
    };
    slots.iter().map(of).collect()
}

fn record(hardware: &str, phases: Vec<PhaseRecord>, flags: Vec<String>, metering: Metering) -> Record {
    let worker = |name: &str, images: u64| {
        json!({ "phase": name, "steps": 100, "images": images, "compute_seconds": 60.0, "data_wait_seconds": 1.0,
                "peak_bytes": 1u64 << 30, "peak_reserved_bytes": 1u64 << 30 })
    };
    let document = json!({
        "schema": "fleet.record/1",
        "trial": { "cell": "0".repeat(32), "hardware": hardware, "repeat": 0 }, "attempt": 1,
        "settings": {
            "definition": 1, "method": { "name": "full" }, "backbone": "vit_micro", "image_size": 64,
            "checkpointing": "none", "dataset": { "name": "textures", "fingerprint": "ab", "classes": 8 },
            "weights": { "from": "scratch" }, "seed": 0, "budget_bytes": null,
            "train": { "steps": 100, "warm_up_steps": 0, "batch": 32, "learning_rate": 0.001, "weight_decay": 0.05,
                       "sampling": "replacement", "augment": true },
            "evaluate": { "batch": 64 }
        },
        "outcome": { "class": "completed" },
        "training": {
            "parameters": 2_000_000, "trainable": 2_000_000, "macs": 500_000_000u64, "losses": [1.0], "top1_percent": 60.0,
            "evaluation_loss": 1.0, "evaluated": 400, "phases": [worker("train", 3200), worker("evaluate", 400)],
            "recomputed_blocks": [],
            "software": { "fleet": "0", "libtorch": "0", "threads": 1, "decode_threads": 1 }
        },
        "phases": phases, "flags": flags, "metering": metering,
        "machine": { "agent": hardware.to_lowercase().replace(' ', "-"), "slot": "cuda:0", "hardware": hardware, "host": "h",
                     "os": "o", "cpu": "c", "cpus": 1, "memory_bytes": 1 },
        "started_unix_ms": 0, "finished_unix_ms": 0, "samples_taken": 0
    });
    let mut record = Record::from_json(document.to_string().as_bytes()).unwrap();
    record.trial.cell = record.settings.id();
    record
}

#[test]
fn two_unlike_boards_are_metered_imported_and_compared_as_far_as_their_meters_allow() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new();
    let lines: Vec<String> = trials(dir.path())
        .into_iter()
        .map(|(name, phases, remarks, metering)| {
            String::from_utf8(record(&name, phases, remarks, metering).to_json()).unwrap()
        })
        .collect();
    let file = fleet.file("boards.jsonl", &(lines.join("\n") + "\n"));
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let at = ["--coordinator", &coordinator.url];
    let run = |arguments: &[&str]| fleet.fleet(&[arguments, &at[..]].concat()).ended_with(0);
    run(&["import", file.to_str().unwrap(), "--as", "boards"]);
    let page = fleet.path().join("boards.html");
    let contrast = run(&["compare", "boards", "--by", "hardware", "--json", "--html", page.to_str().unwrap()]).json();
    let sides = contrast["combinations"][0]["sides"].as_array().unwrap().clone();
    let of = |name: &str| -> &Value {
        let side = sides.iter().find(|s| s["hardware"].as_str().is_some_and(|h| h.ends_with(name)));
        &side.unwrap_or_else(|| panic!("no {name}: {sides:?}"))["training"]
    };
    // 65 s of 320 W by the counter, of 170 W by the power of an old board.
    for (name, joules, error) in [("RTX 4090", 20_800.0, 0.053), ("RTX 2060 SUPER", 11_050.0, 0.127)] {
        let training = of(name);
        let mean = training["joules"]["measured"]["mean"].as_f64().unwrap();
        assert!((mean / joules - 1.0).abs() < 0.005, "{name}: {mean} J of {joules}");
        assert_eq!(training["energy_error"]["sensor"], error);
        assert!(
            training["intervals"]["ns_e"]["low"].as_f64() < training["scores"]["ns_e"]["measured"]["mean"].as_f64()
        );
    }
    let ratio = &contrast["ratios"][0]["training"]["joules"]["measured"];
    assert!((ratio["meters_error"].as_f64().unwrap() - 0.053f64.hypot(0.127)).abs() < 1e-9, "{ratio}");
    let page = std::fs::read_to_string(page).unwrap();
    for words in ["± 13.8 % by the two meters", "interference: up to 2 other processes computed on the GPU"] {
        assert!(page.contains(words), "the page lacks {words}");
    }

    // The same library behind the programs: what a person sees of the boards.
    std::fs::remove_file(dir.path().join("now")).unwrap();
    let library = dir.path().join("libnvidia-ml.so.1");
    let seen = fleet.run("fleet-agent", &["doctor", "--meters", "--nvml", library.to_str().unwrap()]).ended_with(0);
    for words in
        ["cuda:0\n  gpu (charged to trials): 60.0 W now", "arXiv 2312.02741 measured -5.3 % on one RTX 4090", "cuda:1"]
    {
        assert!(seen.stdout.contains(words), "lacks {words}:\n{}", seen.stdout);
    }
}
