//! `make bench-faults`: three machines (network namespaces), real processes, and what goes wrong with them: how long
//! until it is noticed, what is lost, what is done twice. Takes about thirteen minutes, much of it waiting for leases of
//! 60 s. The first argument names one story.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use fleet_tests::{Agent, COORDINATOR, Clock, Coordinator, Fleet, Machines, Output, finish, long, wait_until};
use serde_json::Value;

/// Silence that says nothing about an agent: half a lease.
const SILENCE: Duration = Duration::from_secs(30);
/// Longer than a lease, with all its renewals.
const STOPPED: Duration = Duration::from_secs(75);
/// Seconds between the states of a trial, where crashes are played.
const SAVE_EVERY: u64 = 5;
/// Seconds.
const DAY: i64 = 86_400;
/// Bytes of the disk that fills up.
const DISK: &str = "size=8m";

type Story = (&'static str, fn(&Machines));

const STORIES: [Story; 7] = [
    ("a lost agent", lost_agent),
    ("silence", silence),
    ("a stopped agent", stopped_agent),
    ("a coordinator that moves", moves),
    ("a crash in the middle of a trial", crash),
    ("a full disk", full_disk),
    ("clocks that are set", clocks),
];

fn main() -> ExitCode {
    let Some(machines) = Machines::connect(3) else {
        eprintln!("faults: network namespaces need root and iproute2");
        return ExitCode::FAILURE;
    };
    machines.name_coordinator(0).unwrap();
    let wanted = std::env::args().nth(1);
    for (name, story) in STORIES {
        if wanted.as_deref().is_none_or(|w| name.contains(w)) {
            println!("{name}");
            story(&machines);
        }
    }
    ExitCode::SUCCESS
}

/// A coordinator on machine 0, or wherever it has moved to.
struct Stage<'a> {
    machines: &'a Machines,
    fleet: Fleet,
    coordinator: Coordinator,
    at: usize,
}

impl<'a> Stage<'a> {
    fn set(machines: &'a Machines) -> Self {
        let fleet = Fleet::new();
        let coordinator = serve(machines, &fleet, 0);
        Self { machines, fleet, coordinator, at: 0 }
    }

    fn agent(&self, machine: usize, more: &[&str]) -> Agent {
        self.agent_as(self.machines.on(machine, "fleet-agent"), machine, more)
    }

    fn agent_as(&self, command: Command, machine: usize, more: &[&str]) -> Agent {
        let (url, state) = (format!("http://{COORDINATOR}:7070"), format!("agent-{machine}"));
        // Each machine has its own locks; the folder for temporary files is the same on all of these.
        let locks = self.fleet.path().join(format!("locks-{machine}"));
        let mut all = vec!["--lock-dir", locks.to_str().unwrap()];
        all.extend(more);
        Agent::start_as(&self.fleet, command, &url, &state, &all)
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = self.machines.on(self.at, "fleet");
        self.fleet.here(&mut command);
        finish(command.args(arguments).args(["--coordinator", "http://127.0.0.1:7070"]))
    }

    fn submit(&self, name: &str, steps: u32) {
        let file = long(&self.fleet, name, steps);
        self.ask(&["submit", &file]).ended_with(0);
    }

    fn campaign(&self, name: &str) -> Value {
        self.ask(&["status", name, "--json"]).ended_with(0).json()["campaigns"][0].clone()
    }

    /// Waits until a trial has trained so many steps; returns where it runs.
    fn trains(&self, name: &str, step: u64) -> String {
        let mut agent = String::new();
        wait_until("a trial to train", || {
            let running = self.campaign(name)["running"][0].clone();
            agent = running["agent"].as_str().unwrap_or_default().to_owned();
            running["phase"] == "train" && running["done"].as_u64() >= Some(step)
        });
        agent
    }

    /// Waits for the trial's record, and returns it with how many there are.
    fn record(&self, name: &str) -> (Value, usize) {
        wait_until("a record", || self.campaign(name)["finished"]["completed"] == 1);
        let out = self.ask(&["export", name, "--jsonl", "-"]).ended_with(0);
        let records: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        (records[0].clone(), records.len())
    }
}

fn serve(machines: &Machines, fleet: &Fleet, at: usize) -> Coordinator {
    // Crashes are played more often than a trial is tried by default.
    Coordinator::start_as(fleet, machines.on(at, "fleet"), "0.0.0.0:7070", &["--insecure", "--max-losses", "100"])
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// `kill -9` of a daemon; another machine is idle.
fn lost_agent(machines: &Machines) {
    let stage = Stage::set(machines);
    stage.submit("lost", 800);
    let (first, held) = (stage.agent(1, &[]), stage.trains("lost", 20));
    let _second = stage.agent(2, &[]);
    first.kill();
    let since = Instant::now();
    wait_until("the trial to start elsewhere", || {
        let running = stage.campaign("lost")["running"][0].clone();
        running["attempt"] == 2 && running["agent"] != held.as_str()
    });
    println!("  killed to running elsewhere: {:.1} s, with a lease of 60 s", seconds(since));
    let (_, records) = stage.record("lost");
    println!("  records: {records}");
}

/// Cables pulled for half a lease while two trials run.
fn silence(machines: &Machines) {
    let stage = Stage::set(machines);
    let names = ["one", "two"];
    names.iter().for_each(|name| stage.submit(name, 2500));
    let _agents = [stage.agent(1, &[]), stage.agent(2, &[])];
    names.iter().for_each(|name| drop(stage.trains(name, 20)));
    for machine in [1, 2] {
        machines.plug(machine, false);
    }
    std::thread::sleep(SILENCE);
    for machine in [1, 2] {
        machines.plug(machine, true);
    }
    let attempts: Vec<u64> =
        names.iter().map(|name| stage.record(name).0["attempt"].as_u64().unwrap_or_default()).collect();
    let lost = attempts.iter().filter(|a| **a != 1).count();
    println!("  {} agents silent for {} s: {lost} taken for lost", attempts.len(), SILENCE.as_secs());
}

/// A daemon that is stopped for longer than its lease, alone and beside an idle machine.
fn stopped_agent(machines: &Machines) {
    for has_company in [false, true] {
        let stage = Stage::set(machines);
        stage.submit("stopped", 2000);
        let (agent, _) = (stage.agent(1, &[]), stage.trains("stopped", 20));
        let company = has_company.then(|| stage.agent(2, &[]));
        signal(agent.pid(), libc::SIGSTOP);
        std::thread::sleep(STOPPED);
        signal(agent.pid(), libc::SIGCONT);
        let (record, records) = stage.record("stopped");
        println!(
            "  stopped for {} s, {}: the record is of attempt {}; records: {records}",
            STOPPED.as_secs(),
            if company.is_some() { "another machine idle" } else { "no other machine" },
            record["attempt"]
        );
    }
}

/// The coordinator's disk is carried to another machine, and its name follows.
fn moves(machines: &Machines) {
    let mut stage = Stage::set(machines);
    stage.submit("moves", 1500);
    let (_agent, held) = (stage.agent(1, &[]), stage.trains("moves", 20));
    // Takes the old one's place, which is dropped, and so killed.
    let since = Instant::now();
    signal(stage.coordinator.pid(), libc::SIGKILL);
    wait_until("the old one to be gone", || !alive(stage.coordinator.pid()));
    stage.coordinator = serve(machines, &stage.fleet, 2);
    stage.at = 2;
    machines.name_coordinator(2).unwrap();
    println!("  killed to serving from another address: {:.1} s", seconds(since));
    wait_until("the agent to follow", || {
        let status = stage.ask(&["status", "--json"]).ended_with(0).json();
        status["agents"].as_array().is_some_and(|a| a.iter().any(|a| a["agent"] == held.as_str()))
    });
    println!("  until its agent is back: {:.1} s", seconds(since));
    let (record, records) = stage.record("moves");
    println!("  the record is of attempt {}; records: {records}", record["attempt"]);
    machines.name_coordinator(0).unwrap();
}

/// `kill -9` of daemon and worker, again and again; how much had to be done again.
fn crash(machines: &Machines) {
    let stage = Stage::set(machines);
    stage.submit("crash", 3000);
    let save_every = SAVE_EVERY.to_string();
    let more = ["--save-every", save_every.as_str()];
    let mut most: f64 = 0.0;
    let mut agent = stage.agent(1, &more);
    for round in 1..=5u64 {
        stage.trains("crash", round * 400);
        let running = stage.campaign("crash")["running"][0].clone();
        let done = running["done"].as_u64().unwrap_or_default();
        agent.kill();
        stage.fleet.no_worker_is_left();
        agent = stage.agent(1, &more);
        let mut from = 0;
        wait_until("the trial to go on", || {
            let again = stage.campaign("crash")["running"][0].clone();
            from = again["done"].as_u64().unwrap_or_default();
            again["attempt"].as_u64() > running["attempt"].as_u64() && again["phase"] == "train"
        });
        let rate = f64::from(u32::try_from(done).unwrap()) / (running["running_ms"].as_f64().unwrap() / 1e3);
        most = most.max(done.saturating_sub(from) as f64 / rate.max(1e-9));
    }
    let (record, records) = stage.record("crash");
    println!(
        "  5 crashes, states every {SAVE_EVERY} s: at most {most:.1} s of work done again; {} attempts, records: {records}",
        record["segments"].as_array().map_or(0, Vec::len)
    );
}

/// The coordinator's disk fills up while a campaign runs, and is emptied again.
fn full_disk(machines: &Machines) {
    let disk = Disk::mount();
    let fleet = Fleet::new();
    std::os::unix::fs::symlink(&disk.0, fleet.path().join("coordinator")).unwrap();
    let coordinator = serve(machines, &fleet, 0);
    let stage = Stage { machines, fleet, coordinator, at: 0 };
    let file = stage.fleet.campaign("full", 4, "", "");
    // Shared data would not be taken in: a disk keeps half a gigabyte for what trials tell.
    stage.ask(&["submit", file.to_str().unwrap(), "--no-share"]).ended_with(0);
    let _agent = stage.agent(1, &[]);
    let ended = || stage.campaign("full")["finished"]["completed"].as_u64().unwrap_or_default();
    wait_until("a first trial", || ended() >= 1);
    let filler = disk.0.join("filler");
    // As much as there is.
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=4k", &format!("of={}", filler.display())]).output();
    std::thread::sleep(Duration::from_secs(10));
    let (before, alive) = (ended(), alive(stage.coordinator.pid()));
    std::fs::remove_file(filler).unwrap();
    let since = Instant::now();
    wait_until("another trial", || ended() > before);
    println!(
        "  full for 10 s: {}; space to the next record: {:.1} s",
        if alive { "still serving" } else { "dead" },
        seconds(since)
    );
    wait_until("the campaign", || ended() == 24);
    let records = stage.ask(&["export", "full", "--jsonl", "-"]).ended_with(0).stdout.lines().count();
    println!("  trials: 24, records: {records}");
}

/// The coordinator's clock goes back by a day and its agent's ahead by two, while a trial runs; then both are right.
fn clocks(machines: &Machines) {
    let fleet = Fleet::new();
    let [coordinators, agents] = ["clock-0", "clock-1"].map(|name| Clock::right(&fleet.path().join(name)));
    let mut command = machines.on(0, "fleet");
    coordinators.give(&mut command);
    let coordinator = Coordinator::start_as(&fleet, command, "0.0.0.0:7070", &["--insecure"]);
    let stage = Stage { machines, fleet, coordinator, at: 0 };
    stage.submit("clocks", 1500);
    let mut command = machines.on(1, "fleet-agent");
    agents.give(&mut command);
    let _agent = stage.agent_as(command, 1, &[]);
    stage.trains("clocks", 20);
    coordinators.set(-DAY);
    agents.set(2 * DAY);
    std::thread::sleep(Duration::from_secs(10));
    coordinators.set(0);
    agents.set(0);
    let (record, records) = stage.record("clocks");
    let told = record["flags"].to_string().contains("clock");
    println!(
        "  set by -1 and +2 days for 10 s: the record is of attempt {}, {}; records: {records}",
        record["attempt"],
        if told { "and says so" } else { "and says nothing of it" }
    );
}

/// A file system of few bytes.
struct Disk(PathBuf);

impl Disk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&dir).status().unwrap();
        assert!(status.success(), "a tmpfs cannot be mounted");
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the coordinator may still be going.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: sends a signal to our own child, which has not been waited for.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Whether a process runs; one that has ended and was not waited for does not.
fn alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z') && !rest.is_empty())
}
