//! Safetensors files, and files that only begin like one.

use std::fs;
use std::path::Path;

use fleet_download::weights::read;

fn file(dir: &Path, header: u64, json: &str, numbers: usize) -> std::path::PathBuf {
    let path = dir.join("w.safetensors");
    let mut bytes = header.to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend(vec![0; numbers]);
    fs::write(&path, bytes).expect("writes");
    path
}

const JSON: &str = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

#[test]
fn says_what_it_holds() {
    let dir = tempfile::tempdir().expect("a folder");
    let holds = read(&file(dir.path(), JSON.len() as u64, JSON, 32)).expect("reads");
    assert_eq!((holds.tensors, holds.numbers), (2, 10));
    assert_eq!(holds.types.into_iter().collect::<Vec<_>>(), [("BF16".to_owned(), 1), ("F32".to_owned(), 1)]);
}

#[test]
fn a_file_that_is_none_is_an_error_that_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let long = JSON.len() as u64;
    for (header, json, numbers, part) in [
        // Would be all memory there is.
        (u64::MAX, JSON, 32, "18446744073709551615"),
        (1 << 40, JSON, 32, "expected at most"),
        (long + 33, JSON, 32, "expected at most 145"),
        (long, JSON, 31, "has 31 bytes of numbers; its header says 32"),
        (long, JSON, 33, "has 33 bytes of numbers; its header says 32"),
        (4, "oops", 0, "no safetensors header"),
        (2, "{}", 0, ""),
        (0, "", 0, "no safetensors header"),
    ] {
        let result = read(&file(dir.path(), header, json, numbers));
        match part {
            // Empty, but whole.
            "" => assert_eq!(result.expect("reads").tensors, 0),
            _ => {
                let message = result.expect_err("must fail").to_string();
                assert!(message.contains(part) && message.contains("w.safetensors"), "{message}");
            }
        }
    }
    let short = dir.path().join("short");
    fs::write(&short, "1234567").expect("writes");
    assert!(read(&short).expect_err("must fail").to_string().contains("has 7 bytes"));
    assert!(read(&dir.path().join("none")).expect_err("must fail").to_string().contains("cannot open"));
}

#[test]
fn a_header_whose_parts_contradict_each_other_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    for json in [
        r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,32]}}"#,
        r#"{"a":{"dtype":"F99","shape":[8],"data_offsets":[0,32]}}"#,
    ] {
        let message = read(&file(dir.path(), json.len() as u64, json, 32)).expect_err("must fail").to_string();
        assert!(message.contains("no safetensors header"), "{message}");
    }
}
