//! Renewal and replacement while something is under way.

use std::path::Path;

use fleet_common::telemetry::{MonoNanos, Sample, Series};
use fleet_common::wire::{self, v1};
use fleet_coordinator::service::rpc::agents_client::AgentsClient;
use fleet_secure::authority::Validity;
use fleet_secure::client::{Link, channel};
use fleet_secure::credentials::Credentials;
use fleet_secure::identity::Role;
use fleet_secure::{join, unix_now};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::world::{PATIENCE, World, introduction, ok, status};

fn serial(identity: &Path) -> String {
    Credentials::load(identity).expect("there").identity().expect("somebody").serial
}

fn batch(lease: &v1::Lease, number: u64) -> v1::SampleBatch {
    let trial = wire::trial(lease.trial.clone()).expect("a trial");
    let sample = Sample { number, at: MonoNanos(number), channel: Series::AllocatorLiveBytes.into(), value: 1 };
    wire::batch(&trial, lease.attempt.try_into().expect("an attempt"), &[sample], 0, "boot")
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_in_the_middle_of_a_stream_loses_nothing() {
    let world = World::start();
    let toml = "name = \"c\"\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\ndataset = \"textures\"\n";
    let dataset =
        v1::ResolvedDataset { name: "textures".into(), fingerprint: "f".repeat(64), classes: 8, train: 100, test: 100 };
    let submission = v1::SubmitRequest {
        file_name: "c.toml".into(),
        toml: toml.into(),
        datasets: vec![dataset],
        ..Default::default()
    };
    world.operator(&world.issued(Role::Operator, "o")).submit(submission).await.expect("submitted");

    let identity = world.dir().join("a.pem");
    join::join(&world.token(&[]), None, &"a".parse().expect("a name"), &identity).await.expect("joined");
    let before = serial(&identity);
    let link = Link::new(world.endpoint(), &identity).expect("a link");
    let mut client = AgentsClient::new(link.clone());
    client.register(introduction("a", vec![])).await.expect("registered");
    let pull = v1::PullRequest { agent: "a".into(), slot: "cpu".into(), wait_ms: 5000 };
    let lease = client.pull(pull.clone()).await.expect("answered").into_inner().lease.expect("work");
    let (batches, receiver) = mpsc::channel(4);
    batches.send(batch(&lease, 0)).await.expect("sent");
    let mut acks = client.samples(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    assert_eq!(acks.message().await.expect("answered").expect("acknowledged").number, 0);
    let mut parked = client.clone();
    let parked =
        tokio::spawn(
            async move { parked.pull(v1::PullRequest { slot: "cuda:0".into(), wait_ms: 1500, ..pull }).await },
        );

    let renewed =
        join::renew(channel(&world.endpoint(), &identity).expect("a channel"), &identity).await.expect("renewed");
    link.renew().expect("in use");
    assert_ne!(renewed.serial, before);
    assert_eq!(serial(&identity), renewed.serial);
    // New requests go with the new certificate, the stream and the question go on with the old one.
    client.heartbeat(v1::HeartbeatRequest { agent: "a".into(), ..Default::default() }).await.expect("heard");
    for number in 1..20 {
        batches.send(batch(&lease, number)).await.expect("sent");
        assert_eq!(acks.message().await.expect("answered").expect("acknowledged").number, number);
    }
    parked.await.expect("no panic").expect("the parked question is answered");
    let listed = ok(&world.fleet(&["certs", "list", "--json", "--coordinator", &world.url]));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let rows = listed["certificates"].as_array().expect("rows");
    let connections =
        |serial: &str| rows.iter().find(|r| r["serial"] == serial).expect("listed")["connections"].clone();
    assert_eq!((connections(&before), connections(&renewed.serial)), (1.into(), 1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_renews_by_itself_and_an_old_certificate_ends_its_connection() {
    let world = World::start_with(&["--certificate-validity", "6s"]);
    let identity = world.dir().join("a.pem");
    join::join(&world.token(&[]), None, &"a".parse().expect("a name"), &identity).await.expect("joined");
    let before = serial(&identity);
    let link = Link::new(world.endpoint(), &identity).expect("a link");
    let renewing = tokio::spawn(join::keep_renewing(link.clone()));
    let mut client = AgentsClient::new(link);
    let beat = || v1::HeartbeatRequest { agent: "a".into(), ..Default::default() };
    let until = unix_now() + 10;
    while unix_now() < until {
        client.heartbeat(beat()).await.expect("never interrupted");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    renewing.abort();
    assert_ne!(serial(&identity), before);

    // Without renewal an open stream ends with its certificate.
    let now = unix_now();
    let short =
        world.forged(&world.authority(), Role::Viewer, "v", Validity { not_before: now - 60, not_after: now + 2 });
    let mut watching = world.operator(&short).watch(status()).await.expect("a stream").into_inner();
    let over = async { while matches!(watching.message().await, Ok(Some(_))) {} };
    tokio::time::timeout(PATIENCE, over).await.expect("the stream ends");
    world.saw("expired", &["viewer v", "has ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinators_own_certificate_is_replaced_while_it_runs() {
    let world = World::start();
    let mut client = world.operator(&world.issued(Role::Viewer, "v"));
    client.status(status()).await.expect("answered");
    let before = world.shown().await;
    assert!(ok(&world.fleet(&["certs", "renew", "--name", "fleet.example.org"])).contains("fleet.example.org"));
    let replaced = async {
        while world.shown().await == before {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, replaced).await.expect("the new one is shown");
    client.status(status()).await.expect("open connections go on");
}
