//! Trials that one machine began and another ends: what is computed and measured is as if nothing had happened, and the
//! record names both.

#[path = "../../common/artifacts/tests/support/mod.rs"]
mod s3;

use fleet_tests::{Agent, Campaign, Coordinator, Fleet, Power, long, wait_until};
use serde_json::Value;

const STEPS: u32 = 600;

/// A campaign of one trial whose weights are kept.
fn file(fleet: &Fleet, name: &str) -> String {
    let file = long(fleet, name, STEPS);
    let text = std::fs::read_to_string(&file).expect("a file") + "\n[output]\nweights = true\n";
    std::fs::write(&file, text).expect("writes");
    file
}

/// The record of the campaign's trial.
fn record(fleet: &Fleet, coordinator: &Coordinator, name: &str) -> Value {
    let out = fleet.path().join("record.jsonl");
    let out = out.to_str().expect("a path");
    fleet.fleet(&["export", name, "--jsonl", out, "--coordinator", &coordinator.url]).ended_with(0);
    serde_json::from_str(&std::fs::read_to_string(out).expect("a file")).expect("one record")
}

/// A machine of its own: other state, other locks.
fn machine(fleet: &Fleet, url: &str, name: &str, power: &Power, more: &[&str]) -> Agent {
    let locks = format!("{name}-locks");
    let powercap = power.dir().to_str().expect("a path");
    let mut options = vec!["--threads", "1", "--lock-dir", &locks, "--powercap", powercap];
    if !more.contains(&"--save-every") {
        options.extend(["--save-every", "2"]);
    }
    options.extend(more);
    Agent::start(fleet, url, name, &options)
}

/// The steps that each attempt did, and where.
fn segments(record: &Value) -> Vec<(u64, u64, String)> {
    let list = record["segments"].as_array().expect("segments");
    let text = |v: &Value| v.as_str().expect("a name").to_owned();
    let step = |v: &Value| v.as_u64().expect("a step");
    list.iter().map(|s| (step(&s["from_step"]), step(&s["to_step"]), text(&s["machine"]["agent"]))).collect()
}

fn flags(record: &Value) -> String {
    record["flags"].as_array().expect("flags").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// Waits until the coordinator has been told of a state of `agent`.
fn handed_over(agent: &Agent) {
    wait_until("a state to be handed over", || agent.log().contains("a state was handed over"));
}

/// What the trial comes to where nothing interrupts it.
fn uninterrupted() -> String {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let name = "calm";
    fleet.fleet(&["submit", &file(&fleet, name), "--coordinator", &coordinator.url]).ended_with(0);
    let _agent = machine(&fleet, &coordinator.url, "agent", &power, &[]);
    Campaign { fleet: &fleet, url: coordinator.url.clone(), name }.finish();
    let record = record(&fleet, &coordinator, name);
    assert_eq!(segments(&record).len(), 1);
    record["artifact"]["sha256"].as_str().expect("weights were kept").to_owned()
}

#[test]
fn a_machine_that_is_gone_for_good_is_followed_by_another_and_nothing_shows_in_weights_or_joules() {
    let expected = uninterrupted();
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &["--lease-seconds", "4"]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "moved" };
    fleet.fleet(&["submit", &file(&fleet, "moved"), "--coordinator", &coordinator.url]).ended_with(0);
    let first = machine(&fleet, &coordinator.url, "first", &power, &[]);
    handed_over(&first);
    first.kill();
    let _second = machine(&fleet, &coordinator.url, "second", &power, &[]);
    let (page, group) = campaign.finish();
    let record = record(&fleet, &coordinator, "moved");
    let segments = segments(&record);
    assert_eq!(segments.len(), 2, "{segments:?}");
    assert!(segments[0].1 > 0 && segments[0].1 == segments[1].0 && segments[1].1 == u64::from(STEPS), "{segments:?}");
    assert_ne!(segments[0].2, segments[1].2, "two agents");
    assert_eq!(record["artifact"]["sha256"], expected.as_str(), "the weights are those of an uninterrupted run");
    assert!(segments.iter().all(|(_, _, agent)| page.contains(agent)), "the page names every machine");
    assert!(flags(&record).contains("sent to the artifact store"), "{}", flags(&record));
    let joules = group["training"]["joules"]["measured"]["mean"].as_f64().expect("measured");
    let seconds = group["training"]["seconds"]["mean"].as_f64().expect("a time");
    assert!((joules / seconds - Power::WATTS).abs() < 2.5, "{joules} J in {seconds} s, played were {}", Power::WATTS);
    // The weights are in the store too, and come out as they went in.
    let out = fleet.path().join("kept");
    fleet
        .fleet(&[
            "artifacts",
            "get",
            "moved",
            "--out",
            out.to_str().expect("a path"),
            "--coordinator",
            &coordinator.url,
        ])
        .ended_with(0);
    let trial = std::fs::read_dir(&out).expect("a folder").flatten().next().expect("a trial").path();
    let fetched = fleet_dataset::sha256_of_file(&trial.join("weights.safetensors")).expect("reads");
    assert_eq!(fetched, expected);
}

#[test]
fn a_machine_that_is_told_to_stop_hands_over_its_last_step() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "stopped" };
    fleet.fleet(&["submit", &file(&fleet, "stopped"), "--coordinator", &coordinator.url]).ended_with(0);
    // Nothing is saved before it has to be.
    let first = machine(&fleet, &coordinator.url, "first", &power, &["--save-every", "3600"]);
    campaign.wait_for_step(20);
    assert_eq!(first.terminate(), Some(0));
    let _second = machine(&fleet, &coordinator.url, "second", &power, &[]);
    campaign.finish();
    let record = record(&fleet, &coordinator, "stopped");
    let segments = segments(&record);
    assert!(segments.len() == 2 && segments[0].1 >= 20 && segments[0].1 == segments[1].0, "{segments:?}");
}

#[test]
fn other_hardware_starts_over_and_says_why() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "unlike" };
    fleet.fleet(&["submit", &file(&fleet, "unlike"), "--coordinator", &coordinator.url]).ended_with(0);
    let first = machine(&fleet, &coordinator.url, "first", &power, &[]);
    handed_over(&first);
    assert_eq!(first.terminate(), Some(0));
    let _second = machine(&fleet, &coordinator.url, "second", &power, &["--label", "other"]);
    campaign.finish();
    let record = record(&fleet, &coordinator, "unlike");
    assert_eq!(segments(&record).len(), 1, "{record}");
    let flags = flags(&record);
    assert!(flags.contains("started from the beginning: the state that attempt 1 left"), "{flags}");
    assert!(flags.contains("is of other hardware"), "{flags}");
}

#[test]
fn through_an_s3_store_it_goes_just_as_well() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(s3::S3::start());
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let with_key = |program: &str| {
        let mut command = std::process::Command::new("env");
        command.arg(format!("AWS_ACCESS_KEY_ID={}", s3::KEY)).arg(format!("AWS_SECRET_ACCESS_KEY={}", s3::SECRET));
        command.arg(fleet_tests::program(program));
        command
    };
    let url = server.url();
    let coordinator = Coordinator::start_as(&fleet, with_key("fleet"), "127.0.0.1:0", &["--artifacts", &url]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "bucket" };
    fleet.fleet(&["submit", &file(&fleet, "bucket"), "--coordinator", &coordinator.url]).ended_with(0);
    let powercap = power.dir().to_str().expect("a path").to_owned();
    let machine = |name: &str| {
        let locks = format!("{name}-locks");
        let more = ["--save-every", "2", "--threads", "1", "--lock-dir", &locks, "--powercap", &powercap];
        Agent::start_as(&fleet, with_key("fleet-agent"), &coordinator.url, name, &more)
    };
    let first = machine("first");
    handed_over(&first);
    assert!(server.inner().objects.keys().any(|key| key.starts_with("some/prefix/states/")));
    assert_eq!(first.terminate(), Some(0));
    let second = machine("second");
    campaign.finish();
    let record = record(&fleet, &coordinator, "bucket");
    assert_eq!(segments(&record).len(), 2, "{record}");
    let kept = record["artifact"]["stored"].as_str().expect("the weights are in the store").to_owned();
    assert!(server.inner().objects.contains_key(&format!("some/prefix/{kept}")));
    let logs = second.log() + &std::fs::read_to_string(fleet.path().join("coordinator.log")).expect("a log");
    assert!(!logs.contains(s3::SECRET), "no secret is logged");
    wait_until("the state to be removed", || !server.inner().objects.keys().any(|key| key.contains("/states/")));
}
