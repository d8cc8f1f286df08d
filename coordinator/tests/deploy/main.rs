//! What is in `deploy/`, and what `fleet agents script` makes of it, against the rules of those who will read it.

mod containers;
mod kubernetes;
mod slurm;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A file of `deploy/`.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn file(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What `fleet agents script` prints, asked as a person does.
fn script(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .args(["agents", "script"])
        .args(arguments)
        .env_remove("FLEET_COORDINATOR")
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Text that no format takes as it is.
const ODD: &str = r#"it's 250 W, 100 % "a: b" #1 \ $HOME ${PATH} {x}"#;

#[test]
fn what_goes_to_other_machines_is_asked_with_an_address_that_they_reach() {
    let ask = |kind: &str, url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
        let output = command.args(["agents", "script", kind, "--coordinator", url]).output().expect("runs");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(ask("slurm", "http://127.0.0.1:7070").contains("this machine only"));
    assert_eq!(ask("slurm", "http://10.0.0.5:7070"), "");
    assert_eq!(ask("systemd", "http://127.0.0.1:7070"), "", "the coordinator may be on the same machine");
}
