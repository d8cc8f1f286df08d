//! Samples through outages: every one arrives exactly once, in order, and none is invented.
//!
//! `FLEET_OUTAGE_SECONDS` makes the outages that long (3 s without it, so that the tests stay short).
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::time::Duration;

use fleet_tests::{Agent, Campaign, Coordinator, Fleet, Machines, Power, long, spooled, wait_until};

fn outage() -> Duration {
    let seconds = std::env::var("FLEET_OUTAGE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3.0);
    Duration::from_secs_f64(seconds)
}

/// A trial that is at work for most of the outage, at about 20 ms a step, and does not outlast a test's patience.
fn steps() -> u32 {
    400 + (outage().as_secs_f64() * 30.0) as u32
}

/// Asserts that each attempt's samples are numbered from 0 without a gap or a repetition, and that time does not run
/// backwards by more than the worker's messages may be late.
fn whole(campaign: &Campaign<'_>) -> Vec<(u32, usize)> {
    let attempts = campaign.samples();
    for (attempt, samples) in &attempts {
        let numbers: Vec<u64> = samples.iter().map(|s| s.0).collect();
        let expected: Vec<u64> = (0..samples.len() as u64).collect();
        assert_eq!(numbers, expected, "attempt {attempt}");
        let late = samples.windows(2).map(|w| w[0].1.saturating_sub(w[1].1)).max().unwrap_or(0);
        assert!(late < 1_000_000_000, "attempt {attempt}: a reading came {late} ns before the one in front of it");
    }
    attempts.iter().map(|(attempt, samples)| (*attempt, samples.len())).collect()
}

#[test]
fn a_coordinator_that_was_away_gets_everything_exactly_once_even_when_the_trial_ended_meanwhile() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = long(&fleet, "away", 300);
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let address = coordinator.address().to_owned();
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "away" };
    fleet.fleet(&["submit", &file, "--coordinator", &coordinator.url]).ended_with(0);
    let agent = Agent::start(&fleet, &coordinator.url, "agent", &["--powercap", power.dir().to_str().unwrap()]);
    campaign.wait_for_step(50);
    coordinator.kill();
    let outbox = fleet.path().join("agent/outbox");
    let records = || {
        std::fs::read_dir(&outbox)
            .map_or(0, |e| e.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "json")).count())
    };
    wait_until("the trial to end without its coordinator", || records() == 1);
    std::thread::sleep(outage());
    let spooled = spooled(&fleet.path().join("agent/spool"));
    assert!(spooled.len() > 200, "{} samples", spooled.len());

    let again = Coordinator::start(&fleet, &address, &[]);
    assert_eq!(again.url, campaign.url);
    campaign.finish();
    assert_eq!(whole(&campaign), [(1, spooled.len())]);
    assert_eq!(campaign.samples()[0].1, spooled, "what is stored is what was spooled");
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(std::fs::read_dir(fleet.path().join("agent/spool")).unwrap().count(), 0);
}

#[test]
fn a_daemon_that_is_killed_or_restarted_leaves_samples_that_its_successor_sends() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = long(&fleet, "restarted", 500);
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let address = coordinator.address().to_owned();
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "restarted" };
    fleet.fleet(&["submit", &file, "--coordinator", &coordinator.url]).ended_with(0);
    let more = ["--save-every", "1", "--powercap", power.dir().to_str().unwrap()];
    let agent = || Agent::start(&fleet, &campaign.url, "agent", &more);
    let first = agent();
    campaign.wait_for_step(80);
    // Nothing can be sent any more; then the daemon is killed.
    coordinator.kill();
    std::thread::sleep(Duration::from_secs(2));
    first.kill();
    fleet.no_worker_is_left();
    let left = spooled(&fleet.path().join("agent/spool"));
    let again = Coordinator::start(&fleet, &address, &[]);
    let second = agent();
    campaign.wait_for_step(200);
    assert_eq!(second.terminate(), Some(0), "SIGTERM");
    let third = agent();
    campaign.finish();
    wait_until("what the first has left", || whole(&campaign).first() == Some(&(1, left.len())));
    let attempts = campaign.samples();
    assert_eq!(attempts[0].1, left, "what is stored is what was spooled");
    assert_eq!(attempts.len(), 3, "{:?}", whole(&campaign));
    assert_eq!(third.terminate(), Some(0));
    drop(again);
}

#[test]
fn a_cable_that_is_pulled_out_and_put_back_costs_no_sample() {
    let Some(machines) = Machines::connect(2) else {
        eprintln!("left out: network namespaces need root and iproute2");
        return;
    };
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = long(&fleet, "cable", steps());
    let listen = ["--insecure"];
    let coordinator = Coordinator::start_as(&fleet, machines.on(0, "fleet"), "10.77.0.1:7070", &listen);
    let ask = |arguments: &[&str]| {
        let mut command = machines.on(0, "fleet");
        fleet.here(&mut command);
        fleet_tests::finish(command.args(arguments).args(["--coordinator", &coordinator.url]))
    };
    ask(&["submit", &file]).ended_with(0);
    let powercap = power.dir().to_str().unwrap();
    let agent =
        Agent::start_as(&fleet, machines.on(1, "fleet-agent"), &coordinator.url, "agent", &["--powercap", powercap]);
    let campaign = || ask(&["status", "cable", "--json"]).ended_with(0).json()["campaigns"][0].clone();
    wait_until("the trial to train", || campaign()["running"][0]["done"].as_u64() >= Some(50));
    machines.plug(1, false);
    std::thread::sleep(outage());
    machines.plug(1, true);
    wait_until("the trial to end", || campaign()["finished"]["completed"] == 1);
    let samples = ask(&["samples", "cable", "--json"]).ended_with(0).json();
    let attempt = &samples["attempts"][0];
    assert_eq!(samples["attempts"].as_array().map(Vec::len), Some(1), "the lease outlived the outage: {samples}");
    let csv = ask(&["samples", "cable", "--csv", "-"]).ended_with(0).stdout;
    let numbers: Vec<u64> = csv.lines().skip(1).map(|l| l.split(',').nth(3).unwrap().parse().unwrap()).collect();
    assert_eq!(Some(numbers.len() as u64), attempt["taken"].as_u64(), "{attempt}");
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "in order, each once");
    assert_eq!(agent.terminate(), Some(0));
}
