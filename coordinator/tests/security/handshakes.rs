//! Who gets in: authority, time, revocation.

use std::path::Path;

use fleet_common::wire::v1;
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use fleet_secure::authority::{Authority, Validity};
use fleet_secure::client::explain;
use fleet_secure::identity::Role;
use fleet_secure::unix_now;
use tonic::Code;

use crate::world::{HOUR, PATIENCE, World, fleet, ok, status};

/// The request fails, and whoever sent it can be told why.
async fn turned_away(world: &World, identity: &Path, words: &str) {
    let error = world.operator(identity).status(status()).await.expect_err("refused");
    let why = explain(&error).unwrap_or_else(|| panic!("no explanation: {error:?}"));
    assert!(why.contains(words), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nothing_can_be_asked_but_to_join() {
    let world = World::start();
    let error = OperatorClient::new(world.anonymous()).status(status()).await.expect_err("refused");
    assert_eq!(error.code(), Code::Unauthenticated);
    assert!(error.message().contains("fleet join TOKEN"), "{error}");
    world.saw("no_certificate", &["Status", "127.0.0.1"]);
    // In plain text nothing is understood at all.
    let plain = world.url.replace("https", "http");
    let output = world.fleet(&["status", "--coordinator", &plain]);
    assert_ne!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("https://"), "{output:?}");
    world.saw("handshake_failed", &[]);
    assert_eq!(world.operator(&world.issued(Role::Viewer, "v")).status(status()).await.map(|_| ()).ok(), Some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_others_and_of_other_times_do_not_count() {
    let world = World::start();
    let now = unix_now();
    let other = Authority::create(&world.dir().join("other"), now).expect("made");
    let cases = [
        (world.forged(&other, Role::Operator, "eve", Validity::from(now, HOUR)), "unknown_authority", "another fleet"),
        (
            world.forged(
                &world.authority(),
                Role::Operator,
                "late",
                Validity { not_before: now - HOUR, not_after: now - 60 },
            ),
            "expired",
            "expired",
        ),
        (
            world.forged(
                &world.authority(),
                Role::Operator,
                "early",
                Validity { not_before: now + HOUR, not_after: now + 2 * HOUR },
            ),
            "not_yet_valid",
            "clocks",
        ),
    ];
    for (identity, reason, words) in cases {
        turned_away(&world, &identity, words).await;
        world.saw(reason, &["127.0.0.1"]);
    }
    // The coordinator's own is for serving, not for asking.
    let own = world.state().join("authority/coordinator.pem");
    world.operator(&own).status(status()).await.expect_err("refused");
    world.saw("bad_certificate", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_ends_at_once_and_does_not_come_back() {
    let world = World::start();
    let token = world.token(&["--role", "viewer"]);
    let identity = world.dir().join("ann.pem");
    let name = "ann".parse().expect("a name");
    let who = fleet_secure::join::join(&token, None, &name, &identity).await.expect("joined");
    let mut watching = world.operator(&identity).watch(status()).await.expect("a stream").into_inner();
    watching.message().await.expect("answers").expect("a status");
    // Beside the running coordinator, in its folder.
    ok(&world.fleet(&["certs", "revoke", "ann"]));
    let ended = tokio::time::timeout(PATIENCE, watching.message()).await.expect("the open stream is ended");
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    world.saw("revoked", &["ended", &who.serial, "viewer ann"]);
    turned_away(&world, &identity, "revoked").await;
    // Not after a restart either, nor by asking for a new one.
    let dir = world.killed();
    let world = World::serve(dir, &[]);
    turned_away(&world, &identity, "revoked").await;
    let renewed = fleet_secure::join::renew(world.channel(&identity), &identity).await;
    assert!(renewed.expect_err("refused").to_string().contains("revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_question_of_a_revoked_agent_ends_and_an_operator_elsewhere_can_revoke() {
    let world = World::start();
    let token = world.token(&[]);
    let identity = world.dir().join("box.pem");
    let who = fleet_secure::join::join(&token, None, &"box".parse().expect("a name"), &identity).await.expect("joined");
    let pull = v1::PullRequest { agent: "box".into(), slot: "cpu".into(), wait_ms: 50_000 };
    let mut client = world.agent(&identity);
    let parked = tokio::spawn(async move { client.pull(pull).await });
    // It is there once its connection is listed.
    let far = world.dir().join("far");
    std::fs::create_dir(&far).expect("a folder");
    let operator = world.issued(Role::Operator, "chief");
    let list = || {
        let output = fleet(&far, &["certs", "list", "--json", "--coordinator", &world.url])
            .env("FLEET_IDENTITY", &operator)
            .output()
            .expect("runs");
        let listed: serde_json::Value = serde_json::from_str(&ok(&output)).expect("JSON");
        let rows = listed["certificates"].as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["serial"] == who.serial).expect("listed")
    };
    while list()["connections"] != 1 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let output = fleet(&far, &["certs", "revoke", "box", "--coordinator", &world.url])
        .env("FLEET_IDENTITY", &operator)
        .output()
        .expect("runs");
    assert!(ok(&output).contains("1 connections ended"), "{output:?}");
    let ended = tokio::time::timeout(PATIENCE, parked).await.expect("ended").expect("no panic");
    ended.expect_err("the question is not answered");
    assert_eq!(list()["revoked"], true);
}
