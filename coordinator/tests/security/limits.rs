//! Slow and greedy peers.

use std::sync::Arc;

use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use fleet_secure::identity::Role;
use fleet_secure::server::{Limits, Refused};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::world::{PATIENCE, World, ends, status};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_at_the_door_is_sent_away() {
    let world = World::start_with(&["--handshake-time", "1s"]);
    // Says nothing.
    let mut silent = TcpStream::connect(world.address()).await.expect("connects");
    // Begins a handshake and does not go on.
    let mut slow = TcpStream::connect(world.address()).await.expect("connects");
    slow.write_all(&[0x16, 0x03, 0x01]).await.expect("sends");
    // Shakes hands and asks nothing.
    let tcp = TcpStream::connect(world.address()).await.expect("connects");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(world.anonymous_config()));
    let mut idle = connector.connect(ServerName::try_from("127.0.0.1").expect("a name"), tcp).await.expect("hands");
    ends(&mut silent).await;
    ends(&mut slow).await;
    world.saw("handshake_timeout", &["127.0.0.1"]);
    ends(&mut idle).await;
    world.saw("silent_connection", &[]);
    // Others were not kept waiting by it.
    world.operator(&world.issued(Role::Viewer, "v")).status(status()).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_nothing_and_a_request_that_does_not_end_are_ended() {
    let world = World::start_with(&["--stream-silence", "1s", "--request-time", "2s"]);
    let identity = world.issued(Role::Agent, "a");
    let mut client = world.agent(&identity);
    let (_open, nothing) = mpsc::channel::<v1::SampleBatch>(1);
    let mut acks = client.samples(ReceiverStream::new(nothing)).await.expect("a stream").into_inner();
    let ended = tokio::time::timeout(PATIENCE, acks.message()).await.expect("it is ended");
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    world.saw("silent_stream", &["agent a"]);

    // One message that was announced and does not come.
    let (_open, nothing) = mpsc::channel::<v1::RegisterRequest>(1);
    let mut grpc = tonic::client::Grpc::new(world.channel(&identity));
    grpc.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<v1::RegisterRequest, v1::RegisterReply>::default();
    let path = "/fleet.v1.Agents/Register".parse().expect("a path");
    let asked = grpc.client_streaming(tonic::Request::new(ReceiverStream::new(nothing)), path, codec);
    let error = tokio::time::timeout(PATIENCE, asked).await.expect("it is ended").expect_err("refused");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    world.saw("request_timeout", &["Register"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    let world = World::start();
    let identity = world.issued(Role::Agent, "a");
    let mut client = world.agent(&identity);
    let report =
        v1::ReportRequest { agent: "a".into(), record_json: vec![b' '; MAX_MESSAGE_BYTES], ..Default::default() };
    let error = client.report(report).await.expect_err("refused");
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    world.saw("message_too_large", &["Report", "agent a"]);
    let before = world.refused("message_too_large");
    let batch = v1::SampleBatch { boot_id: "x".repeat(MAX_MESSAGE_BYTES + 1), ..Default::default() };
    let acks = client.samples(tokio_stream::iter([batch])).await;
    if let Ok(acks) = acks {
        assert!(!matches!(acks.into_inner().message().await, Ok(Some(_))));
    }
    assert_eq!(world.refused("message_too_large"), before + 1.0);
    // Headers, too; the library answers for us.
    let mut request = tonic::Request::new(v1::HeartbeatRequest { agent: "a".into(), ..Default::default() });
    request.metadata_mut().insert("fleet-agent", "a".repeat(64 << 10).parse().expect("text"));
    client.heartbeat(request).await.expect_err("refused");
    world
        .agent(&identity)
        .heartbeat(v1::HeartbeatRequest { agent: "a".into(), ..Default::default() })
        .await
        .expect("well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_has_so_many_connections_and_requests_and_others_do_not_feel_it() {
    let world = World::start_with(&["--max-connections-per-peer", "2", "--max-requests", "1"]);
    let (greedy, modest) = (world.issued(Role::Viewer, "greedy"), world.issued(Role::Viewer, "modest"));
    let mut open = [world.operator(&greedy), world.operator(&greedy)];
    for client in &mut open {
        client.status(status()).await.expect("the first two");
    }
    world.operator(&greedy).status(status()).await.expect_err("the third");
    world.saw("too_many_connections", &["viewer greedy"]);
    let mut refused = None;
    for _ in 0..100 {
        if let Err(error) = open[0].status(status()).await {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused.expect("ten at once, and one per second").code(), Code::ResourceExhausted);
    world.saw("rate_limited", &["viewer greedy"]);
    world.operator(&modest).status(status()).await.expect("others");
    // What is closed counts no longer.
    drop(open);
    let again = async {
        while world.operator(&greedy).status(status()).await.is_err_and(|e| e.code() != Code::ResourceExhausted) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_together_have_so_many_connections() {
    let world = World::start_with(&["--max-connections", "3"]);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(world.address()).await.expect("connects"));
    }
    let mut fourth = TcpStream::connect(world.address()).await.expect("the kernel takes it");
    ends(&mut fourth).await;
    world.saw("too_many_connections", &["before its handshake"]);
}

/// A rack behind one address comes back all at once, and then does what 500 machines do: nobody is refused anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_rack_of_agents_is_not_touched_by_limits() {
    let world = World::start();
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let name = format!("rack-{n}");
            let identity = world.issued(Role::Agent, &name);
            (world.agent(&identity), name)
        })
        .collect();
    let at_work = clients.into_iter().map(|(mut client, agent)| async move {
        for _ in 0..5 {
            let beat = v1::HeartbeatRequest { agent: agent.clone(), ..Default::default() };
            client.heartbeat(beat).await.expect("heard");
            let pull = v1::PullRequest { agent: agent.clone(), slot: "cpu".into(), wait_ms: 1 };
            client.pull(pull).await.expect("answered");
        }
    });
    let mut at_work: tokio::task::JoinSet<()> = at_work.collect();
    while let Some(done) = at_work.join_next().await {
        done.expect("untouched");
    }
    for refused in Refused::ALL {
        assert_eq!(world.refused(refused.reason()), 0.0, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_only_fails_at_handshakes_is_kept_out_for_a_while() {
    let world = World::start();
    let more_than = Limits::default().unauthenticated.burst as usize + 200;
    for _ in 0..more_than {
        let mut stream = TcpStream::connect(world.address()).await.expect("connects");
        // It may be closed already.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        ends(&mut stream).await;
    }
    world.saw("too_many_handshakes", &["before its handshake"]);
}
