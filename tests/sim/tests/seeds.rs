//! Some hundred seeds, and all that ever failed. `make simulate` runs 10,000.

use std::fmt::Write as _;

use fleet_sim::{Failure, Faults, explain, many, one};

fn tell(failure: &Failure) -> String {
    let mut text = String::new();
    for line in &failure.log {
        let _ = writeln!(text, "{line}");
    }
    let Failure { seed, faults, violation, .. } = failure;
    let _ = writeln!(text, "seed {seed} breaks a promise: {violation}\nfaults that it needs: {faults}");
    text
}

#[test]
fn some_hundred_seeds_keep_all_promises_and_every_kind_of_fault_strikes() {
    let outcome = many(1_000_000, 400, 2);
    assert!(outcome.failure.is_none(), "{}", outcome.failure.iter().map(tell).collect::<String>());
    assert_eq!(outcome.seeds, 400);
    for what in [
        "agents asked to end",
        "agents killed",
        "agents paused",
        "agents' machines slept",
        "cables pulled out",
        "cancellations",
        "changes of what agents have",
        "clocks set",
        "coordinator crashes",
        "coordinator pauses",
        "leases given back or crashed",
        "leases lost by restarts",
        "leases lost by silence",
        "leases resumed",
        "messages lost",
        "messages that took over a second",
        "records refused by an agent's disk",
        "records superseded",
        "reports: already recorded",
        "reports: not wanted",
        "reports: superseded",
        "retries",
        "slow syncs",
        "trials given up",
        "trials retried",
        "unsynced writes kept",
        "unsynced writes lost",
        "workers stopped",
        "writes refused by a full disk",
        "writes torn at the end",
        "writes torn in the middle",
    ] {
        assert!(outcome.tally.of(what) > 0, "{what}: never");
    }
}

#[test]
fn seeds_that_once_failed_keep_all_promises() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../regressions/seeds.txt");
    let text = std::fs::read_to_string(file).expect("the list of seeds");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut seeds = 0;
    for line in lines {
        let (seed, what) = line.split_once(' ').unwrap_or((line, ""));
        let seed = seed.parse().unwrap_or_else(|_| panic!("expected a seed and what it was, found {line:?}"));
        if let Some(failure) = explain(seed) {
            panic!("{}once it was: {what}", tell(&failure));
        }
        seeds += 1;
    }
    assert!(seeds > 0);
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    let (tally, violation, log) = one(7, Faults::ALL, true);
    assert_eq!(violation, None);
    assert!(log.len() > 100, "{} lines", log.len());
    assert_eq!(one(7, Faults::ALL, true), (tally, None, log));
}
