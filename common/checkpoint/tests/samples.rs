//! Checkpoints that torch has written, against what torch held when it wrote them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fleet_checkpoint::{Checkpoint, Format};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples"))
}

fn expected() -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).expect("a file of the repository");
    serde_json::from_str(&text).expect("JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_tensor_is_what_torch_has_written() {
    let expected = expected();
    assert_eq!(expected.len(), 12, "all samples are there");
    let mut tensors = 0;
    for (file, told) in &expected {
        let checkpoint = Checkpoint::open(&folder().join(file)).expect("reads");
        let dict = checkpoint.state_dict(None).expect("has tensors");
        assert_eq!(dict.under.as_deref(), told["under"].as_str(), "{file}");
        let names: Vec<_> = dict.tensors.keys().collect();
        assert_eq!(names, told["tensors"].as_object().expect("a table").keys().collect::<Vec<_>>(), "{file}");
        let skipped: Vec<_> = dict.skipped.iter().map(|s| s.name.as_str()).collect();
        let mut told_skipped: Vec<_> =
            told["skipped"].as_array().expect("a list").iter().flat_map(Value::as_str).collect();
        told_skipped.sort_unstable();
        let mut sorted = skipped.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, told_skipped, "{file}");
        for (name, tensor) in &dict.tensors {
            let told = &told["tensors"][name];
            assert_eq!(told["dtype"], tensor.dtype().name(), "{file} {name}");
            assert_eq!(told["shape"], serde_json::json!(tensor.shape()), "{file} {name}");
            assert_eq!(told["hex"], hex(&checkpoint.bytes(tensor).expect("reads")), "{file} {name}");
            tensors += 1;
        }
    }
    assert!(tensors > 90, "{tensors} tensors compared");
}

#[test]
fn the_content_says_what_a_file_is() {
    for file in expected().keys() {
        let format = Format::of(&folder().join(file)).expect("reads");
        let legacy = file.contains("legacy");
        assert_eq!(format, Some(if legacy { Format::Legacy } else { Format::Zip }), "{file}");
    }
    assert_eq!(Format::of(&folder().join("expected.json")).expect("reads"), None);
}

#[test]
fn what_is_beside_the_weights_is_told_and_can_be_asked_for() {
    let checkpoint = Checkpoint::open(&folder().join("trained.pth")).expect("reads");
    let dict = checkpoint.state_dict(None).expect("has tensors");
    let what = |name: &str| dict.skipped.iter().find(|s| s.name == name).expect("told").what.clone();
    assert_eq!(what("args"), "argparse.Namespace");
    assert_eq!(what("epoch"), "an integer");
    let optimizer = checkpoint.state_dict(Some("optimizer")).expect("has tensors");
    assert_eq!(optimizer.under.as_deref(), Some("optimizer"));
    assert!(optimizer.tensors.contains_key("state.0.exp_avg"), "{:?}", optimizer.tensors.keys());
    let message = checkpoint.state_dict(Some("ema")).expect_err("not there").to_string();
    assert!(message.contains("\"ema\"") && message.contains("lr_scheduler"), "{message}");
    let message = checkpoint.state_dict(Some("args")).expect_err("no tensors").to_string();
    assert!(message.contains("under \"args\", found none"), "{message}");
}

#[test]
fn values_that_are_no_tensors_are_read_too() {
    let checkpoint = Checkpoint::open(&folder().join("trained.pth")).expect("reads");
    let tree = checkpoint.tree();
    let scheduler = tree.get(tree.root(), "lr_scheduler").expect("there");
    let describe = |key: &str| tree.describe(tree.get(scheduler, key).expect("there"));
    assert_eq!(describe("state"), "3 bytes");
    assert_eq!(describe("seen"), "a list of 2", "sets are lists before protocol 4");
    assert_eq!(describe("base"), "numpy._core.multiarray.scalar");
}
