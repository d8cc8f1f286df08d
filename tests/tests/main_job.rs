//! The main job, from the campaign file to the report, as a person runs it.

use fleet_tests::{Agent, Coordinator, Fleet, Power, finish, wait_until};
use serde_json::Value;

fn finished(report: &Value) -> u64 {
    report["finished"].as_object().map(|f| f.values().filter_map(Value::as_u64).sum()).unwrap_or(0)
}

#[test]
fn a_campaign_runs_locally_and_a_second_run_only_shows_it_again() {
    let fleet = Fleet::new();
    fleet.campaign("first", 2, "", "");
    let out = fleet.fleet(&["local", "first.toml", "--report", "out/first.html"]).ended_with(0);
    assert!(out.stdout.contains("vit_micro") && out.stdout.contains("bitfit"), "{}", out.stdout);
    assert!(out.stderr.contains("12 completed") && out.stderr.contains("out/first.html"), "{}", out.stderr);
    let page = std::fs::read_to_string(fleet.path().join("out/first.html")).expect("a report");
    assert!(page.contains("12 of 12 trials") && !page.contains("src=\"http"), "self-contained and complete");
    fleet.no_worker_is_left();

    let again = fleet.fleet(&["local", "first.toml", "--json"]).ended_with(0).json();
    assert_eq!(again["schema"], "fleet.report/1");
    assert_eq!((finished(&again), again["asked"].as_u64()), (12, Some(12)));
    let groups = again["comparison"]["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 6, "three methods, two strategies");
    for group in groups {
        assert_eq!(group["completed"], 2, "both seeds");
        let (name, peak) = (&group["settings"]["method"]["name"], &group["training"]["peak_bytes"]["mean"]);
        assert!(peak.as_f64().is_some_and(|p| p > 1e6), "{name}: {peak}");
        // This machine may or may not have a meter; a number or a reason, never a zero.
        let joules = &group["training"]["joules"];
        assert!(joules["measured"]["mean"].as_f64().is_some_and(|j| j > 0.0) || joules["unavailable"].is_string());
    }
    // Checkpointing changes memory and not the result.
    let of = |method: &str, how: &str| {
        groups
            .iter()
            .find(|g| g["settings"]["method"]["name"] == method && g["settings"]["checkpointing"] == how)
            .expect("a group")
    };
    for method in ["full", "lora", "bitfit"] {
        let (none, with) = (of(method, "none"), of(method, "static"));
        assert_eq!(none["top1_percent"], with["top1_percent"], "{method}");
        assert!(with["training"]["peak_bytes"]["mean"].as_f64() < none["training"]["peak_bytes"]["mean"].as_f64());
    }
}

#[test]
fn where_there_is_a_meter_energy_is_measured_and_scored() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = fleet.campaign("metered", 1, "", "");
    let text = std::fs::read_to_string(&file).expect("a file").replace("steps = 4", "steps = 60");
    let text =
        text.replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"").replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text).expect("writes");
    let mut local = fleet.command("fleet");
    local.args(["local", "metered.toml", "--json"]).env("FLEET_POWERCAP", power.dir());
    let report = finish(&mut local).ended_with(0).json();
    let training = &report["comparison"]["groups"][0]["training"];
    let joules = training["joules"]["measured"]["mean"].as_f64().unwrap_or_else(|| panic!("no energy: {training}"));
    let seconds = training["seconds"]["mean"].as_f64().expect("a time");
    let watts = joules / seconds;
    assert!(
        (watts - Power::WATTS).abs() < 2.5,
        "{joules} J in {seconds} s are {watts} W, played were {}",
        Power::WATTS
    );
    assert_eq!(training["domain"], "cpu_packages");
    for score in ["ns", "ns_e", "ns_m", "ns_sharp"] {
        assert!(training["scores"][score]["measured"]["mean"].is_number(), "{score}: {training}");
    }
    let page = std::fs::read_to_string(fleet.path().join("fleet-state/metered.html")).expect("a report");
    assert!(page.contains("Power over time") && page.contains("short window"), "drawn, and flagged as short");
}

#[test]
fn coordinator_and_agent_as_processes_of_their_own() {
    let fleet = Fleet::new();
    let file = fleet.campaign("served", 1, "", "");
    let file = file.to_str().expect("a path");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    let submitted = fleet.fleet(&["submit", file, url[0], url[1], "--json"]).ended_with(0).json();
    assert_eq!((submitted["trials"].as_u64(), submitted["new_trials"].as_u64()), (Some(6), Some(6)));
    let again = fleet.fleet(&["submit", file, url[0], url[1], "--json"]).ended_with(0).json();
    assert_eq!(again["new_trials"], 0, "the same file asks for nothing new");
    let waits = fleet.fleet(&["status", "served", url[0], url[1], "--json"]).ended_with(0).json();
    assert_eq!(waits["campaigns"][0]["waits"]["no agent is connected; start one with `fleet-agent run`"], 6);

    let agent = Agent::start(&fleet, &coordinator.url, "agent", &[]);
    fleet.fleet(&["watch", "served", url[0], url[1]]).ended_with(0);
    let report =
        fleet.fleet(&["report", "served", url[0], url[1], "--html", "served.html", "--json"]).ended_with(0).json();
    assert_eq!(report["finished"]["completed"], 6);
    assert!(fleet.path().join("served.html").exists());
    let status = fleet.fleet(&["status", url[0], url[1]]).ended_with(0);
    assert!(status.stdout.contains("6 of 6 trials ended"), "{}", status.stdout);

    // Samples came up while the trials ran, and none is missing.
    let page = std::fs::read_to_string(fleet.path().join("served.html")).expect("a report");
    assert!(page.contains("Memory over time"), "memory was sampled and drawn");
    assert_eq!(agent.terminate(), Some(0), "an agent leaves tidily");
    assert_eq!(coordinator.terminate(), Some(0), "a coordinator too");
    fleet.no_worker_is_left();
}

#[test]
fn a_stopped_agent_gives_its_lease_back_and_another_goes_on() {
    let fleet = Fleet::new();
    let file = fleet.campaign("handed", 1, "", "");
    std::fs::write(&file, std::fs::read_to_string(&file).expect("a file").replace("steps = 4", "steps = 200"))
        .expect("writes");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    fleet.fleet(&["submit", file.to_str().expect("a path"), url[0], url[1]]).ended_with(0);
    let agent = Agent::start(&fleet, &coordinator.url, "one", &[]);
    let status =
        || fleet.fleet(&["status", "handed", url[0], url[1], "--json"]).ended_with(0).json()["campaigns"][0].clone();
    wait_until("a trial to train", || status()["running"][0]["phase"] == "train");
    assert_eq!(agent.terminate(), Some(0));
    fleet.no_worker_is_left();
    // At once, not after the lease's minute.
    assert_eq!(status()["waiting"], 6);
    let _other = Agent::start(&fleet, &coordinator.url, "two", &[]);
    wait_until("the other agent to take over", || status()["running"][0]["attempt"].as_u64() >= Some(1));
    let cancelled = fleet.fleet(&["cancel", "handed", url[0], url[1], "--json"]).ended_with(0).json();
    assert_eq!(cancelled["trials"], 6);
    wait_until("the worker to be stopped", || fleet.processes("fleet-worker").is_empty());
    let retried = fleet.fleet(&["retry", "handed", "--missing", url[0], url[1], "--json"]).ended_with(0).json();
    assert_eq!(retried["trials"], 6);
    wait_until("a trial to run again", || status()["running"].as_array().is_some_and(|r| !r.is_empty()));
}

#[test]
fn a_budget_between_two_peaks_lets_checkpointing_finish_and_the_other_not() {
    let fleet = Fleet::new();
    // vit_micro with this batch: some 30 MiB of state; activations of a batch of 16 take about 50 MiB more without
    // checkpointing and 15 with it.
    let file = fleet.campaign("tight", 1, "", "");
    let text = std::fs::read_to_string(&file).expect("a file");
    let text = text
        .replace("\"1GiB\"", "\"55MiB\"")
        .replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"")
        .replace("batch = 4", "batch = 16");
    std::fs::write(&file, text).expect("writes");
    // "Does not fit" is a result, so the command succeeds.
    let out = fleet.fleet(&["local", "tight.toml", "--json"]).ended_with(0).json();
    assert_eq!(
        (out["finished"]["completed"].as_u64(), out["finished"]["does not fit"].as_u64()),
        (Some(1), Some(1)),
        "{out}"
    );
    let failure = &out["comparison"]["failures"][0];
    assert_eq!(failure["settings"]["checkpointing"], "none");
    let outcome = &failure["outcome"];
    assert!(outcome["needed_bytes"].as_u64() > outcome["budget_bytes"].as_u64(), "{outcome}");
    assert!(["forward", "backward"].contains(&outcome["place"]["phase"].as_str().expect("a place")), "{outcome}");
    let peak = out["comparison"]["groups"][0]["training"]["peak_bytes"]["mean"].as_f64().expect("a peak");
    assert!(peak <= f64::from(55 << 20), "the one that finished stayed below: {peak}");
}

#[test]
fn a_loss_that_is_no_number_ends_as_diverged() {
    let fleet = Fleet::new();
    fleet.campaign("wild", 1, "", "");
    let file = fleet.path().join("wild.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    let text = text
        .replace("warm_up_steps = 1", "warm_up_steps = 1\nlearning_rate = 1e30")
        .replace("steps = 4\n", "steps = 30\n");
    let text =
        text.replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"").replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text).expect("writes");
    let out = fleet.fleet(&["local", "wild.toml", "--json"]).ended_with(0).json();
    assert_eq!(out["finished"]["diverged"], 1, "{out}");
    assert!(out["comparison"]["failures"][0]["outcome"]["step"].as_u64().is_some_and(|s| s > 0 && s < 30));
}

#[test]
fn weights_that_were_trained_are_the_start_of_the_next_campaign() {
    let fleet = Fleet::new();
    fleet.campaign("pretrain", 1, "", "[output]\nweights = true\n");
    let file = fleet.path().join("pretrain.toml");
    let text = std::fs::read_to_string(&file).expect("a file").replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"");
    std::fs::write(&file, text.replace("[\"none\", \"static\"]", "\"none\"")).expect("writes");
    fleet.fleet(&["local", "pretrain.toml", "--state", "one", "--keep-weights", "weights"]).ended_with(0);
    fleet.campaign("adapt", 1, "", "");
    let out =
        fleet.fleet(&["local", "adapt.toml", "--state", "two", "--weights", "weights", "--json"]).ended_with(0).json();
    let groups = out["comparison"]["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 6);
    assert!(groups.iter().all(|g| g["settings"]["weights"]["from"] == "file"), "{out}");
    let plan = fleet.fleet(&["plan", "adapt.toml", "--json"]).ended_with(0).json();
    assert!(plan["warnings"].to_string().contains("from scratch"), "without the folder there are none");
}

#[test]
fn only_the_worker_links_libtorch() {
    for (name, links) in [("fleet", false), ("fleet-agent", false), ("fleet-worker", true)] {
        let out = std::process::Command::new("ldd").arg(fleet_tests::program(name)).output().expect("ldd runs");
        let libraries = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(libraries.contains("libtorch"), links, "{name}: {libraries}");
        // Without any environment variable, that is, by the paths that the binaries carry.
        assert!(!libraries.contains("not found"), "{name}: {libraries}");
    }
}
