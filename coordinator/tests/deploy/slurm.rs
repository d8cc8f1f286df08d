//! Slurm: what the script says to it. That its tasks train, `tests/tests/slurm.rs` shows.

use std::process::Command;

use super::{ODD, file, script};

/// The options in the head of a batch script. Slurm reads them up to the first line that is no comment.
fn options(script: &str) -> Vec<(&str, &str)> {
    let head = script.lines().take_while(|l| l.starts_with('#') || l.trim().is_empty());
    let options = head.filter_map(|l| l.strip_prefix("#SBATCH --"));
    options.map(|o| o.split_once('=').unwrap_or((o, ""))).collect()
}

#[test]
fn no_option_stands_where_slurm_does_not_look() {
    for text in [file("slurm/agents.sbatch"), script(&["slurm", "--coordinator", "http://c.example:1"])] {
        let all = text.lines().filter(|l| l.starts_with("#SBATCH ")).count();
        assert_eq!(options(&text).len(), all, "{text}");
        assert!(text.starts_with("#!/usr/bin/env bash\n"));
        let checked = Command::new("bash").args(["-n", "-c", &text]).output().expect("bash");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn the_array_is_the_one_that_was_asked_for() {
    let text = script(&[
        "slurm",
        "--coordinator",
        "http://c.example:1",
        "--agents",
        "8",
        "--at-once",
        "2",
        "--partition",
        "gpu",
        "--account",
        "lab",
        "--time",
        "1d 2h",
        "--gpus",
        "2",
        "--cpus",
        "12",
        "--memory",
        "64GiB",
    ]);
    let options = options(&text);
    for expected in [
        ("array", "0-7%2"),
        ("partition", "gpu"),
        ("account", "lab"),
        ("time", "1-02:00:00"),
        ("gres", "gpu:2"),
        ("cpus-per-task", "12"),
        ("mem", "65536M"),
        ("signal", "B:TERM@120"),
    ] {
        assert!(options.contains(&expected), "{expected:?} is not in {options:?}");
    }
}

#[test]
fn odd_text_arrives_in_the_agent_s_environment() {
    let dir = tempfile::tempdir().expect("a folder");
    let agent = dir.path().join("an agent's \"program\" $HOME");
    std::fs::write(&agent, "#!/bin/sh\nprintf '%s\\n' \"$FLEET_LABEL\" \"$FLEET_DATA\"\n").expect("written");
    let mut mode = std::fs::metadata(&agent).expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
    std::fs::set_permissions(&agent, mode).expect("its mode");
    let text = script(&[
        "slurm",
        "--coordinator",
        "http://c.example:1",
        "--label",
        ODD,
        "--data",
        "/srv/it's $x",
        "--program",
        agent.to_str().expect("text"),
    ]);
    let output = Command::new("bash")
        .args(["-c", &text])
        .envs([("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "0")])
        .env("SLURM_TMPDIR", dir.path())
        .output()
        .expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{ODD}\n/srv/it's $x\n"));
    assert!(!dir.path().join("netscore-fleet-7").exists(), "nothing is left to be delivered, so nothing is left");
}
