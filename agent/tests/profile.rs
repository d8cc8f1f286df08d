//! `fleet-agent profile` as it is typed, against a program that answers in the worker's place: what is asked of it, what is
//! shown, and what happens where it fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder with a worker in it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// The worker is a script that keeps the request in `request.json` and goes on with `then`, in its folder.
    fn new(then: &str) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let script = format!(
            "#!/bin/sh\ncd '{}'\nprintf '%s' \"$1\" > asked\nread -r line\nprintf '%s' \"$line\" > request.json\n{then}\n",
            bench.dir.path().display()
        );
        std::fs::write(bench.path("worker"), script).unwrap();
        std::fs::set_permissions(bench.path("worker"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(bench.path("answer.json"), answer().to_string()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_fleet-agent"))
            .arg("profile")
            .args(args)
            .arg("--worker")
            .arg(self.path("worker"))
            .arg("--lock-dir")
            .arg(self.path("locks"))
            .output()
            .unwrap();
        let words = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), words(stdout), words(stderr))
    }

    fn request(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("request.json")).unwrap()).unwrap()
    }
}

/// Two strategies on one block, of which one did not fit.
fn answer() -> Value {
    let choice = |name: &str, kept: u64| {
        json!({
            "choice": name, "kept_bytes": kept, "forward_bytes": kept, "backward_bytes": kept,
            "backward_seconds": 0.02, "recompute_seconds": 0.01
        })
    };
    let window =
        |phase: &str, at: f64, live: u64, peak: u64| json!({ "phase": phase, "at": at, "live": live, "peak": peak });
    json!({ "Ok": {
        "persistent_bytes": 20u64 << 20, "least_bytes": 22u64 << 20,
        "blocks": [{
            "name": "blocks.0", "forward_seconds": 0.0123,
            "choices": [choice("keep", 9 << 20), choice("cheap", 5 << 20), choice("whole", 1 << 20)]
        }],
        "steps": [
            { "checkpointing": "none", "outcome": { "class": "failed", "reason": "it needs 70.0 MiB of 64.0 MiB" } },
            { "checkpointing": "static", "outcome": {
                "class": "ran", "seconds": 0.321, "peak_bytes": 32u64 << 20,
                "peak_place": { "phase": "recompute", "block": 0 }, "choices": ["whole"], "recompute_seconds": 0.01, "plan": null,
                "trace": { "step": 1, "milliseconds": 321.0, "windows": [
                    window("forward", 0.0, 20 << 20, 30 << 20), window("recompute", 100.0, 22 << 20, 32 << 20)
                ] }
            } }
        ]
    } })
}

#[test]
fn the_request_is_what_was_typed_and_the_answer_is_shown() {
    let bench = Bench::new("cat answer.json");
    let svg = bench.path("memory.svg");
    let (code, stdout, stderr) = bench.run(&[
        "vit_micro",
        "--method",
        "lora",
        "--budget",
        "64MiB",
        "--checkpointing",
        "none,static",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--svg",
        svg.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(std::fs::read_to_string(bench.path("asked")).unwrap(), "--profile");
    let request = bench.request();
    let cell = &request["cells"][0];
    assert_eq!(
        (&cell["backbone"], &cell["method"]["rank"], &cell["budget_bytes"], &request["threads"]),
        (&json!("vit_micro"), &json!(8), &json!(64 << 20), &json!(1))
    );
    let strategies: Vec<&Value> = request["cells"].as_array().unwrap().iter().map(|c| &c["checkpointing"]).collect();
    assert_eq!((strategies, &request["device"]), (vec![&json!("none"), &json!("static")], &json!("cpu")));
    for line in [
        "blocks.0        12.3      9.00       5.00      10.0       1.00      10.0",
        "static             32.0       50 %  recompute of block 0      321       -  block 0: 10.0 ms by the profile",
        "x none: it needs 70.0 MiB of 64.0 MiB",
    ] {
        assert!(stdout.lines().any(|l| l == line), "lacks {line}:\n{stdout}");
    }
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("xmlns=\"http://www.w3.org/2000/svg\"") && picture.contains("it needs 70.0 MiB"));
    assert!(stderr.contains("memory.svg"), "{stderr}");
}

#[test]
fn json_is_the_request_and_the_answer() {
    let bench = Bench::new("cat answer.json");
    let (code, stdout, _) = bench.run(&["vit_micro", "--json"]);
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &document["schema"]), (0, &json!("fleet.profile/1")));
    assert_eq!(document["request"], bench.request());
    assert_eq!(document["profile"]["steps"], answer()["Ok"]["steps"]);
}

#[test]
fn one_who_waits_is_told_so() {
    let bench = Bench::new("sleep 3; cat answer.json");
    let (code, stdout, stderr) = bench.run(&["vit_micro", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr.matches("profiling vit_micro on cpu: ").count(), 1, "{stderr}");
    assert!(serde_json::from_str::<Value>(&stdout).is_ok(), "{stdout}");
}

#[test]
fn a_worker_that_fails_says_why_and_the_exit_code_is_1() {
    for (then, why) in [
        ("echo 'libtorch is not there' >&2; exit 7", "gave no profile: exit status: 7: libtorch is not there"),
        ("kill -9 $$", "signal: 9"),
        ("echo '{\"Err\":\"expected 8 classes, found 9; say 8\"}'", "error: expected 8 classes, found 9; say 8"),
        ("echo nonsense", "gave no profile"),
    ] {
        let (code, stdout, stderr) = Bench::new(then).run(&["vit_micro"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains(why), "{why}: {stderr}");
    }
}

#[test]
fn where_no_step_ran_the_exit_code_is_1_and_the_reason_is_shown() {
    let bench = Bench::new("cat answer.json");
    let mut none = answer();
    none["Ok"]["steps"].as_array_mut().unwrap().pop();
    std::fs::write(bench.path("answer.json"), none.to_string()).unwrap();
    let (code, stdout, _) = bench.run(&["vit_micro"]);
    assert!(code == 1 && stdout.ends_with("\nx none: it needs 70.0 MiB of 64.0 MiB\n"), "{stdout}");
}

#[test]
fn wrong_usage_starts_no_worker() {
    let bench = Bench::new("cat answer.json");
    for (args, why) in [
        (&["vit_macro"][..], "did you mean \"vit_micro\"?"),
        (&["vit_micro", "--checkpointing", "planned"], "add one such as --budget 500MiB"),
        (&["vit_micro", "--device", "cuda:7"], "no device \"cuda:7\""),
        (&["vit_micro", "--svg", "/nowhere/at/all.svg"], "found no folder /nowhere/at"),
    ] {
        let (code, _, stderr) = bench.run(args);
        assert!(code == 2 && stderr.contains(why), "{why}: {code} {stderr}");
    }
    assert!(!bench.path("request.json").exists());
}

#[test]
fn a_device_at_work_is_left_alone() {
    let bench = Bench::new("cat answer.json");
    let slot = "cpu".parse().unwrap();
    let _lock = fleet_agent::device::DeviceLock::take(&bench.path("locks"), &slot, "an agent").unwrap();
    let (code, _, stderr) = bench.run(&["vit_micro", "--device", "cpu"]);
    assert!(code == 1 && stderr.contains("cpu is in use by an agent") && stderr.contains("--device"), "{stderr}");
}
