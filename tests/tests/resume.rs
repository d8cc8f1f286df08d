//! Trials that are interrupted go on where they were, and their records say so.

use std::time::Duration;

use fleet_tests::{Agent, Campaign, Coordinator, Fleet, Power, long, wait_until};

/// The steps that the page says each attempt did.
fn attempts(page: &str) -> Vec<(u32, u32)> {
    let line = page.split("interrupted: ").nth(1).expect("the page names the interruption");
    let line = line.split('<').next().unwrap_or_default();
    line.split(", ")
        .map(|part| {
            let numbers: Vec<u32> = part.split(' ').filter_map(|word| word.parse().ok()).collect();
            (numbers[1], numbers[2])
        })
        .collect()
}

#[test]
fn stopped_twice_and_killed_once_a_trial_goes_on_and_its_joules_are_those_of_all_attempts() {
    const STEPS: u32 = 600;
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = long(&fleet, "stopped", STEPS);
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "stopped" };
    let more = ["--save-every", "3", "--powercap", power.dir().to_str().expect("a path")];
    let agent = || Agent::start(&fleet, &coordinator.url, "agent", &more);
    fleet.fleet(&["submit", &file, "--coordinator", &coordinator.url]).ended_with(0);
    let first = agent();
    campaign.wait_for_step(20);
    assert_eq!(first.terminate(), Some(0), "SIGTERM");
    fleet.no_worker_is_left();
    let second = agent();
    campaign.wait_for_step(100);
    let state = || {
        let mut files: Vec<_> = walk(&fleet.path().join("agent/resume"));
        files.retain(|f| f.ends_with(".json"));
        files
    };
    let before = state();
    wait_until("another state", || state() != before && !state().is_empty());
    // What it does from here on is lost with it: some tens of joules.
    std::thread::sleep(Duration::from_secs(2));
    second.kill();
    fleet.no_worker_is_left();
    let third = agent();
    campaign.wait_for_step(200);
    assert_eq!(third.terminate(), Some(0), "SIGTERM");
    let last = agent();
    let (page, group) = campaign.finish();
    let steps = attempts(&page);
    assert!((3..=4).contains(&steps.len()), "{steps:?}");
    assert_eq!((steps[0].0, steps[steps.len() - 1].1), (1, STEPS));
    assert!(
        steps.windows(2).all(|w| w[1].0 == w[0].1 + 1),
        "each goes on where the one before left its state: {steps:?}"
    );
    let joules = group["training"]["joules"]["measured"]["mean"].as_f64().expect("measured");
    let seconds = group["training"]["seconds"]["mean"].as_f64().expect("a time");
    let watts = joules / seconds;
    assert!(
        (watts - Power::WATTS).abs() < 2.5,
        "{joules} J in {seconds} s are {watts} W, played were {}",
        Power::WATTS
    );
    // What the second did after its latest state is in no record; its successor found it in the spool and told it.
    let report =
        || fleet.fleet(&["report", "stopped", "--json", "--coordinator", &coordinator.url]).ended_with(0).json();
    let killed = |waste: &serde_json::Value| {
        waste["attempt"] == 2 && waste["reason"].as_str().is_some_and(|r| r.contains("killed or crashed"))
    };
    wait_until("the wasted energy", || report()["wasted"].as_array().is_some_and(|all| all.iter().any(killed)));
    let told = report();
    let waste = told["wasted"].as_array().and_then(|all| all.iter().find(|w| killed(w))).expect("told").clone();
    let (joules, seconds) = (waste["energy"]["joules"].as_f64(), waste["seconds"].as_f64());
    let watts = joules.expect("measured") / seconds.expect("a time");
    assert!((watts - Power::WATTS).abs() < 5.0, "{waste}");
    assert_eq!(told["wasted"].as_array().map_or(0, Vec::len) as u64, told["energy"][0]["wasted_attempts"]);
    assert_eq!(last.terminate(), Some(0));
    assert_eq!(walk(&fleet.path().join("agent/resume")), Vec::<String>::new(), "no state is left behind");
    assert_eq!(walk(&fleet.path().join("agent/spool")), Vec::<String>::new(), "all samples were sent");
}

/// All files below a folder.
fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}
