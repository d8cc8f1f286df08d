//! The cap on a GPU's allocator, as far as it can be followed without one: from the job to the settings that libtorch's
//! CUDA half reads, with a library that has the driver's symbols (`tests/stand_ins/cuda.c`).
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the stand-in says that the board has: less than NVML's 8 GiB, as it is on real ones.
const TOTAL: f64 = ((8u64 << 30) - (136 << 20)) as f64;

/// Runs a worker on a job for a GPU with a budget of so many bytes; returns what it answered and logged.
fn worker(libraries: &Path, settings: Option<&str>, budget: u64, scope: &str) -> (String, String) {
    let job = serde_json::json!({
        "settings": {
            "definition": 1, "method": { "name": "full" }, "backbone": "vit_micro", "image_size": 64,
            "checkpointing": "none", "dataset": { "name": "textures", "fingerprint": "ab", "classes": 8 },
            "weights": { "from": "scratch" }, "seed": 0, "budget_bytes": budget, "budget_scope": scope,
            "train": { "steps": 10, "warm_up_steps": 0, "batch": 8, "learning_rate": 0.001, "weight_decay": 0.05,
                       "sampling": "replacement", "augment": true },
            "evaluate": { "batch": 64 }
        },
        "device": "cuda", "threads": 1, "data_dir": "/nowhere", "dataset": "textures", "weights": null, "save_weights": null, "save_states": null, "resume": null
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-worker"));
    command.env("LD_LIBRARY_PATH", libraries).env_remove("PYTORCH_CUDA_ALLOC_CONF").env_remove("PYTORCH_ALLOC_CONF");
    command.envs(settings.map(|s| ("PYTORCH_ALLOC_CONF", s)));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{job}").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// A folder with the stand-in for NVIDIA's driver.
fn driver() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/stand_ins/cuda.c");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(dir.path().join("libcuda.so.1")).arg(source).status();
    assert!(compiled.unwrap().success(), "the stand-in does not compile");
    dir
}

/// The bytes that the settings in the log allow.
fn allowed(log: &str) -> u64 {
    let set = log.split("PYTORCH_CUDA_ALLOC_CONF=").nth(1).expect(log).split_whitespace().next().unwrap();
    let share = set.strip_prefix("expandable_segments:True,per_process_memory_fraction:").expect(set);
    (share.parse::<f64>().unwrap() * TOTAL) as u64
}

/// What a context takes of the stand-in's board.
const CONTEXT: u64 = 300 << 20;

#[test]
fn the_budget_becomes_a_share_of_what_the_driver_calls_the_boards_memory() {
    let dir = driver();
    let (events, log) = worker(dir.path(), Some("expandable_segments:True"), 2 << 30, "allocator");
    assert_eq!(allowed(&log), 2 << 30);
    let (_, log) = worker(dir.path(), Some("expandable_segments:True"), 2 << 30, "process");
    assert_eq!(allowed(&log), (2 << 30) - CONTEXT, "whoever else is on the board");
    // Beyond this point a real board is needed; without one the machine is at fault, not the cell.
    assert!(events.contains("\"class\":\"crashed\""), "{events}");
}

#[test]
fn a_budget_that_the_context_takes_does_not_fit() {
    let dir = driver();
    let (events, _) = worker(dir.path(), None, CONTEXT, "process");
    assert!(events.contains("\"class\":\"does_not_fit\""), "{events}");
    assert!(events.contains(&format!("\"needed_bytes\":{}", CONTEXT + 1)), "{events}");
}

#[test]
fn without_the_driver_the_budget_is_not_quietly_dropped() {
    if Path::new("/proc/driver/nvidia").exists() {
        println!("skipped: this machine has the driver");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (events, _) = worker(dir.path(), None, 2 << 30, "allocator");
    assert!(events.contains("the memory budget cannot be enforced: NVIDIA's driver cannot be opened"), "{events}");
    assert!(events.contains("\"class\":\"crashed\""), "{events}");
}
