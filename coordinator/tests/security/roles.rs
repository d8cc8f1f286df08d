//! Who may do what, and on whose leases.

use fleet_common::record::{Outcome, SCHEMA, Training};
use fleet_common::telemetry::{MonoNanos, Sample, Series};
use fleet_common::wire::{self, v1};
use fleet_coordinator::service::rpc::agents_client::AgentsClient;
use fleet_coordinator::service::rpc::content_client::ContentClient;
use fleet_coordinator::service::rpc::sharing_client::SharingClient;
use fleet_secure::identity::Role;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::world::{World, introduction, status};

const CAMPAIGN: &str = "name = \"c\"\nseeds = [0, 1]\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
                        dataset = \"textures\"\n[train]\nsteps = 10\n";

fn submission() -> v1::SubmitRequest {
    let dataset =
        v1::ResolvedDataset { name: "textures".into(), fingerprint: "f".repeat(64), classes: 8, train: 100, test: 100 };
    v1::SubmitRequest {
        file_name: "c.toml".into(),
        toml: CAMPAIGN.into(),
        datasets: vec![dataset],
        ..Default::default()
    }
}

fn question(agent: &str) -> v1::PullRequest {
    v1::PullRequest { agent: agent.into(), slot: "cpu".into(), wait_ms: 5000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_keeps_to_its_own() {
    let world = World::start();
    let (viewer, agent) = (world.issued(Role::Viewer, "v"), world.issued(Role::Agent, "a"));
    world.operator(&viewer).status(status()).await.expect("looking is what a viewer is for");
    let refused = world.operator(&viewer).submit(submission()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("operator"), "{refused}");
    world.saw("not_permitted", &["Submit", "viewer v"]);
    let refused = world.operator(&agent).status(status()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    world.saw("not_permitted", &["Status", "agent a"]);
    for person in [viewer, world.issued(Role::Operator, "o")] {
        let refused = world.agent(&person).register(introduction("v", vec![])).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    each_role_keeps_to_its_own_content(&world).await;
    world.operator(&world.issued(Role::Operator, "o")).submit(submission()).await.expect("submitted");
    let refused = world.fleet(&["cancel", "c", "--coordinator", &world.url]);
    assert_eq!(refused.status.code(), Some(0), "the operator of `certs init` may: {refused:?}");
}

/// Agents read what was shared, operators share, viewers see what there is.
async fn each_role_keeps_to_its_own_content(world: &World) {
    let [agent, viewer, operator] =
        [(Role::Agent, "a"), (Role::Viewer, "v"), (Role::Operator, "o")].map(|(role, name)| world.issued(role, name));
    let item = format!("dataset-{}", "0".repeat(64));
    let (reads, shares) = (|who| ContentClient::new(world.channel(who)), |who| SharingClient::new(world.channel(who)));
    let manifest = v1::ManifestRequest { item: item.clone() };
    assert_eq!(reads(&agent).manifest(manifest.clone()).await.expect_err("not shared").code(), Code::NotFound);
    let offer = v1::OfferRequest { manifest_json: b"{}".to_vec() };
    assert_eq!(shares(&operator).offer(offer.clone()).await.expect_err("no manifest").code(), Code::InvalidArgument);
    shares(&viewer).shared(v1::SharedRequest::default()).await.expect("looking is what a viewer is for");
    for person in [&viewer, &operator] {
        not_its_own(reads(person).manifest(manifest.clone()).await);
        not_its_own(reads(person).read(v1::ReadRequest::default()).await);
    }
    for other in [&viewer, &agent] {
        not_its_own(shares(other).offer(offer.clone()).await);
        not_its_own(shares(other).put(tokio_stream::iter([v1::PutChunk::default()])).await);
        not_its_own(shares(other).unshare(v1::UnshareRequest { item: item.clone() }).await);
    }
    world.saw("not_permitted", &["Unshare", "viewer v"]);
}

#[track_caller]
fn not_its_own<T>(answer: Result<T, Status>) {
    match answer {
        Err(status) => assert_eq!(status.code(), Code::PermissionDenied, "{status}"),
        Ok(_) => panic!("it was let through"),
    }
}

fn record(lease: &v1::Lease, agent: &str) -> Vec<u8> {
    let trial = wire::trial(lease.trial.clone()).expect("a trial");
    let settings: Value = serde_json::from_str(&lease.settings_json).expect("settings");
    let record = json!({
        "schema": SCHEMA, "trial": trial, "attempt": lease.attempt, "settings": settings,
        "outcome": Outcome::Completed, "training": Training::default(),
        "phases": [{"phase": "train", "seconds": 2.0, "energy": {"unavailable": "no meter"}}],
        "machine": {"agent": agent, "slot": "cpu", "hardware": "X", "host": "h", "os": "o", "cpu": "c", "cpus": 1,
                    "memory_bytes": 1},
        "started_unix_ms": 1, "finished_unix_ms": 2, "samples_taken": 0,
    });
    serde_json::to_vec(&record).expect("JSON")
}

fn report(lease: &v1::Lease, agent: &str, machine: &str) -> v1::ReportRequest {
    v1::ReportRequest {
        agent: agent.into(),
        slot: "cpu".into(),
        trial: lease.trial.clone(),
        attempt: lease.attempt,
        record_json: record(lease, machine),
    }
}

fn waste(lease: &v1::Lease, agent: &str) -> v1::WastedRequest {
    let trial = wire::trial(lease.trial.clone()).expect("a trial");
    let energy = json!({"joules": 1.0, "domain": "gpu", "source": "NVML energy counter", "readings": 2});
    let waste = json!({"trial": trial, "attempt": lease.attempt, "agent": agent, "hardware": "X", "energy": energy,
                       "seconds": 1.0, "reason": "crashed"});
    v1::WastedRequest { waste_json: vec![serde_json::to_vec(&waste).expect("JSON")] }
}

/// The first answer to a sample of this lease.
async fn sample(client: &mut AgentsClient<Channel>, lease: &v1::Lease) -> Result<Option<v1::SampleAck>, Status> {
    let trial = wire::trial(lease.trial.clone()).expect("a trial");
    let sample = Sample { number: 0, at: MonoNanos(1), channel: Series::AllocatorLiveBytes.into(), value: 1 };
    let batch = wire::batch(&trial, lease.attempt.try_into().expect("an attempt"), &[sample], 0, "boot");
    client.samples(tokio_stream::iter([batch])).await?.into_inner().message().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_its_own_leases_and_no_others() {
    let world = World::start();
    world.operator(&world.issued(Role::Operator, "o")).submit(submission()).await.expect("submitted");
    let mut a = world.agent(&world.issued(Role::Agent, "a"));
    let mut b = world.agent(&world.issued(Role::Agent, "b"));
    a.register(introduction("a", vec![])).await.expect("registered");
    b.register(introduction("b", vec![])).await.expect("registered");
    let lease = a.pull(question("a")).await.expect("answered").into_inner().lease.expect("work");
    let held = v1::HeldLease { trial: lease.trial.clone(), attempt: lease.attempt, slot: "cpu".into() };

    // As somebody else.
    not_its_own(b.register(introduction("a", vec![])).await);
    not_its_own(b.pull(question("a")).await);
    not_its_own(b.heartbeat(v1::HeartbeatRequest { agent: "a".into(), ..Default::default() }).await);
    let release =
        |agent: &str| v1::ReleaseRequest { agent: agent.into(), lease: Some(held.clone()), reason: "r".into() };
    not_its_own(b.release(release("a")).await);
    not_its_own(b.report(report(&lease, "a", "a")).await);
    not_its_own(b.wasted(waste(&lease, "a")).await);
    world.saw("not_its_own", &["agent b", "does not speak for agent a"]);

    // As itself, with another's lease.
    not_its_own(b.release(release("b")).await);
    not_its_own(b.report(report(&lease, "b", "b")).await);
    not_its_own(b.report(report(&lease, "b", "a")).await);
    not_its_own(b.wasted(waste(&lease, "b")).await);
    not_its_own(sample(&mut b, &lease).await);
    let before = world.refused("not_its_own");
    let progress =
        v1::Progress { trial: lease.trial.clone(), attempt: lease.attempt, slot: "cpu".into(), ..Default::default() };
    let claim = v1::HeartbeatRequest { agent: "b".into(), progress: vec![progress.clone()], ..Default::default() };
    let verdict = b.heartbeat(claim).await.expect("answered").into_inner().verdicts.remove(0);
    assert!(!verdict.keep && verdict.reason.contains("another agent"), "{verdict:?}");
    let verdict =
        b.register(introduction("b", vec![held.clone()])).await.expect("answered").into_inner().verdicts.remove(0);
    assert!(!verdict.keep);
    assert_eq!(world.refused("not_its_own"), before + 2.0, "claims are counted, too");

    // The holder has lost nothing by it.
    let beat = v1::HeartbeatRequest { agent: "a".into(), progress: vec![progress], ..Default::default() };
    assert!(a.heartbeat(beat).await.expect("answered").into_inner().verdicts[0].keep);
    assert_eq!(sample(&mut a, &lease).await.expect("answered").expect("acknowledged").number, 0);
    a.wasted(waste(&lease, "a")).await.expect("noted");
    let reported = a.report(report(&lease, "a", "a")).await.expect("answered").into_inner();
    assert_eq!(reported.outcome(), v1::report_reply::Outcome::Recorded);
    // Afterwards, and after a restart, too.
    not_its_own(b.report(report(&lease, "b", "b")).await);
}
