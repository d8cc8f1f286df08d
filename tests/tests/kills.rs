//! Kill -9 of the coordinator, of the daemon, of workers, at random moments of a campaign. Afterwards every trial is
//! recorded exactly once, nothing that was told is missing, and no worker is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet_tests::{Agent, Coordinator, Fleet, kill, wait_until};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How many processes are killed on the way.
const KILLS: usize = 12;

#[test]
fn a_campaign_survives_everything_being_killed() {
    // Another seed each run would find more, and could not be repeated; `FLEET_KILL_SEED` gives the choice.
    let seed = std::env::var("FLEET_KILL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    println!("kill seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let fleet = Fleet::new();
    // Long enough that the kills fall into it.
    let file = fleet.campaign("killed", 5, "", "");
    // So many losses would otherwise be too many for some trial.
    let patient = ["--max-losses", "1000"];
    let mut coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &patient);
    let address = coordinator.address().to_owned();
    let url = coordinator.url.clone();
    let mut agent = Agent::start(&fleet, &url, "agent", &[]);
    fleet.fleet(&["submit", file.to_str().expect("a path"), "--coordinator", &url]).ended_with(0);

    // The most that was ever told to be finished.
    let mut told = 0;
    let finished = |fleet: &Fleet| -> Option<u64> {
        let out = fleet.fleet(&["status", "killed", "--coordinator", &url, "--json"]);
        (out.code == 0).then(|| {
            let status = out.json();
            let finished = status["campaigns"][0]["finished"].as_object().cloned().unwrap_or_default();
            assert!(finished.keys().all(|class| class == "completed"), "{finished:?}");
            finished.values().filter_map(serde_json::Value::as_u64).sum()
        })
    };
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(rng.random_range(50..1500)));
        if let Some(now) = finished(&fleet) {
            assert!(now >= told, "{told} trials were told to be finished, now {now}");
            told = now;
        }
        let victim = ["coordinator", "daemon", "worker"][rng.random_range(0..3)];
        *killed.entry(victim).or_default() += 1;
        match victim {
            "coordinator" => {
                coordinator.kill();
                std::thread::sleep(Duration::from_millis(rng.random_range(0..500)));
                coordinator = Coordinator::start(&fleet, &address, &patient);
            }
            "daemon" => {
                agent.kill();
                agent = Agent::start(&fleet, &url, "agent", &[]);
            }
            _ => fleet.processes("fleet-worker").into_iter().for_each(kill),
        }
    }
    println!("killed: {killed:?}");
    let started = Instant::now();
    wait_until("the campaign to end", || finished(&fleet) == Some(30));
    println!("ended {:.1} s after the last kill", started.elapsed().as_secs_f64());

    let report = fleet.fleet(&["report", "killed", "--json", "--coordinator", &url]).ended_with(0).json();
    let groups = report["comparison"]["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 6);
    for group in groups {
        // A trial that was recorded twice would show as a sixth completed one.
        assert_eq!(group["completed"], 5, "{}", group["settings"]["method"]["name"]);
        assert_eq!(group["seeds"].as_array().map(Vec::len), Some(5));
    }
    assert_eq!(report["comparison"]["failures"].as_array().map(Vec::len), Some(0));
    assert_eq!(agent.terminate(), Some(0));
    fleet.no_worker_is_left();
    // What the journal holds is what was told: read once more from disk.
    coordinator.kill();
    let _again = Coordinator::start(&fleet, &address, &patient);
    assert_eq!(finished(&fleet), Some(30));
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
        fleet.no_worker_is_left();
        wait_until("the agent to end", || fleet.processes("fleet-agent").is_empty());
    }
    let out = fleet.fleet(&["local", "local.toml", "--json"]).ended_with(0).json();
    assert_eq!(out["finished"]["completed"], 6);
}
