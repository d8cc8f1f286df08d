//! Samples through outages: every one arrives exactly once, in order, and none is invented.
//!
//! `FLEET_OUTAGE_SECONDS` makes the outages that long (3 s without it, so that the tests stay short).
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::process::{Command, Stdio};
use std::time::Duration;

use fleet_tests::{Agent, Campaign, Coordinator, Fleet, Power, long, program, spooled, wait_until};

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

/// Two network namespaces with a cable between them, as two machines.
struct Cable {
    names: [String; 2],
}

impl Cable {
    /// Lays it; `None` where this user may not, or `ip` is not there.
    fn lay() -> Option<Self> {
        let id = std::process::id();
        let names = [format!("fleet-a-{id}"), format!("fleet-b-{id}")];
        let [a, b] = &names;
        let (one, other) = (format!("fa{id}"), format!("fb{id}"));
        let cable = Self { names: names.clone() };
        let commands = [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("link add {one} type veth peer name {other}"),
            format!("link set {one} netns {a}"),
            format!("link set {other} netns {b}"),
            format!("-n {a} addr add 10.77.0.1/24 dev {one}"),
            format!("-n {b} addr add 10.77.0.2/24 dev {other}"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set {one} up"),
            format!("-n {b} link set {other} up"),
        ];
        commands.iter().all(|c| ip(c)).then_some(cable)
    }

    /// A program on one of the two machines.
    fn on(&self, machine: usize, name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine]]).arg(program(name));
        command
    }

    /// Pulls the cable out of the agent's machine, or puts it back.
    fn set(&self, up: bool) {
        let link = format!("fb{}", std::process::id());
        assert!(ip(&format!("-n {} link set {link} {}", self.names[1], if up { "up" } else { "down" })));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn a_cable_that_is_pulled_out_and_put_back_costs_no_sample() {
    let Some(cable) = Cable::lay() else {
        eprintln!("left out: network namespaces need root and iproute2");
        return;
    };
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = long(&fleet, "cable", steps());
    let listen = ["--insecure"];
    let coordinator = Coordinator::start_as(&fleet, cable.on(0, "fleet"), "10.77.0.1:7070", &listen);
    let ask = |arguments: &[&str]| {
        let mut command = cable.on(0, "fleet");
        fleet.here(&mut command);
        fleet_tests::finish(command.args(arguments).args(["--coordinator", &coordinator.url]))
    };
    ask(&["submit", &file]).ended_with(0);
    let powercap = power.dir().to_str().unwrap();
    let agent =
        Agent::start_as(&fleet, cable.on(1, "fleet-agent"), &coordinator.url, "agent", &["--powercap", powercap]);
    let campaign = || ask(&["status", "cable", "--json"]).ended_with(0).json()["campaigns"][0].clone();
    wait_until("the trial to train", || campaign()["running"][0]["done"].as_u64() >= Some(50));
    cable.set(false);
    std::thread::sleep(outage());
    cable.set(true);
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
