//! Joining.

use fleet_secure::identity::Role;
use fleet_secure::join::{JoinError, join};
use fleet_secure::token::Token;

use crate::world::{World, fleet, ok, status};

async fn joined(world: &World, token: &Token, name: &str) -> Result<fleet_secure::identity::Identity, JoinError> {
    join(token, None, &name.parse().expect("a name"), &world.dir().join(format!("{name}.pem"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_once_and_not_again_after_a_restart() {
    let world = World::start();
    let token = world.token(&["--role", "operator"]);
    let who = joined(&world, &token, "ann").await.expect("joined");
    assert_eq!((who.role, who.name.as_str()), (Role::Operator, "ann"));
    world.operator(&world.dir().join("ann.pem")).status(status()).await.expect("counts");
    let error = joined(&world, &token, "bob").await.expect_err("used up").to_string();
    assert!(error.contains("as often as it may be"), "{error}");
    world.saw("token_used_up", &["127.0.0.1"]);
    let dir = world.killed();
    let world = World::serve(dir, &[]);
    let token = Token { coordinator: world.url.clone(), ..token };
    assert!(joined(&world, &token, "bob").await.is_err());
    assert!(!world.dir().join("bob.pem").exists());

    let secret = data_encoding::HEXLOWER.encode(token.secret.as_bytes());
    let kept = std::fs::read_to_string(world.state().join("authority/ledger.jsonl")).expect("a ledger");
    for text in [world.log(), kept] {
        assert!(!text.contains(&secret) && !text.contains(&token.reveal()[8..30]), "a secret got out: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_with_their_time_and_when_they_are_withdrawn() {
    let world = World::start();
    let short = world.token(&["--valid", "1s"]);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    assert!(joined(&world, &short, "a").await.expect_err("over").to_string().contains("time is over"));
    world.saw("token_expired", &[]);
    let withdrawn = world.token(&[]);
    assert!(ok(&world.fleet(&["certs", "revoke", &withdrawn.secret.id()])).contains("withdrawn"));
    joined(&world, &withdrawn, "a").await.expect_err("withdrawn");
    world.saw("token_unknown", &[]);
    joined(&world, &world.token(&[]), "a").await.expect("joined");
    let error = join(&world.token(&[]), None, &"a".parse().expect("a name"), &world.dir().join("thief.pem")).await;
    assert!(error.expect_err("taken").to_string().contains("already"));
    world.saw("name_taken", &["agent called a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_knows_whom_it_talks_to() {
    let (world, stranger) = (World::start(), World::start());
    let token = world.token(&[]);
    // Another coordinator answers at the token's address.
    let lured = Token { coordinator: stranger.url.clone(), ..token.clone() };
    let error = joined(&world, &lured, "a").await.expect_err("another authority").to_string();
    assert!(error.contains("not this fleet's coordinator"), "{error}");
    stranger.saw("handshake_failed", &[]);
    assert_eq!(stranger.refused("token_unknown"), 0.0, "the secret was not told");
    // At a name that the coordinator's certificate is not for, until it is.
    let named = world.url.replace("127.0.0.1", "127.0.0.2");
    let elsewhere = Token { coordinator: named, ..token.clone() };
    let error = joined(&world, &elsewhere, "a").await.expect_err("another name").to_string();
    assert!(error.contains("other addresses") || error.contains("refused"), "{error}");
    joined(&world, &token, "a").await.expect("the token is as it was");
}

#[test]
fn the_programs_say_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let says = |words: &[&str], code: i32, parts: &[&str]| {
        let output = fleet(dir.path(), words).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{words:?}: lacks \"{part}\":\n{error}"));
    };
    says(&["serve", "--tls"], 2, &["fleet certs init"]);
    says(&["serve", "--listen", "0.0.0.0:0"], 2, &["fleet certs init", "--insecure"]);
    says(&["certs", "list"], 2, &["fleet certs init", "--state"]);
    says(&["status", "--coordinator", "https://127.0.0.1:9"], 2, &["fleet join TOKEN"]);
    says(&["join", "nsfjoin_abc"], 2, &["cut short"]);
    says(&["join", "hello"], 2, &["fleet join-token"]);
    says(&["certs", "init", "--name", "host:7070"], 2, &["without a port"]);
    says(
        &["certs", "init", "--name", "fleet.example.org"],
        0,
        &["fleet.example.org", "fleet join-token", "back it up"],
    );
    says(&["certs", "init"], 2, &["already"]);
    says(&["certs", "revoke", "nobody"], 2, &["nobody", "fleet certs list"]);
    says(&["certs", "issue", "--role", "viewer", "--name", "ann", "--out", "ann.pem"], 0, &["holds the key"]);
    says(&["certs", "issue", "--role", "viewer", "--name", "ann", "--out", "ann2.pem"], 2, &["already"]);
    says(&["certs", "issue", "--role", "king", "--name", "ann", "--out", "x"], 2, &["agent, operator or viewer"]);
    let home = dir.path().join(".config/netscore-fleet/identity.pem");
    assert!(std::fs::read_to_string(home).expect("an identity").contains("coordinator: https://127.0.0.1:7070"));
}
