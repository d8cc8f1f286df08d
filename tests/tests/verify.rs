//! `fleet-agent verify` as it is typed: what it says, and with which exit code.

use std::path::{Path, PathBuf};

use fleet_tests::Fleet;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A copy of a reference folder.
fn copy(fleet: &Fleet, name: &str, as_name: &str) -> PathBuf {
    let to = fleet.path().join(as_name);
    std::fs::create_dir(&to).expect("makes");
    for file in std::fs::read_dir(fixture(name)).expect("lists").map(|e| e.expect("an entry").path()) {
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copies");
    }
    to
}

/// Adds 1 to the first value of an f32 tensor of a safetensors file.
fn spoil(file: &Path, tensor: &str) {
    let mut bytes = std::fs::read(file).expect("reads");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    assert_eq!(json[tensor]["dtype"], "F32", "{json}");
    let at = 8 + header + json[tensor]["data_offsets"][0].as_u64().expect("a place") as usize;
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) + 1.0;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(file, bytes).expect("writes");
}

fn verify(fleet: &Fleet, more: &[&str], folders: &[&Path], code: i32) -> String {
    let folders = folders.iter().map(|f| f.to_str().expect("a path"));
    let args: Vec<&str> = ["verify"].into_iter().chain(more.iter().copied()).chain(folders).collect();
    fleet.run("fleet-agent", &args).ended_with(code).stdout
}

#[test]
fn a_reference_that_is_met_passes_with_its_differences() {
    let fleet = Fleet::new();
    let folder = fixture("vit_tiny_timm");
    let text = verify(&fleet, &[], &[&folder], 0);
    assert!(text.starts_with("passed") && text.contains("(backbone, vit: ") && text.contains("eval.logits"), "{text}");
    assert!(!text.contains("BEYOND"), "{text}");
    let document: Value = serde_json::from_str(&verify(&fleet, &["--json"], &[&folder], 0)).expect("JSON");
    assert_eq!(document["schema"], "fleet.verify/1");
    let one = &document["folders"][0];
    assert_eq!((&one["verdict"], &one["kind"]), (&"passed".into(), &"backbone".into()));
    let checks = one["checks"].as_array().expect("checks");
    assert!(checks.len() > 50 && checks.iter().all(|c| c["passed"] == true), "{}", checks.len());
    let logits = checks.iter().find(|c| c["name"] == "eval.logits").expect("logits");
    assert!(logits["absolute"].as_f64().is_some_and(|d| d < 1e-4), "{logits}");
}

#[test]
fn one_value_that_is_off_is_named_and_the_exit_code_is_1() {
    let fleet = Fleet::new();
    let folder = copy(&fleet, "vit_tiny_timm", "off");
    spoil(&folder.join("io.safetensors"), "eval.logits");
    let text = verify(&fleet, &["--brief"], &[&folder], 1);
    assert!(text.starts_with("FAILED") && text.contains("1 of "), "{text}");
    let beyond: Vec<&str> = text.lines().filter(|l| l.contains("BEYOND")).collect();
    assert!(beyond.len() == 1 && beyond[0].ends_with("eval.logits"), "{text}");
}

#[test]
fn what_cannot_be_run_says_why_and_the_others_are_run_all_the_same() {
    let fleet = Fleet::new();
    let folder = copy(&fleet, "vit_tiny_timm", "weather");
    let config = folder.join("config.json");
    let text = std::fs::read_to_string(&config).expect("reads").replace("\"backbone\"", "\"weather\"");
    std::fs::write(&config, text).expect("writes");
    let nowhere = fleet.path().join("nowhere");
    let text = verify(&fleet, &["--brief"], &[&folder, &nowhere, &fixture("vit_tiny_timm")], 2);
    for part in ["CANNOT RUN", "\"weather\" cannot be verified; expected backbone", "nowhere", "config.json", "passed"]
    {
        assert!(text.contains(part), "lacks {part}: {text}");
    }
}
