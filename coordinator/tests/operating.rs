//! A real coordinator, looked at as operators do: its metrics, its health, its log.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use fleet_common::record::{Outcome, OutcomeClass, SCHEMA, Training};
use fleet_common::telemetry::{MonoNanos, Sample, Series};
use fleet_common::wire::{self, AGENT_HEADER, SLOT_HEADER, v1};
use fleet_coordinator::service::rpc::agents_client::AgentsClient;
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use fleet_observe::exposition::{self, Exposition};
use serde_json::{Value, json};
use support::{FLEET, Serving};
use tonic::transport::Channel;

struct Coordinator {
    _serving: Serving,
    url: String,
    metrics: String,
    dir: tempfile::TempDir,
}

impl Coordinator {
    fn start() -> Self {
        Self::start_as(Command::new(FLEET))
    }

    fn start_as(command: Command) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let listening = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-format", "json"];
        let mut serving = Serving::start(serve(command, dir.path()).args(listening), &log);
        let metrics = serving.says("metrics on http://");
        let metrics = metrics.strip_suffix("/metrics").expect("a page").to_owned();
        Self { url: serving.url.clone(), _serving: serving, metrics, dir }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.url.clone()).expect("an address").connect().await.expect("connects")
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.metrics).expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"), body.to_owned())
    }

    fn scrape(&self) -> Exposition {
        let (code, page) = self.get("/metrics");
        assert_eq!(code, 200, "{page}");
        exposition::read(&page).unwrap_or_else(|e| panic!("{e}"))
    }

    /// What was logged, line by line.
    fn log(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.dir.path().join("log")).expect("a log");
        log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }
}

fn serve(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir).arg("serve").env_remove("FLEET_LOG").env_remove("FLEET_LOG_FORMAT").stdin(Stdio::null());
    command
}

const CAMPAIGN: &str = "name = \"c\"\nseeds = [0, 1]\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
                        dataset = \"textures\"\n[train]\nsteps = 10\n";

async fn submit(channel: Channel, toml: &str) -> Result<v1::SubmitReply, tonic::Status> {
    let dataset =
        v1::ResolvedDataset { name: "textures".into(), fingerprint: "f".repeat(64), classes: 8, train: 100, test: 100 };
    let request = v1::SubmitRequest {
        file_name: "c.toml".into(),
        toml: toml.into(),
        datasets: vec![dataset],
        ..Default::default()
    };
    OperatorClient::new(channel).submit(request).await.map(tonic::Response::into_inner)
}

fn energy(joules: f64) -> Value {
    json!({"joules": joules, "domain": "gpu", "source": "NVML energy counter", "readings": 20})
}

fn record(lease: &v1::Lease, samples: u64) -> Vec<u8> {
    let trial = wire::trial(lease.trial.clone()).expect("a trial");
    let settings: Value = serde_json::from_str(&lease.settings_json).expect("settings");
    let record = json!({
        "schema": SCHEMA, "trial": trial, "attempt": lease.attempt, "settings": settings,
        "outcome": Outcome::Completed, "training": Training::default(),
        "phases": [{"phase": "train", "seconds": 2.0, "energy": {"measured": energy(150.5)}},
                   {"phase": "evaluate", "seconds": 1.0, "energy": {"measured": energy(-4.0)}},
                   {"phase": "save", "seconds": 1.0, "energy": {"unavailable": "no meter"}}],
        "machine": {"agent": "a", "slot": "cpu", "hardware": "X", "host": "h", "os": "o", "cpu": "c", "cpus": 1,
                    "memory_bytes": 1},
        "started_unix_ms": 1, "finished_unix_ms": 2, "samples_taken": samples,
    });
    serde_json::to_vec(&record).expect("JSON")
}

/// Sends three samples and waits until they are acknowledged.
async fn samples(client: &mut AgentsClient<Channel>, lease: &v1::Lease) {
    let trial = wire::trial(lease.trial.clone()).expect("a trial");
    let sample = |number| Sample {
        number,
        at: MonoNanos(number),
        channel: Series::AllocatorLiveBytes.into(),
        value: number as i64,
    };
    let samples: Vec<Sample> = (0..3).map(sample).collect();
    let batch = wire::batch(&trial, lease.attempt.try_into().expect("an attempt"), &samples, 0, "boot");
    let mut request = tonic::Request::new(tokio_stream::iter([batch]));
    request.metadata_mut().insert(AGENT_HEADER, "a".parse().expect("text"));
    request.metadata_mut().insert(SLOT_HEADER, "cpu".parse().expect("text"));
    let mut acks = client.samples(request).await.expect("a stream").into_inner();
    assert_eq!(acks.message().await.expect("an answer").expect("an acknowledgement").number, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_shows_in_the_metrics_and_in_the_log_under_its_names() {
    let coordinator = Coordinator::start();
    assert_eq!(coordinator.get("/healthz"), (200, "ok\n".to_owned()));
    let before = coordinator.scrape();
    assert_eq!(before.value("fleet_leases_granted_total", &[]), Some(0.0), "counters begin at zero");
    assert_eq!(before.value("fleet_agents", &[]), Some(0.0));

    assert_eq!(submit(coordinator.channel().await, CAMPAIGN).await.expect("submitted").trials, 2);
    let mut client = AgentsClient::new(coordinator.channel().await);
    let slot = |slot: &str| v1::Slot {
        slot: slot.into(),
        hardware: "NVIDIA \"X\"".into(),
        memory_bytes: 8 << 30,
        ..Default::default()
    };
    let introduction = v1::RegisterRequest {
        agent: "a".into(),
        version: "0".into(),
        host: "h".into(),
        slots: vec![slot("cpu"), slot("cuda:0")],
        ..v1::RegisterRequest::default()
    };
    client.register(introduction).await.expect("registered");
    let pull = v1::PullRequest { agent: "a".into(), slot: "cpu".into(), wait_ms: 1000 };
    let lease = client.pull(pull).await.expect("answered").into_inner().lease.expect("work");
    let progress = v1::Progress {
        trial: lease.trial.clone(),
        attempt: lease.attempt,
        slot: "cpu".into(),
        phase: "train".into(),
        done: 5,
        of: 10,
        loss: None,
    };
    let heartbeat = v1::HeartbeatRequest { agent: "a".into(), progress: vec![progress], ..Default::default() };
    client.heartbeat(heartbeat).await.expect("heard");
    samples(&mut client, &lease).await;

    let page = coordinator.scrape();
    let slots = |state| page.value("fleet_slots", &[("hardware", "NVIDIA \"X\""), ("state", state)]);
    assert_eq!((slots("busy"), slots("free")), (Some(1.0), Some(1.0)));
    let trials = |page: &Exposition, state| page.value("fleet_campaign_trials", &[("campaign", "c"), ("state", state)]);
    assert_eq!((trials(&page, "running"), trials(&page, "waiting")), (Some(1.0), Some(1.0)));
    let at = [("agent", "a"), ("slot", "cpu")];
    assert_eq!(page.value("fleet_running_trial_progress_ratio", &at), Some(0.5));
    assert!(page.value("fleet_agent_silence_seconds", &[("agent", "a"), ("host", "h")]).is_some_and(|s| s < 60.0));
    assert_eq!(page.value("fleet_leases_granted_total", &[]), Some(1.0));
    assert_eq!(page.value("fleet_leases_renewed_total", &[]), Some(1.0));
    assert_eq!(page.value("fleet_samples_stored_total", &[]), Some(3.0));
    assert!(page.value("fleet_samples_stored_bytes_total", &[]).is_some_and(|b| b > 50.0));
    let calls = |method| page.value("fleet_requests_total", &[("method", method), ("code", "Ok")]);
    assert_eq!((calls("Heartbeat"), calls("Submit")), (Some(1.0), Some(1.0)));
    assert_eq!(page.value("fleet_request_seconds_count", &[("method", "Heartbeat")]), Some(1.0));
    let file =
        std::fs::metadata(coordinator.dir.path().join("fleet-state/coordinator/journal/00000000000000000001.log"))
            .expect("a journal");
    assert_eq!(page.value("fleet_journal_size_bytes", &[]), Some(file.len() as f64));
    // Submission and lease.
    assert_eq!(page.value("fleet_journal_events_total", &[]), Some(2.0));
    assert_eq!(page.value("fleet_journal_commit_seconds_count", &[]), Some(2.0));

    let report = v1::ReportRequest {
        agent: "a".into(),
        slot: "cpu".into(),
        trial: lease.trial.clone(),
        attempt: lease.attempt,
        record_json: record(&lease, 5),
    };
    client.report(report).await.expect("recorded");
    let page = coordinator.scrape();
    assert_eq!((trials(&page, "running"), trials(&page, "finished")), (Some(0.0), Some(1.0)));
    let completed = [("outcome", OutcomeClass::Completed.name())];
    assert_eq!(page.value("fleet_campaign_outcomes", &completed), Some(1.0));
    assert_eq!(page.value("fleet_reports_total", &completed), Some(1.0));
    assert_eq!(page.value("fleet_samples_sealed_total", &[]), Some(3.0));
    assert_eq!(page.value("fleet_samples_missing_total", &[]), Some(2.0));
    assert_eq!(page.with("fleet_running_trial_seconds", &[]).count(), 0, "what is over is not shown");

    let waste = json!({"trial": wire::trial(lease.trial.clone()).expect("a trial"), "attempt": lease.attempt,
                       "agent": "a", "hardware": "X", "energy": energy(20.25), "seconds": 1.0, "reason": "crashed"});
    let told = v1::WastedRequest { waste_json: vec![serde_json::to_vec(&waste).expect("JSON")] };
    for _ in 0..2 {
        client.wasted(told.clone()).await.expect("noted");
    }
    let page = coordinator.scrape();
    let joules = |kind| page.value("fleet_trial_energy_joules_total", &[("domain", "gpu"), ("use", kind)]);
    assert_eq!((joules("results"), joules("wasted")), (Some(150.5), Some(20.25)), "each once, and no negative ones");

    let log = coordinator.log();
    let id = wire::trial(lease.trial.clone()).expect("a trial");
    let span = json!({"name": "trial", "cell": id.cell, "repeat": 0, "attempt": 1, "agent": "a", "slot": "cpu"});
    for message in ["a lease is granted", "a record arrived"] {
        let line = log.iter().find(|l| l["message"] == message).unwrap_or_else(|| panic!("{message}: {log:?}"));
        assert_eq!(line["span"], span, "{line}");
    }
    let registered = log.iter().find(|l| l["message"] == "an agent registered").expect("logged");
    assert_eq!((&registered["agent"], registered.get("span")), (&json!("a"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_outside_do_not_become_labels() {
    let coordinator = Coordinator::start();
    let mut grpc = tonic::client::Grpc::new(coordinator.channel().await);
    for path in ["/fleet.v1.Agents/A1", "/fleet.v1.Agents/A2", "/made/Up"] {
        grpc.ready().await.expect("ready");
        let codec = tonic_prost::ProstCodec::<v1::PullRequest, v1::PullReply>::default();
        let path = path.parse().expect("a path");
        let request = tonic::Request::new(v1::PullRequest::default());
        let status = grpc.unary(request, path, codec).await.expect_err("there is none");
        assert_eq!(status.code(), tonic::Code::Unimplemented);
    }
    let page = coordinator.scrape();
    let methods: Vec<&String> =
        page.with("fleet_requests_total", &[]).map(|(_, labels, _)| &labels["method"]).collect();
    assert_eq!(methods, ["other"]);
    assert_eq!(page.value("fleet_requests_total", &[("method", "other")]), Some(3.0));
    // An unusable request is counted with its code.
    let mut client = AgentsClient::new(coordinator.channel().await);
    client.pull(v1::PullRequest { agent: "a/b".into(), ..Default::default() }).await.expect_err("no agent");
    let page = coordinator.scrape();
    assert_eq!(page.value("fleet_requests_total", &[("method", "Pull"), ("code", "InvalidArgument")]), Some(1.0));
}

/// A limit on the size of files stands in for a full disk: the kernel refuses the write in the same place.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_is_seen() {
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "bash", FLEET]);
    let coordinator = Coordinator::start_as(limited);
    let seeds: Vec<String> = (0..80_000).map(|seed| seed.to_string()).collect();
    let large = CAMPAIGN.replace("[0, 1]", &format!("[{}]", seeds.join(", ")));
    let refused = submit(coordinator.channel().await, &large).await.expect_err("it does not fit");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    let page = coordinator.scrape();
    assert_eq!(page.value("fleet_journal_refusals_total", &[]), Some(1.0));
    assert_eq!(page.value("fleet_journal_events_total", &[]), Some(0.0), "what was refused does not count");
    assert_eq!(page.value("fleet_requests_total", &[("method", "Submit"), ("code", "Unavailable")]), Some(1.0));
    assert_eq!(coordinator.get("/healthz").0, 200, "what fits is still taken");
    submit(coordinator.channel().await, CAMPAIGN).await.expect("it fits");
    assert_eq!(coordinator.scrape().value("fleet_journal_events_total", &[]), Some(1.0));
}

#[test]
fn metrics_are_not_shown_to_others_unasked_and_a_taken_port_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").to_string();
    for (address, code, words) in [
        ("0.0.0.0:0", 2, "--insecure"),
        ("nowhere", 2, "--metrics: expected HOST:PORT"),
        (port.as_str(), 1, "choose another with --metrics"),
    ] {
        let mut command = serve(Command::new(FLEET), dir.path());
        let output = command.args(["--listen", "127.0.0.1:0", "--metrics", address]).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(words) && error.starts_with("error: "), "{error}");
    }
    assert!(!dir.path().join("fleet-state").exists(), "it is refused before anything is made");
    let output = serve(Command::new(FLEET), dir.path())
        .args(["--metrics", "nowhere"])
        .env("FLEET_LOG_FORMAT", "json")
        .output()
        .expect("runs");
    let line: Value = serde_json::from_slice(&output.stderr).expect("the last words are JSON, too");
    assert_eq!(line["level"], "ERROR", "{line}");
}
