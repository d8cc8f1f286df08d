//! Bad input and a refusing world: one clear error each, saying what was expected, what was found and what to do; and
//! nothing hangs (every command here has a time limit).

use std::process::Command;

use fleet_common::wire::v1;
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use fleet_tests::{Agent, Coordinator, Fleet, break_jpeg, finish, program, wait_until, with_small_files};

/// A campaign of one very short trial.
fn single(fleet: &Fleet, name: &str) -> String {
    let file = fleet.campaign(name, 1, "", "");
    let text = std::fs::read_to_string(&file).expect("a file");
    let text =
        text.replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"").replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text).expect("writes");
    file.to_str().expect("a path").to_owned()
}

/// Replaces a part of a file of the fleet's folder.
fn edit(path: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).expect("a file");
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(path, text.replace(from, to)).expect("writes");
}

#[test]
fn a_campaign_file_that_is_not_right() {
    let fleet = Fleet::new();
    let cases = [
        ("\"textures\"", "\"txtures\"", &["broken.toml:9:", "did you mean \"textures\""][..]),
        (
            "\"full\"",
            "\"fulll\"",
            &["broken.toml:6:", "did you mean \"full\"", "Known: full, lora, adalora, qlora, bitfit"],
        ),
        ("\"none\"", "[]", &["broken.toml:8:", "at least one value"]),
        ("steps = 4", "stesp = 4", &["broken.toml:11:", "did you mean \"steps\""]),
        ("\"1GiB\"", "\"much\"", &["broken.toml:3:", "\"2GiB\"", "much"]),
    ];
    for (from, to, expected) in cases {
        let file = single(&fleet, "broken");
        edit(&file, from, to);
        for command in ["plan", "submit", "local"] {
            fleet.fleet(&[command, "broken.toml"]).ended_with(2).says(expected);
        }
    }
    fleet.fleet(&["local", "absent.toml"]).ended_with(2).says(&["cannot read the campaign file absent.toml"]);
}

#[test]
fn a_truncated_binary_file_is_named_with_the_offset() {
    let fleet = Fleet::new();
    let folder = fleet.data().join("cifar-100-binary");
    std::fs::create_dir_all(&folder).expect("makes");
    std::fs::write(folder.join("train.bin"), vec![0u8; 3074 * 2 + 100]).expect("writes");
    std::fs::write(folder.join("test.bin"), vec![0u8; 3074]).expect("writes");
    let file = single(&fleet, "cifar");
    edit(&file, "\"textures\"", "\"cifar100\"");
    fleet.fleet(&["local", "cifar.toml"]).ended_with(2).says(&["train.bin", "6148", "3074"]);
}

#[test]
fn a_truncated_image_is_named_in_the_trials_reason() {
    let fleet = Fleet::new();
    single(&fleet, "cut");
    let name = break_jpeg(&fleet.data().join("textures"));
    // The campaign's samples are drawn at random; enough steps meet the broken image for sure.
    edit(fleet.path().join("cut.toml").to_str().expect("a path"), "steps = 4", "steps = 40");
    let out = fleet.fleet(&["local", "cut.toml", "--json"]).ended_with(1);
    let report = out.json();
    assert_eq!(report["finished"]["bad input"], 1, "{report}");
    let message = report["comparison"]["failures"][0]["outcome"]["message"].as_str().expect("a reason");
    let file = name.rsplit('/').next().expect("a file name");
    assert!(message.contains(file) && message.contains("bytes"), "{message}");
    // Put right, the trial can be opened again; the data is another now, so the campaign is submitted anew.
    std::fs::remove_dir_all(fleet.data().join("textures")).expect("removes");
    fleet_tests::textures(&fleet.data(), "textures");
    let good = fleet.fleet(&["local", "cut.toml", "--json"]).ended_with(0).json();
    assert_eq!(good["finished"]["completed"], 1, "{good}");
}

#[test]
fn a_wrong_label_file_is_named_with_its_line() {
    let fleet = Fleet::new();
    single(&fleet, "labels");
    let labels = fleet.data().join("textures/labels/val1.txt");
    edit(labels.to_str().expect("a path"), "/", "\\");
    fleet.fleet(&["local", "labels.toml"]).ended_with(2).says(&["val1.txt", "1"]);
    fleet.fleet(&["data", "info", "textures"]).ended_with(2).says(&["val1.txt"]);
    fleet.fleet(&["data", "info", "dtd"]).ended_with(2).says(&["dtd", "dtd-r1.0.1.tar.gz"]);
}

#[test]
fn two_agents_do_not_share_a_device() {
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let first = Agent::start(&fleet, &coordinator.url, "one", &[]);
    wait_until("the first agent", || first.log().contains("registered"));
    let second = Agent::start(&fleet, &coordinator.url, "two", &[]);
    let log = fleet.path().join("two.log");
    assert_eq!(second.wait(), Some(1));
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("the device cpu is used by another agent") && log.contains("--devices"), "{log}");
    assert!(log.contains(&format!("process {}", first.pid())), "it says who: {log}");
    // Nor a state folder.
    let third = Agent::start(&fleet, &coordinator.url, "one", &["--lock-dir", "elsewhere"]);
    assert_eq!(third.wait(), Some(1));
    assert!(first.log().contains("in use by another agent"), "{}", first.log());
    let doctor = fleet.run("fleet-agent", &["doctor"]).ended_with(0);
    assert!(doctor.stdout.contains("in use by agent"), "{}", doctor.stdout);
}

#[test]
fn ports_states_and_addresses() {
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let port = coordinator.address().rsplit(':').next().expect("a port").to_owned();
    fleet
        .fleet(&["serve", "--listen", coordinator.address(), "--state", "other"])
        .ended_with(1)
        .says(&["port", &port, "in use", "--listen"]);
    fleet
        .fleet(&["serve", "--listen", "127.0.0.1:0", "--state", "coordinator"])
        .ended_with(1)
        .says(&["in use by another coordinator", "--state"]);
    fleet.fleet(&["serve", "--listen", "0.0.0.0:0", "--state", "other"]).ended_with(2).says(&["--insecure"]);
    fleet.fleet(&["serve", "--listen", "nowhere", "--state", "other"]).ended_with(2).says(&["127.0.0.1:7070"]);
    fleet.fleet(&["status", "--coordinator", "http://127.0.0.1:1"]).ended_with(3).says(&["fleet serve"]);
    fleet.fleet(&["status", "--coordinator", "nonsense"]).ended_with(2).says(&["http://HOST:PORT"]);
    fleet
        .fleet(&["report", "nightly", "--coordinator", &coordinator.url])
        .ended_with(2)
        .says(&["no campaign is called \"nightly\""]);
    let no_worker = fleet.run("fleet-agent", &["run", "--worker", "absent"]).ended_with(1);
    assert!(no_worker.stderr.contains("absent is not there"), "{}", no_worker.stderr);
}

#[test]
fn an_oversized_message_is_refused() {
    let fleet = Fleet::new();
    let file = single(&fleet, "huge");
    let mut text = std::fs::read_to_string(&file).expect("a file");
    text.push_str(&format!("# {}\n", "x".repeat(17 << 20)));
    std::fs::write(&file, text).expect("writes");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    fleet.fleet(&["submit", &file, "--coordinator", &coordinator.url]).ended_with(2).says(&["17.0 MiB", "16.0 MiB"]);
    // A client without manners is refused by the coordinator itself.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let status = runtime.block_on(async {
        let mut client = OperatorClient::connect(coordinator.url.clone()).await.expect("connects");
        let toml = "x".repeat(17 << 20);
        client.submit(v1::SubmitRequest { toml, ..v1::SubmitRequest::default() }).await.expect_err("too large")
    });
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    // And it goes on.
    fleet.fleet(&["status", "--coordinator", &coordinator.url]).ended_with(0);
}

#[test]
fn weights_that_do_not_fit() {
    let fleet = Fleet::new();
    single(&fleet, "weights");
    let folder = fleet.path().join("w");
    std::fs::create_dir_all(&folder).expect("makes");
    let file = folder.join("vit_micro.safetensors");
    let fixture = |name: &str| format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let other = std::fs::read(fixture("vit_tiny_timm/weights.safetensors")).expect("a fixture");
    for (bytes, expected) in [
        (b"not a safetensors file".to_vec(), "not a usable safetensors file"),
        (other[..other.len() / 2].to_vec(), "cut short"),
        (other.clone(), "expected shape"),
    ] {
        std::fs::write(&file, bytes).expect("writes");
        let out = fleet.fleet(&["local", "weights.toml", "--weights", "w", "--json"]).ended_with(1).json();
        let failures = out["comparison"]["failures"].to_string();
        assert!(failures.contains(expected), "{failures}");
    }
    fleet.fleet(&["local", "weights.toml", "--weights", "absent"]).ended_with(2).says(&["absent is not there"]);
    // A checkpoint of torch, of which half is there: in doubt beside the other file, and refused without it.
    let sample = std::fs::read(fixture("../../common/checkpoint/tests/samples/trained.pth")).expect("a sample");
    std::fs::write(folder.join("vit_micro.pth"), &sample[..sample.len() / 2]).expect("writes");
    let local = ["local", "weights.toml", "--weights", "w", "--json"];
    fleet.fleet(&local).ended_with(2).says(&["vit_micro.safetensors and ", "vit_micro.pth are both there"]);
    std::fs::remove_file(&file).expect("removes");
    let out = fleet.fleet(&local).ended_with(1).json();
    let failures = out["comparison"]["failures"].to_string();
    assert!(failures.contains("vit_micro.pth") && failures.contains("cut off"), "{failures}");
}

#[test]
fn an_agent_with_other_data_does_not_train_on_it() {
    let fleet = Fleet::new();
    let file = single(&fleet, "other");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    fleet.fleet(&["submit", &file, "--no-share", "--coordinator", &coordinator.url]).ended_with(0);
    // One byte of one image differs on the agent.
    let there = fleet.path().join("there");
    fleet_tests::textures(&there, "textures");
    let labels = std::fs::read_to_string(there.join("textures/labels/test1.txt")).expect("labels");
    let image = there.join("textures/images").join(labels.lines().next().expect("a line"));
    let mut bytes = std::fs::read(&image).expect("an image");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&image, bytes).expect("writes");
    let _agent = Agent::start(&fleet, &coordinator.url, "agent", &["--data", "there"]);
    fleet.fleet(&["watch", "other", "--coordinator", &coordinator.url]).ended_with(1);
    let report = fleet.fleet(&["report", "other", "--json", "--coordinator", &coordinator.url]).ended_with(0).json();
    let failures = report["comparison"]["failures"].to_string();
    assert!(failures.contains("not the one that the campaign was submitted with"), "{failures}");
    // Shared, the right one is fetched instead.
    fleet.fleet(&["data", "share", "textures", "--coordinator", &coordinator.url]).ended_with(0);
    fleet.fleet(&["retry", "other", "--failed", "--coordinator", &coordinator.url]).ended_with(0);
    fleet.fleet(&["watch", "other", "--coordinator", &coordinator.url]).ended_with(0);
}

#[test]
fn a_full_disk_at_the_coordinator_is_said_and_survived() {
    let fleet = Fleet::new();
    // A campaign whose plan does not fit, and one that does.
    let large = fleet.campaign("large", 20_000, "", "");
    let small = fleet.campaign("small", 1, "", "");
    let limited = with_small_files(1024, &program("fleet"));
    let coordinator = Coordinator::start_as(&fleet, limited, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    fleet
        .fleet(&["submit", large.to_str().expect("a path"), url[0], url[1]])
        .ended_with(3)
        .says(&["could not write its journal", "disk full"]);
    let status = fleet.fleet(&["status", url[0], url[1], "--json"]).ended_with(0).json();
    assert_eq!(status["campaigns"].as_array().map(Vec::len), Some(0), "what was not durable does not exist");
    fleet.fleet(&["submit", small.to_str().expect("a path"), url[0], url[1]]).ended_with(0);
    drop(coordinator);
    // And after a restart too.
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let status = fleet.fleet(&["status", "--coordinator", &coordinator.url, "--json"]).ended_with(0).json();
    assert_eq!(status["campaigns"][0]["name"], "small");
    assert_eq!(status["campaigns"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_full_disk_at_the_agent_costs_what_does_not_fit_and_says_so() {
    let fleet = Fleet::new();
    let file = fleet.campaign("kept", 1, "", "[output]\nweights = true\n");
    let text = std::fs::read_to_string(&file).expect("a file");
    let text =
        text.replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"").replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text).expect("writes");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &["--max-losses", "2"]);
    let url = ["--coordinator", coordinator.url.as_str()];
    // Logs, samples and records fit; five megabytes of weights do not.
    let limited = with_small_files(256, &program("fleet-agent"));
    let _agent = Agent::start_as(&fleet, limited, &coordinator.url, "agent", &[]);
    fleet.fleet(&["submit", file.to_str().expect("a path"), url[0], url[1]]).ended_with(0);
    let status =
        || fleet.fleet(&["status", "kept", url[0], url[1], "--json"]).ended_with(0).json()["campaigns"][0].clone();
    wait_until("the trial to be given up", || status()["finished"]["crashed"] == 1);
    let report = fleet.fleet(&["report", "kept", url[0], url[1], "--json"]).ended_with(0).json();
    let reason = report["comparison"]["failures"][0]["outcome"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("weights.safetensors") && reason.contains("File too large"), "{report}");
}

#[test]
fn help_has_examples_and_wrong_usage_has_its_own_code() {
    let fleet = Fleet::new();
    for command in ["local", "serve", "submit", "plan", "status", "watch", "report", "compare", "retry", "cancel"] {
        let help = fleet.fleet(&[command, "--help"]).ended_with(0);
        assert!(help.stdout.contains("Example:"), "{command}");
    }
    for command in [["data", "synth"], ["data", "info"]] {
        assert!(fleet.fleet(&[command[0], command[1], "--help"]).ended_with(0).stdout.contains("Example:"));
    }
    for command in ["run", "doctor"] {
        assert!(fleet.run("fleet-agent", &[command, "--help"]).ended_with(0).stdout.contains("Example:"), "{command}");
    }
    fleet.fleet(&["retry", "demo"]).ended_with(2).says(&["--failed", "--missing"]);
    fleet.fleet(&["report", "a/b"]).ended_with(2);
    let worker = finish(Command::new(program("fleet-worker")).stdin(std::process::Stdio::null()));
    worker.ended_with(2).says(&["expected a job", "fleet-agent"]);
}
