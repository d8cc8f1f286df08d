//! Fleets in which something is wrong with a machine, and nothing with the campaign.

use std::time::Duration;

use fleet_tests::{Agent, Coordinator, Fleet, finish, wait_until};

/// How the campaign `name` stands: finished trials by class, and the rest of the document.
fn status(fleet: &Fleet, coordinator: &Coordinator, name: &str) -> serde_json::Value {
    let out = fleet.fleet(&["status", name, "--json", "--coordinator", &coordinator.url]).ended_with(0).json();
    out["campaigns"][0].clone()
}

#[test]
fn a_broken_agent_does_not_spoil_the_campaign_for_the_others() {
    let fleet = Fleet::new();
    let file = fleet.campaign("mixed", 1, "", "");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    // Each agent believes that the device is its own.
    let own = |dir: &'static str| ["--lock-dir", dir];
    let mut no_worker = own("locks-1").to_vec();
    no_worker.extend(["--worker", "/bin/false"]);
    let mut no_data = own("locks-2").to_vec();
    no_data.extend(["--data", "nowhere"]);
    let broken = Agent::start(&fleet, &coordinator.url, "broken", &no_worker);
    let empty = Agent::start(&fleet, &coordinator.url, "empty", &no_data);
    let sound = Agent::start(&fleet, &coordinator.url, "sound", &own("locks-3"));
    for agent in [&broken, &empty, &sound] {
        wait_until("all agents", || agent.log().contains("registered"));
    }
    fleet.fleet(&["submit", file.to_str().expect("a path"), "--coordinator", &coordinator.url]).ended_with(0);
    wait_until("the campaign to end", || {
        status(&fleet, &coordinator, "mixed")["waiting"] == 0
            && status(&fleet, &coordinator, "mixed")["running"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(status(&fleet, &coordinator, "mixed")["finished"], serde_json::json!({ "completed": 6 }));
}

#[test]
fn a_coordinator_that_was_stopped_for_a_while_takes_no_lease_from_anybody() {
    let fleet = Fleet::new();
    let file = fleet.campaign("paused", 1, "", "");
    let text = std::fs::read_to_string(&file).expect("a file").replace("steps = 4", "steps = 150");
    std::fs::write(&file, text.replace("[\"none\", \"static\"]", "\"none\"")).expect("writes");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &["--lease-seconds", "2"]);
    let _agent = Agent::start(&fleet, &coordinator.url, "agent", &[]);
    fleet.fleet(&["submit", file.to_str().expect("a path"), "--coordinator", &coordinator.url]).ended_with(0);
    let running = || status(&fleet, &coordinator, "paused")["running"][0].clone();
    wait_until("a trial to train", || running()["phase"] == "train");
    let before = running();
    let signal = |signal| {
        // SAFETY: sends a signal to our own child.
        assert_eq!(unsafe { libc::kill(coordinator.pid() as libc::pid_t, signal) }, 0);
    };
    signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(4));
    signal(libc::SIGCONT);
    wait_until("the campaign to end", || status(&fleet, &coordinator, "paused")["waiting"] == 0 && running().is_null());
    let log = std::fs::read_to_string(fleet.path().join("agent.log")).expect("a log");
    assert!(!log.contains("stopped"), "{before}: {log}");
    assert_eq!(status(&fleet, &coordinator, "paused")["finished"], serde_json::json!({ "completed": 3 }));
}

#[test]
fn a_number_that_is_hard_to_write_is_the_same_number_on_the_other_side() {
    let fleet = Fleet::new();
    let rates = "learning_rate = { full = 0.0012589254117941675, default = 5e-3 }\n";
    let file = fleet.campaign("digits", 1, "", "");
    let text = std::fs::read_to_string(&file).expect("a file").replace("[train]\n", &format!("[train]\n{rates}"));
    std::fs::write(&file, text).expect("writes");
    let out = fleet.fleet(&["local", "digits.toml", "--json"]).ended_with(0).json();
    assert_eq!(out["finished"], serde_json::json!({ "completed": 6 }));
}

#[test]
fn each_class_of_hardware_is_asked_for_on_one_machine_too() {
    let fleet = Fleet::new();
    let file = fleet.campaign("each", 1, "hardware = \"each\"", "");
    let text =
        std::fs::read_to_string(&file).expect("a file").replace("[\"full\", \"lora\", \"bitfit\"]", "\"bitfit\"");
    std::fs::write(&file, text).expect("writes");
    let out = fleet.fleet(&["local", "each.toml", "--json"]).ended_with(0).json();
    assert_eq!(out["finished"], serde_json::json!({ "completed": 2 }));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let fleet = Fleet::new();
    let file = fleet.campaign("long", 40, "", "");
    let mut shell = fleet.command("fleet");
    let fleet_program = shell.get_program().to_owned();
    shell = std::process::Command::new("bash");
    shell.arg("-c").arg(format!(
        "set -o pipefail; '{}' plan '{}' --data '{}' | head -n 1",
        fleet_program.display(),
        file.display(),
        fleet.data().display()
    ));
    let out = finish(&mut shell).ended_with(0);
    assert!(out.stdout.starts_with("long: 240 cells"), "{}", out.stdout);
    assert_eq!(out.stderr, "");
}

#[test]
fn a_device_rests_after_each_trial_where_that_is_wanted() {
    let fleet = Fleet::new();
    let file = fleet.campaign("rested", 1, "", "");
    let text =
        std::fs::read_to_string(&file).expect("a file").replace("[\"full\", \"lora\", \"bitfit\"]", "\"bitfit\"");
    std::fs::write(&file, text).expect("writes");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let agent = Agent::start(&fleet, &coordinator.url, "agent", &["--cool-down", "2"]);
    fleet.fleet(&["submit", file.to_str().expect("a path"), "--coordinator", &coordinator.url]).ended_with(0);
    wait_until("the first trial to end", || {
        status(&fleet, &coordinator, "rested")["finished"] == serde_json::json!({ "completed": 1 })
    });
    std::thread::sleep(Duration::from_millis(1200));
    assert!(status(&fleet, &coordinator, "rested")["running"].as_array().is_some_and(Vec::is_empty), "it rests");
    wait_until("the other", || {
        status(&fleet, &coordinator, "rested")["finished"] == serde_json::json!({ "completed": 2 })
    });
    assert_eq!(agent.terminate(), Some(0), "also while it rests");
}

#[test]
fn a_campaign_waits_for_what_it_selects_and_a_drained_agent_gives_back_and_goes_on() {
    let fleet = Fleet::new();
    let file = fleet.campaign("chosen", 2, "priority = \"high\"", "[select]\nlabel = { room = \"lab\" }\n");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let at = ["--coordinator", coordinator.url.as_str()];
    let fleet_says = |words: &[&str]| fleet.fleet(&[words, &at].concat()).ended_with(0);
    fleet_says(&["submit", file.to_str().expect("a path")]);
    let home = Agent::start(&fleet, &coordinator.url, "home", &["--lock-dir", "locks-1", "--tag", "room=home"]);
    wait_until("the first agent", || home.log().contains("registered"));
    let waits = status(&fleet, &coordinator, "chosen")["waits"].to_string();
    assert!(waits.contains("its campaign selects label room=lab"), "{waits}");
    let lab = Agent::start(&fleet, &coordinator.url, "lab", &["--lock-dir", "locks-2", "--tag", "room=lab"]);
    wait_until("a trial to run", || status(&fleet, &coordinator, "chosen")["running"][0]["agent"].is_string());
    let agent = status(&fleet, &coordinator, "chosen")["running"][0]["agent"].as_str().expect("a name").to_owned();
    let drained = fleet_says(&["agents", "drain", &agent, "--reason", "new fan", "--now", "--json"]).json();
    assert_eq!(drained["slots"], 1);
    // Or it ended before it heard that it should.
    let is_over = || ["stopped", "delivered"].iter().any(|word| lab.log().contains(word));
    wait_until("the trial to be given back", || is_over() || drained["returned"] == 0);
    let explained =
        fleet.fleet(&[&["plan", file.to_str().expect("a path"), "--json"][..]].concat()).ended_with(0).json();
    let cells = explained["cells"].as_array().expect("cells");
    let told = cells.iter().map(|cell| fleet_says(&["explain", cell["id"].as_str().expect("an id")]).stdout);
    assert!(told.collect::<String>().contains("drained by an operator: new fan"));
    fleet_says(&["agents", "undrain", &agent]);
    wait_until("the campaign to end", || {
        let now = status(&fleet, &coordinator, "chosen");
        now["waiting"] == 0 && now["running"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(status(&fleet, &coordinator, "chosen")["finished"], serde_json::json!({ "completed": 12 }));
    assert!(!home.log().contains("delivered"), "nothing ran where it was not selected");
}
