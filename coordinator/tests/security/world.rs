//! A coordinator's process with an authority, and peers of every kind.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use fleet_coordinator::service::rpc::agents_client::AgentsClient;
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use fleet_observe::exposition;
use fleet_secure::authority::{Authority, KeyRequest, Validity};
use fleet_secure::client;
use fleet_secure::credentials::Credentials;
use fleet_secure::identity::Role;
use fleet_secure::token::Token;
use fleet_secure::unix_now;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use crate::support::{FLEET, Serving};

/// Nothing here takes as long as this; a test that waits longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: u64 = 3600;

/// A coordinator and its folder; killed when dropped.
pub(crate) struct World {
    serving: Serving,
    pub(crate) url: String,
    metrics: String,
    dir: tempfile::TempDir,
}

/// A command of `fleet` in a folder, for somebody with that home.
pub(crate) fn fleet(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(FLEET);
    command.current_dir(dir).args(words).env("HOME", dir).env("USER", "boss").stdin(Stdio::null());
    let ours = ["FLEET_LOG", "FLEET_LOG_FORMAT", "FLEET_COORDINATOR", "FLEET_IDENTITY", "FLEET_JOIN_TOKEN"];
    for name in ours.into_iter().chain(["XDG_CONFIG_HOME"]) {
        command.env_remove(name);
    }
    command
}

/// What a command says that has to succeed.
#[track_caller]
pub(crate) fn ok(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl World {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        ok(&fleet(dir.path(), &["certs", "init"]).output().expect("runs"));
        Self::serve(dir, more)
    }

    /// In a folder that has an authority.
    pub(crate) fn serve(dir: tempfile::TempDir, more: &[&str]) -> Self {
        let log = dir.path().join("log");
        let mut command = fleet(dir.path(), &["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        let mut serving = Serving::start(command.args(["--log-format", "json"]).args(more), &log);
        let url = serving.url.clone();
        assert!(url.starts_with("https://"), "{url}");
        let metrics = serving.says("metrics on http://").trim_end_matches("/metrics").to_owned();
        Self { serving, url, metrics, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The same folder with another process, after `kill -9`.
    pub(crate) fn killed(mut self) -> tempfile::TempDir {
        self.serving.kill();
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a folder"))
    }

    /// A command for the operator who made the authority.
    pub(crate) fn fleet(&self, words: &[&str]) -> Output {
        fleet(self.dir(), words).output().expect("runs")
    }

    /// A token that leads here.
    pub(crate) fn token(&self, more: &[&str]) -> Token {
        let mut words = vec!["join-token", "--json", "--address", &self.url];
        words.extend(more);
        let made: Value = serde_json::from_str(&ok(&self.fleet(&words))).expect("JSON");
        made["token"].as_str().expect("a token").parse().expect("a token")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir().join("fleet-state/coordinator")
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.state().join("authority")).expect("an authority")
    }

    /// A certificate that `authority` has signed, of somebody who trusts the coordinator.
    pub(crate) fn forged(&self, authority: &Authority, role: Role, name: &str, validity: Validity) -> PathBuf {
        let (key, request) = fleet_secure::join::new_request().expect("a request");
        let request = KeyRequest::read(&request).expect("read");
        let issued = authority.issue(role, &name.parse().expect("a name"), &request, validity).expect("issued");
        let trusted = self.authority().certificate().clone();
        let path = self.dir().join(format!("{}.pem", issued.identity.serial));
        Credentials::new(issued.certificate, &key, trusted, Some(self.url.clone())).save(&path).expect("saved");
        path
    }

    /// A certificate that counts.
    pub(crate) fn issued(&self, role: Role, name: &str) -> PathBuf {
        self.forged(&self.authority(), role, name, Validity::from(unix_now(), HOUR))
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        client::endpoint(&self.url).expect("an address")
    }

    pub(crate) fn channel(&self, identity: &Path) -> Channel {
        client::channel(&self.endpoint(), identity).expect("a certificate")
    }

    pub(crate) fn operator(&self, identity: &Path) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel(identity)).max_encoding_message_size(MAX_MESSAGE_BYTES * 2)
    }

    pub(crate) fn agent(&self, identity: &Path) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel(identity)).max_encoding_message_size(MAX_MESSAGE_BYTES * 2)
    }

    /// Trusts the coordinator and shows no certificate.
    pub(crate) fn anonymous(&self) -> Channel {
        let config = Arc::new(self.anonymous_config());
        let connect = tower::service_fn(move |uri: tonic::codegen::http::Uri| {
            let config = config.clone();
            async move {
                let tcp = tokio::net::TcpStream::connect(("127.0.0.1", uri.port_u16().unwrap_or(0))).await?;
                let name = ServerName::try_from("127.0.0.1").expect("a name");
                tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
            }
        });
        self.endpoint().connect_with_connector_lazy(connect)
    }

    pub(crate) fn anonymous_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority().certificate().clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// The certificate that the coordinator shows.
    pub(crate) async fn shown(&self) -> CertificateDer<'static> {
        let tcp = tokio::net::TcpStream::connect(self.address()).await.expect("connects");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.anonymous_config()));
        let tls =
            connector.connect(ServerName::try_from("127.0.0.1").expect("a name"), tcp).await.expect("shakes hands");
        tls.get_ref().1.peer_certificates().expect("a chain")[0].clone().into_owned()
    }

    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("https://")
    }

    fn scrape(&self) -> exposition::Exposition {
        let mut stream = TcpStream::connect(&self.metrics).expect("connects");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        let (_, page) = answer.split_once("\r\n\r\n").expect("a head");
        exposition::read(page).unwrap_or_else(|e| panic!("{e}"))
    }

    /// How often somebody was refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> f64 {
        self.scrape()
            .value("fleet_refused_total", &[("reason", reason)])
            .unwrap_or_else(|| panic!("no such reason: {reason}"))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).expect("a log")
    }

    /// Waits until somebody was refused for this reason, which is counted, and logged with all of `words`.
    #[track_caller]
    pub(crate) fn saw(&self, reason: &str, words: &[&str]) {
        let logged = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            line["reason"] == reason && words.iter().all(|word| line.to_string().contains(word))
        };
        let started = Instant::now();
        while self.refused(reason) == 0.0 || !self.log().lines().any(logged) {
            let log = self.log();
            assert!(started.elapsed() < PATIENCE, "nobody was refused as {reason} with {words:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn status() -> v1::StatusRequest {
    v1::StatusRequest { campaign: None }
}

/// An agent with one slot introduces itself.
#[allow(clippy::needless_update, reason = "the contract grows")]
pub(crate) fn introduction(agent: &str, held: Vec<v1::HeldLease>) -> v1::RegisterRequest {
    let slot = v1::Slot { slot: "cpu".into(), hardware: "X".into(), memory_bytes: 16 << 30, ..Default::default() };
    v1::RegisterRequest {
        agent: agent.into(),
        version: "0".into(),
        host: "h".into(),
        slots: vec![slot],
        held,
        ..Default::default()
    }
}

/// What somebody at an open end hears who waits: whether the other side has ended it.
pub(crate) async fn ends(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    use tokio::io::AsyncReadExt as _;
    let mut buffer = [0; 1024];
    let reading = async { while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {} };
    tokio::time::timeout(PATIENCE, reading).await.expect("it is ended");
}
