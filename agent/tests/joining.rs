//! What `fleet-agent` says to whoever joins, or tries to.

use std::path::Path;
use std::process::{Command, Output};

use fleet_agent::daemon;
use fleet_common::id::PeerName;
use fleet_secure::authority::{Authority, Validity};
use fleet_secure::identity::Role;
use fleet_secure::token::{Secret, Token};
use fleet_secure::unix_now;

fn agent(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-agent"));
    command.current_dir(dir).args(words).stdin(std::process::Stdio::null());
    for name in ["FLEET_LOG", "FLEET_COORDINATOR", "FLEET_AGENT_STATE", "FLEET_JOIN_TOKEN", "FLEET_LOG_FORMAT"] {
        command.env_remove(name);
    }
    command.output().expect("runs")
}

#[track_caller]
fn fails(output: &Output, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    parts.iter().for_each(|part| assert!(error.contains(part), "lacks \"{part}\":\n{error}"));
}

#[test]
fn what_is_no_token_is_told_and_not_repeated() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA";
    for text in [secret.to_owned(), format!("nsfjoin_{secret}")] {
        let output = agent(dir.path(), &["join", &text]);
        fails(&output, &["expected a join token", "fleet join-token"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains(secret), "{output:?}");
    }
    fails(&agent(dir.path(), &["join", "-"]), &["found nothing"]);
}

#[test]
fn an_encrypted_coordinator_wants_a_certificate_and_one_that_is_away_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = ["run", "--devices", "cpu", "--worker", "/bin/sh", "--lock-dir", "locks", "--state", "state"];
    let output = agent(dir.path(), &[&run[..], &["--coordinator", "https://127.0.0.1:9"]].concat());
    fails(&output, &["wants a certificate", "state/identity.pem", "fleet-agent join TOKEN"]);

    let secret = Secret::random().expect("random numbers");
    let token = Token { coordinator: "https://127.0.0.1:9".to_owned(), authority: [7; 32], secret };
    let output = agent(dir.path(), &["join", &token.reveal(), "--state", "state"]);
    fails(&output, &["cannot join at https://127.0.0.1:9"]);
    // The same key will be asked for next time: an answer that got lost must not use the token up.
    let pending = dir.path().join("state/identity.key-pending");
    let key = std::fs::read(&pending).expect("a key");
    fails(&agent(dir.path(), &["join", &token.reveal(), "--state", "state"]), &["cannot join"]);
    assert_eq!(std::fs::read(&pending).expect("a key"), key);
    assert!(!fleet_secure::files::is_open_to_others(&pending));
}

#[test]
fn an_agent_that_has_joined_goes_there_by_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(&dir.path().join("authority"), unix_now()).expect("made");
    let name: PeerName = "box-1".parse().expect("a name");
    let issued = authority.issue_with_key(Role::Agent, &name, &[], Validity::from(unix_now(), 3600));
    let (credentials, _) = issued.expect("issued");
    let file = dir.path().join("state/identity.pem");
    let credentials = credentials.for_coordinator("not-an-address");
    credentials.save(&file).expect("saved");
    let run = ["run", "--devices", "cpu", "--worker", "/bin/sh", "--lock-dir", "locks", "--state", "state"];
    fails(&agent(dir.path(), &run), &["https://HOST:PORT", "not-an-address"]);

    // A token of the same fleet is not used up while the certificate counts; one of another fleet is for another one.
    let state = dir.path().join("state");
    let secret = Secret::random().expect("random numbers");
    let token = |authority| Token { coordinator: "https://127.0.0.1:9".to_owned(), authority, secret: secret.clone() };
    let ours = token(authority.fingerprint());
    fails(&agent(dir.path(), &[&run[..], &["--join", &ours.reveal()]].concat()), &["not-an-address"]);
    assert!(!daemon::needs(&ours, &state) && daemon::needs(&token([7; 32]), &state));
    let over = Validity { not_before: 1, not_after: unix_now() - 1 };
    let (ended, _) = authority.issue_with_key(Role::Agent, &name, &[], over).expect("issued");
    ended.save(&file).expect("saved");
    assert!(daemon::needs(&ours, &state) && daemon::needs(&ours, dir.path()));
}
