//! Clocks that are set while everything runs: leases, times and joules are measured on clocks that nobody sets.

use fleet_tests::{Agent, Campaign, Clock, Coordinator, Fleet, Power, long, program};
use serde_json::Value;

const DAY: i64 = 86_400;

#[test]
fn clocks_that_are_set_cost_no_lease_and_change_no_figure() {
    let fleet = Fleet::new();
    let [coordinators, agents] = ["clock-0", "clock-1"].map(|name| Clock::right(&fleet.path().join(name)));
    let mut command = std::process::Command::new(program("fleet"));
    coordinators.give(&mut command);
    let coordinator = Coordinator::start_as(&fleet, command, "127.0.0.1:0", &["--lease-seconds", "4"]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "clocks" };
    fleet.fleet(&["submit", &long(&fleet, "clocks", 900), "--coordinator", &coordinator.url]).ended_with(0);
    let power = Power::play(&fleet.path().join("powercap"));
    let mut command = std::process::Command::new(program("fleet-agent"));
    agents.give(&mut command);
    let powercap = power.dir().to_str().expect("a path");
    let begun = std::time::Instant::now();
    let agent = Agent::start_as(&fleet, command, &coordinator.url, "agent", &["--powercap", powercap]);
    for (step, coordinators_is, agents_is) in [(50, -DAY, 0), (200, -DAY, 2 * DAY), (350, DAY, -DAY), (500, 0, 0)] {
        campaign.wait_for_step(step);
        coordinators.set(coordinators_is);
        agents.set(agents_is);
    }
    campaign.finish();
    let elapsed = begun.elapsed().as_secs_f64();
    let out = fleet.path().join("record.jsonl");
    let out = out.to_str().expect("a path");
    fleet.fleet(&["export", "clocks", "--jsonl", out, "--coordinator", &coordinator.url]).ended_with(0);
    let record: Value = serde_json::from_str(&std::fs::read_to_string(out).expect("a file")).expect("one record");
    assert_eq!(record["attempt"], 1, "no lease was lost: {}", agent.log());
    let phases = record["phases"].as_array().expect("phases");
    let seconds: f64 = phases.iter().filter_map(|p| p["seconds"].as_f64()).sum();
    assert!(seconds > 0.0 && seconds < elapsed, "{seconds} s measured within {elapsed} s");
    let train = phases.iter().find(|p| p["phase"] == "train").expect("it trained");
    let joules = train["energy"]["measured"]["joules"].as_f64().expect("measured");
    let expected = Power::WATTS * train["seconds"].as_f64().expect("seconds");
    assert!((joules / expected - 1.0).abs() < 0.1, "{joules} J, expected {expected} J");
    assert!(record["flags"].to_string().contains("clock"), "it says so: {}", record["flags"]);
}
