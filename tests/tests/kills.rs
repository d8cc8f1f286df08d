//! Kill -9 of the coordinator, of the daemon, of workers, at random moments of a campaign. Afterwards every trial is
//! recorded exactly once, nothing that was told is missing, and no worker is left.

use fleet_tests::{Agent, Coordinator, Fleet, chaos, wait_until};

#[test]
fn a_campaign_survives_everything_being_killed() {
    // Another seed each run would find more, and could not be repeated; `FLEET_KILL_SEED` gives the choice.
    let seed = std::env::var("FLEET_KILL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let tally = chaos::run(seed, 5, 12);
    println!("kill seed {seed}: {tally:?}");
    assert_eq!((tally.lost, tally.doubled, tally.orphaned), (0, 0, 0));
}

#[test]
fn a_result_that_was_finished_while_the_coordinator_was_away_is_not_lost() {
    let fleet = Fleet::new();
    let file = fleet.campaign("away", 1, "", "");
    let text = std::fs::read_to_string(&file).expect("a file");
    let text =
        text.replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"").replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text.replace("steps = 4", "steps = 30")).expect("writes");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let (address, url) = (coordinator.address().to_owned(), coordinator.url.clone());
    fleet.fleet(&["submit", file.to_str().expect("a path"), "--coordinator", &url]).ended_with(0);
    let agent = Agent::start(&fleet, &url, "agent", &[]);
    wait_until("the worker", || !fleet.processes("fleet-worker").is_empty());
    coordinator.kill();
    // The trial ends with nobody to tell; its record waits on the agent's disk, also when the daemon is killed.
    let outbox = fleet.path().join("agent/outbox");
    let waiting = || {
        std::fs::read_dir(&outbox).is_ok_and(|d| d.flatten().any(|f| f.path().extension().is_some_and(|e| e == "json")))
    };
    wait_until("the record in the outbox", waiting);
    agent.kill();
    fleet.no_worker_is_left();
    let _coordinator = Coordinator::start(&fleet, &address, &[]);
    let agent = Agent::start(&fleet, &url, "agent", &[]);
    fleet.fleet(&["watch", "away", "--coordinator", &url]).ended_with(0);
    assert!(agent.log().contains("delivering a record from before the restart"), "{}", agent.log());
    let report = fleet.fleet(&["report", "away", "--json", "--coordinator", &url]).ended_with(0).json();
    assert_eq!(report["finished"]["completed"], 1);
    assert!(!waiting(), "delivered, it is forgotten");
}

#[test]
fn an_interrupted_local_run_leaves_nothing_behind_and_goes_on() {
    let fleet = Fleet::new();
    fleet.campaign("local", 1, "", "");
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut run = fleet.command("fleet").args(["local", "local.toml"]).spawn().expect("starts");
        wait_until("a worker", || !fleet.processes("fleet-worker").is_empty());
        // SAFETY: sends a signal to our own child, which has not been waited for.
        unsafe { libc::kill(run.id() as libc::pid_t, signal) };
        let status = run.wait().expect("ends");
        if signal == libc::SIGINT {
            assert_eq!(status.code(), Some(130));
        }
        if signal == libc::SIGINT {
            fleet.no_worker_is_left();
            wait_until("the agent to end", || fleet.processes("fleet-agent").is_empty());
        }
    }
    // Killed, it leaves an agent that saves its trial's state first; whoever comes at once waits for that.
    let out = fleet.fleet(&["local", "local.toml", "--json"]).ended_with(0).json();
    assert_eq!(out["finished"]["completed"], 6);
}
