//! A real agent without a coordinator, looked at as operators do: its metrics, its health, its log.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fleet_observe::exposition;
use serde_json::Value;

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent of a coordinator that is not there. The worker is never asked: the CPU needs no asking.
fn agent(dir: &Path, metrics: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-agent"));
    command
        .current_dir(dir)
        .args(["run", "--devices", "cpu", "--worker", "/bin/sh", "--lock-dir", "locks", "--state", "state"])
        .args(["--coordinator", "http://127.0.0.1:1", "--log-format", "json", "--metrics", metrics])
        .env_remove("FLEET_LOG")
        .stdin(Stdio::null());
    command
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

#[test]
fn an_agent_that_waits_for_its_coordinator_is_well_and_says_what_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut agent = Agent(agent(dir.path(), "127.0.0.1:0").stderr(Stdio::piped()).spawn().expect("starts"));
    let lines = BufReader::new(agent.0.stderr.take().expect("a pipe")).lines();
    let lines = lines.map(|l| serde_json::from_str::<Value>(&l.expect("text")).expect("each line is JSON"));
    let mut lines = lines.inspect(|l| assert!(l["timestamp"].is_string() && l["level"].is_string(), "{l}"));
    let line = lines.find(|l| l["message"] == "metrics can be read").expect("said");
    let address = line["address"].as_str().expect("an address");
    // It is told once that nobody answers, and shows meanwhile.
    lines.find(|l| l["level"] == "WARN" && l["coordinator"] == "http://127.0.0.1:1").expect("said");
    assert_eq!(get(address, "/healthz"), "ok\n");
    let page = exposition::read(&get(address, "/metrics")).expect("a page");
    let slot: Vec<_> = page.with("fleet_slot_info", &[("slot", "cpu")]).collect();
    let id = std::fs::read_to_string(dir.path().join("state/agent-id")).expect("an id");
    assert!(slot.len() == 1 && slot[0].1["agent"] == id, "{slot:?}");
    assert_eq!(page.value("fleet_slot_busy", &[("slot", "cpu")]), Some(0.0));
    assert_eq!(page.value("fleet_outbox_records", &[]), Some(0.0));
    assert_eq!(page.value("fleet_build_info", &[("program", "fleet-agent")]), Some(1.0));
    assert_eq!(page.value("fleet_coordinator_silence_seconds", &[]), None, "it has never answered");
    assert!(page.types.contains_key("DCGM_FI_DEV_POWER_USAGE"), "declared, without a GPU");
}

#[test]
fn a_port_that_is_taken_ends_the_agent_with_the_reason_in_its_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let output = agent(dir.path(), &taken.local_addr().expect("an address").to_string()).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).expect("text");
    let last: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert!(last["level"] == "ERROR" && last["message"].as_str().is_some_and(|m| m.contains("--metrics")), "{log}");
}

#[test]
fn an_agent_that_is_told_to_leaves_when_there_is_no_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = agent(dir.path(), "127.0.0.1:0").args(["--leave-when-idle", "1s"]).output().expect("runs");
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success() && log.contains("no work for 1s: leaving"), "{log}");
}

#[test]
fn a_time_that_is_none_is_refused_with_an_example() {
    for wrong in ["10", "soon", "0s", "200ms"] {
        let dir = tempfile::tempdir().expect("a folder");
        let output = agent(dir.path(), "127.0.0.1:0").args(["--leave-when-idle", wrong]).output().expect("runs");
        let error = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.code() == Some(2) && error.contains("such as 90s, 10m or 1h 30m"), "{wrong}: {error}");
    }
}
