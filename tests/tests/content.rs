//! Agents without any data run campaigns: what they lack comes from the coordinator.

use fleet_tests::{Agent, Coordinator, Fleet, wait_until};

/// How the campaign stands.
fn status(fleet: &Fleet, coordinator: &Coordinator, name: &str) -> serde_json::Value {
    let out = fleet.fleet(&["status", name, "--json", "--coordinator", &coordinator.url]).ended_with(0).json();
    out["campaigns"][0].clone()
}

fn is_over(status: &serde_json::Value) -> bool {
    status["waiting"] == 0 && status["running"].as_array().is_some_and(Vec::is_empty)
}

#[test]
fn an_agent_without_data_runs_a_campaign_and_keeps_what_it_fetched() {
    let fleet = Fleet::new();
    let file = fleet.campaign("bare", 1, "", "");
    let file = file.to_str().expect("a path");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let agent = Agent::start(&fleet, &coordinator.url, "bare", &["--data", "nowhere", "--cache", "cache"]);
    fleet.fleet(&["submit", file, "--coordinator", &coordinator.url]).ended_with(0).says(&["agents can have it"]);
    wait_until("the campaign to end", || is_over(&status(&fleet, &coordinator, "bare")));
    assert_eq!(status(&fleet, &coordinator, "bare")["finished"], serde_json::json!({ "completed": 6 }));
    assert_eq!(agent.log().matches("is in the cache now").count(), 1, "fetched once for six trials");
    // Submitted again, nothing is copied; removed from the coordinator, the agent still has it.
    fleet.fleet(&["submit", file, "--coordinator", &coordinator.url]).ended_with(0);
    let shared = fleet.fleet(&["shared", "--json", "--coordinator", &coordinator.url]).ended_with(0).json();
    let item = shared["items"][0]["item"].as_str().expect("an item").to_owned();
    assert!(shared["items"][0]["whole"] == true && item.starts_with("dataset-"), "{shared}");
    fleet.fleet(&["shared", "--remove", &item, "--coordinator", &coordinator.url]).ended_with(0);
    let more = fleet.campaign("more", 2, "", "");
    let more = more.to_str().expect("a path");
    fleet.fleet(&["submit", more, "--no-share", "--coordinator", &coordinator.url]).ended_with(0);
    wait_until("the campaign to end", || is_over(&status(&fleet, &coordinator, "more")));
    assert_eq!(status(&fleet, &coordinator, "more")["finished"], serde_json::json!({ "completed": 12 }));
    assert_eq!(agent.log().matches("is in the cache now").count(), 1);
}

#[test]
fn what_nobody_has_is_bad_input_that_says_how_to_share_it() {
    let fleet = Fleet::new();
    let file = fleet.campaign("nowhere", 1, "", "");
    let file = file.to_str().expect("a path");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let _agent = Agent::start(&fleet, &coordinator.url, "bare", &["--data", "nowhere"]);
    fleet.fleet(&["submit", file, "--no-share", "--coordinator", &coordinator.url]).ended_with(0);
    wait_until("the campaign to end", || is_over(&status(&fleet, &coordinator, "nowhere")));
    assert_eq!(status(&fleet, &coordinator, "nowhere")["finished"], serde_json::json!({ "bad input": 6 }));
    let out = fleet.fleet(&["report", "nowhere", "--json", "--coordinator", &coordinator.url]);
    assert!(out.stdout.contains("fleet data share"), "{}", out.stdout);
    // Shared and retried, it runs.
    fleet.fleet(&["data", "share", "textures", "--coordinator", &coordinator.url]).ended_with(0);
    fleet.fleet(&["retry", "nowhere", "--failed", "--coordinator", &coordinator.url]).ended_with(0);
    wait_until("the campaign to end", || is_over(&status(&fleet, &coordinator, "nowhere")));
    assert_eq!(status(&fleet, &coordinator, "nowhere")["finished"], serde_json::json!({ "completed": 6 }));
}
