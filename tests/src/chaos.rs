//! A campaign during which coordinator, daemon and workers are killed at random moments, and what came of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::{Agent, Coordinator, Fleet, kill, wait_until};

/// What may be killed.
pub const VICTIMS: [&str; 3] = ["coordinator", "daemon", "worker"];
/// Combinations of [`Fleet::campaign`]'s matrix.
const COMBINATIONS: u64 = 6;
/// So many losses would otherwise be too many for some trial.
const PATIENT: [&str; 2] = ["--max-losses", "1000"];

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Tally {
    /// Kills by victim.
    pub killed: BTreeMap<&'static str, usize>,
    /// Trials that were asked for.
    pub asked: u64,
    /// Of them, those without a record.
    pub lost: u64,
    /// Records beyond one per trial.
    pub doubled: u64,
    /// Workers that outlived their daemon by more than a moment.
    pub orphaned: usize,
    /// Seconds from a kill to the next trial that ended, where nothing else was killed in between.
    pub recoveries: Vec<(&'static str, f64)>,
}

/// Runs a campaign of six combinations and `seeds` seeds, and kills `kills` processes on the way; stops killing when
/// the campaign is over. Asserts that what was told to be finished never becomes less.
pub fn run(seed: u64, seeds: u32, kills: usize) -> Tally {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let fleet = Fleet::new();
    let file = fleet.campaign("killed", seeds, "", "");
    let mut coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &PATIENT);
    let address = coordinator.address().to_owned();
    let url = coordinator.url.clone();
    let mut agent = Agent::start(&fleet, &url, "agent", &[]);
    fleet.fleet(&["submit", file.to_str().expect("a path"), "--coordinator", &url]).ended_with(0);

    let asked = COMBINATIONS * u64::from(seeds);
    let mut tally = Tally { asked, ..Tally::default() };
    // The most that was ever told to be finished.
    let mut told = 0;
    let mut look = || {
        let now = finished(&fleet, &url)?;
        assert!(now >= told, "{told} trials were told to be finished, now {now}");
        told = now;
        Some(now)
    };
    while tally.killed.values().sum::<usize>() < kills {
        std::thread::sleep(Duration::from_millis(rng.random_range(50..1500)));
        let before = look();
        if before == Some(asked) {
            break;
        }
        let victim = VICTIMS[rng.random_range(0..VICTIMS.len())];
        match victim {
            "coordinator" => {
                coordinator.kill();
                std::thread::sleep(Duration::from_millis(rng.random_range(0..500)));
                coordinator = Coordinator::start(&fleet, &address, &PATIENT);
            }
            "daemon" => {
                agent.kill();
                agent = Agent::start(&fleet, &url, "agent", &[]);
            }
            _ => {
                let workers = fleet.processes("fleet-worker");
                if workers.is_empty() {
                    continue;
                }
                workers.into_iter().for_each(kill);
            }
        }
        *tally.killed.entry(victim).or_default() += 1;
        // Every other time the next blow falls before this one is recovered from.
        if let (Some(before), true) = (before, rng.random_bool(0.5)) {
            let since = Instant::now();
            wait_until("a trial to end", || look().is_some_and(|now| now > before));
            tally.recoveries.push((victim, since.elapsed().as_secs_f64()));
        }
    }
    wait_until("the campaign to end", || look() == Some(asked));

    assert_eq!(agent.terminate(), Some(0));
    std::thread::sleep(Duration::from_secs(1));
    tally.orphaned = fleet.processes("fleet-worker").len();
    // What the journal holds is what was told: read once more from disk.
    coordinator.kill();
    let _again = Coordinator::start(&fleet, &address, &PATIENT);
    let report = fleet.fleet(&["report", "killed", "--json", "--coordinator", &url]).ended_with(0).json();
    let groups = report["comparison"]["groups"].as_array().cloned().unwrap_or_default();
    let recorded: u64 = groups.iter().filter_map(|g| g["completed"].as_u64()).sum();
    let distinct: u64 = groups.iter().filter_map(|g| g["seeds"].as_array()).map(|s| s.len() as u64).sum();
    tally.lost = asked - distinct;
    tally.doubled = recorded - distinct;
    tally
}

/// How many trials are told to be finished; `None` while nobody answers.
fn finished(fleet: &Fleet, url: &str) -> Option<u64> {
    let out = fleet.fleet(&["status", "killed", "--coordinator", url, "--json"]);
    (out.code == 0).then(|| {
        let status = out.json();
        let finished = status["campaigns"][0]["finished"].as_object().cloned().unwrap_or_default();
        assert!(finished.keys().all(|class| class == "completed"), "{finished:?}");
        finished.values().filter_map(Value::as_u64).sum()
    })
}
