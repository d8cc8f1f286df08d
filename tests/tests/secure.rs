//! A fleet with certificates, as its users run it: made, joined, at work, and one machine thrown out.

use fleet_tests::{Agent, Coordinator, Fleet, wait_until};

/// A token that leads to a coordinator.
fn token(fleet: &Fleet, url: &str, more: &[&str]) -> String {
    let words = [&["join-token", "--json", "--state", "coordinator", "--address", url], more].concat();
    fleet.fleet(&words).ended_with(0).json()["token"].as_str().expect("a token").to_owned()
}

#[test]
fn a_campaign_runs_over_certificates_that_are_renewed_meanwhile() {
    let fleet = Fleet::new();
    fleet.fleet(&["certs", "init", "--state", "coordinator"]).ended_with(0).says(&["fleet join-token"]);
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &["--certificate-validity", "10s"]);
    assert!(coordinator.url.starts_with("https://"), "{}", coordinator.url);
    let join = token(&fleet, &coordinator.url, &[]);
    let agent = Agent::start(&fleet, &coordinator.url, "agent", &["--join", &join]);
    let at = ["--coordinator", coordinator.url.as_str()];
    let file = fleet.campaign("nightly", 2, "", "").display().to_string();
    fleet.fleet(&[&["submit", &file][..], &at].concat()).ended_with(0);
    fleet.fleet(&[&["watch", "nightly"][..], &at].concat()).ended_with(0);
    wait_until("a renewal", || agent.log().contains("the certificate was renewed"));
    let report = fleet.fleet(&[&["report", "nightly", "--json"][..], &at].concat()).ended_with(0).json();
    assert_eq!(report["finished"]["completed"], 12, "{report}");

    let viewer = token(&fleet, &coordinator.url, &["--role", "viewer"]);
    let as_viewer = |words: &[&str]| {
        fleet.run_with("fleet", words, |command| {
            command.env("FLEET_IDENTITY", "viewer.pem");
        })
    };
    as_viewer(&["join", &viewer, "--name", "ann"]).ended_with(0);
    as_viewer(&["status"]).ended_with(0);
    as_viewer(&["cancel", "nightly"]).ended_with(1).says(&["viewer ann may not"]);

    let id = std::fs::read_to_string(fleet.path().join("agent/agent-id")).expect("an id");
    fleet.fleet(&["certs", "revoke", &id, "--state", "coordinator"]).ended_with(0);
    wait_until("the agent to notice", || agent.log().contains("has revoked this certificate"));
    assert_eq!(agent.terminate(), Some(0));
    assert!(!std::fs::read_to_string(fleet.path().join("coordinator.log")).expect("a log").contains(&join[12..]));
}
