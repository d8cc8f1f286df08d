//! The coordinator as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use fleet_artifacts::StoreError;
use fleet_common::lease::LeaseTerms;
use fleet_common::units::Bytes;
use fleet_observe::http;
use fleet_secure::server::Limits;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::Failure;
use super::secured::Secured;
use crate::core::Core;
use crate::driver::{self, Handle};
use crate::metrics::{Counts, Endpoint, Timed};
use crate::security::{Guard, Security};
use crate::service::{Artifacts, ContentService, Desk, Service};
use crate::store::{Content, Keep, KeepTime, Samples, Store};

/// Open questions and streams get this long to end when the coordinator stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// A snapshot of a million trials takes a fraction of this.
const LAST_SNAPSHOT: Duration = Duration::from_secs(30);

/// Space for shared content, unless more is wanted: the public sets have less than 1 GB each.
const CONTENT_SPACE: Bytes = Bytes(64 << 30);

/// `fleet serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address to listen on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    listen: String,
    /// Folder for the journal, the index and the samples
    #[arg(long, value_name = "DIR", default_value = "fleet-state/coordinator")]
    state: PathBuf,
    /// Listen beyond this machine although nothing is encrypted and nobody is authenticated (metrics never are)
    #[arg(long)]
    insecure: bool,
    /// Address where Prometheus reads /metrics, and whoever watches over programs /healthz (port 9464 is what others
    /// use for it) [default: neither is served]
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// Store for states of interrupted trials and for kept weights: s3://BUCKET/PREFIX (with ?endpoint=URL for stores
    /// other than AWS's), which agents then talk to themselves, or a folder, which they reach through this coordinator.
    /// A prefix belongs to one coordinator: states that it does not know are removed [default: STATE/artifacts/store]
    #[arg(long, env = "FLEET_ARTIFACTS", value_name = "URL")]
    artifacts: Option<String>,
    #[command(flatten)]
    secured: Secured,
    #[command(flatten)]
    leases: Leases,
    #[command(flatten)]
    retention: Retention,
    /// Space for data sets and weights that are shared with agents
    #[arg(long, value_name = "SIZE", default_value_t = CONTENT_SPACE)]
    content_space: Bytes,
    #[command(flatten)]
    pub(super) log: fleet_observe::log::Options,
}

/// Which samples are kept.
#[derive(Debug, Args)]
pub(super) struct Retention {
    /// How long samples of ended attempts are kept: days such as 90d, hours such as 36h, or forever
    #[arg(long, value_name = "TIME", default_value = "forever")]
    keep_samples: KeepTime,
    /// Space for samples, such as 20GiB; of ended attempts, the oldest ones' go first [default: all there is]
    #[arg(long, value_name = "SIZE")]
    samples_space: Option<Bytes>,
}

impl Retention {
    pub(super) fn keep(&self) -> Keep {
        Keep { time: self.keep_samples, space: self.samples_space }
    }
}

/// How long leases last.
#[derive(Debug, Args)]
pub(super) struct Leases {
    /// Seconds of silence after which an agent may be taken for lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    lease_seconds: u64,
    /// Agents that a trial may lose before it is given up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    max_losses: u32,
}

impl Leases {
    pub(super) fn terms(&self) -> LeaseTerms {
        let time_ms = self.lease_seconds * 1000;
        LeaseTerms { time_ms, renew_every_ms: time_ms / 4, missed_renewals: 4, max_losses: self.max_losses }
    }
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let secured = self.secured.terms(&self.state)?;
        let address = self.address("--listen", &self.listen, secured.is_some()).await?;
        // Before anything is opened: a port that is taken is told at once.
        let metrics = match &self.metrics {
            Some(text) => {
                let address = self.address("--metrics", text, false).await?;
                Some(http::listen(address).await.map_err(Failure::failed)?)
            }
            None => None,
        };
        let (terms, keep) = (self.leases.terms(), self.retention.keep());
        let scheme = if secured.is_some() { "https" } else { "http" };
        let (content_space, artifacts) = (self.content_space, self.artifacts.clone());
        let kind = Kind { secured, closed: false, content_space, artifacts };
        let running = Running::start(&self.state, address, terms, keep, kind).await?;
        // Until here a signal ends the program at once, and nothing is lost by that.
        let mut interrupts = Interrupts::listen();
        tracing::info!(address = %running.address, state = %self.state.display(), "the coordinator is ready");
        say!("listening on {scheme}://{}", running.address);
        if let Some(listener) = metrics {
            let address = listener.local_addr().map_err(|e| Failure::failed(e.to_string()))?;
            let endpoint = Endpoint::new(running.driver.clone(), running.counts.clone(), self.state.clone());
            tokio::spawn(http::serve(listener, Arc::new(endpoint)));
            tracing::info!(%address, "metrics can be read");
            say!("metrics on http://{address}/metrics");
        }
        let outcome = tokio::select! {
            () = interrupts.next() => Ok(()),
            failure = running.failed() => Err(failure),
        };
        tracing::info!("stopping; a second signal ends at once");
        tokio::select! {
            () = running.stop() => outcome,
            () = interrupts.next() => Err(Failure::Interrupted("ended at once; nothing that was confirmed is lost".into())),
        }
    }

    /// The address that an option names; one that others can reach has to be wanted.
    async fn address(&self, option: &str, text: &str, encrypted: bool) -> Result<SocketAddr, Failure> {
        let address = http::resolve(option, text).await.map_err(Failure::usage)?;
        if !address.ip().is_loopback() && !encrypted && !self.insecure {
            let certificates = match option {
                "--listen" => format!("Make certificates with `fleet certs init --state {}`, l", self.state.display()),
                _ => "L".to_owned(),
            };
            return Err(Failure::usage(format!(
                "{option}: {address} can be reached from other machines, and the connection is neither encrypted nor \
                 authenticated. {certificates}isten on 127.0.0.1 (and forward it, for instance with ssh), or say \
                 --insecure on a network that you trust"
            )));
        }
        Ok(address)
    }
}

/// Connections that may wait to be accepted: behind a restart, hundreds of agents come at once.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What sets coordinators apart.
pub(super) struct Kind {
    /// Encrypted: how long certificates last, and what connections may take.
    pub secured: Option<(u64, Limits)>,
    /// No agents will come but those that this process starts itself.
    pub closed: bool,
    /// Space for shared content.
    pub content_space: Bytes,
    /// The artifact store, if not the one in the state folder.
    pub artifacts: Option<String>,
}

impl Default for Kind {
    fn default() -> Self {
        Self { secured: None, closed: false, content_space: CONTENT_SPACE, artifacts: None }
    }
}

/// A coordinator at work in this process.
pub(super) struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    driver: Handle,
    samples: Arc<Samples>,
    counts: Arc<Counts>,
    thread: std::thread::JoinHandle<()>,
    sweeping: [tokio::task::JoinHandle<()>; 2],
    server: tokio::task::JoinHandle<()>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Running {
    pub(super) async fn start(
        state: &Path,
        address: SocketAddr,
        terms: LeaseTerms,
        keep: Keep,
        kind: Kind,
    ) -> Result<Self, Failure> {
        let listener = listen(address).map_err(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => Failure::failed(format!(
                "port {} is in use by another program (perhaps another coordinator); stop that one, or choose another \
                 with --listen HOST:PORT",
                address.port()
            )),
            _ => Failure::failed(format!("cannot listen on {address}: {e}")),
        })?;
        let address = listener.local_addr().map_err(|e| Failure::failed(e.to_string()))?;
        let folder = state.to_owned();
        let (store, known, opened) = tokio::task::spawn_blocking(move || Store::open(&folder))
            .await
            .map_err(|e| Failure::failed(e.to_string()))?
            .map_err(|e| Failure::failed(e.to_string()))?;
        // Behind the store, whose lock keeps the folder ours.
        let content = Content::open(&state.join("content"), kind.content_space);
        let content = ContentService::new(Arc::new(content.map_err(|e| Failure::failed(e.to_string()))?));
        for damage in &opened.damage {
            let (file, offset, bytes) = (damage.file.display(), damage.offset, damage.bytes);
            tracing::error!(%file, offset, bytes, "the journal is damaged here; {}", damage.consequence());
        }
        opened.misfits.iter().for_each(|m| tracing::error!("the journal has a hole: {m}"));
        opened.refused.iter().for_each(|why| tracing::error!("{why}; more of the journal was read instead"));
        if opened.migrated {
            tracing::info!("the state folder has this version's layout from now on; earlier versions cannot open it");
        }
        let (snapshot, events, rebuilt_index) = (opened.snapshot, opened.events, opened.rebuilt);
        tracing::info!(snapshot, events, rebuilt_index, "the state was read");
        let (index, samples) = (store.index.clone(), store.samples.clone());
        let stored = samples.clone();
        let counts = Arc::new(Counts::default());
        let security = kind
            .secured
            .map(|(validity, limits)| Security::open(state, validity, limits, counts.clone()))
            .transpose()
            .map_err(|e| Failure::failed(e.to_string()))?;
        let core = Core::new(known, terms);
        let core = if kind.closed { core.closed() } else { core };
        let (driver, thread) = driver::start(store, core, counts.clone());
        let ticking = driver.clone();
        tokio::spawn(async move { ticking.tick().await });
        let service = Service::new(driver.clone(), index, samples, counts.clone());
        let artifacts = Artifacts::open(service.clone(), state, kind.artifacts.as_deref()).map_err(|e| match e {
            StoreError::Address { .. } => Failure::usage(e.to_string()),
            _ => Failure::failed(e.to_string()),
        })?;
        tracing::info!(store = artifacts.place(), "artifacts are kept");
        let service = service.with_artifact_store(artifacts.direct());
        service.sweep(keep).await;
        let sweeping = tokio::spawn(service.clone().keep_sweeping(keep));
        let sweeping_artifacts = tokio::spawn(artifacts.clone().keep_sweeping());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let limits = security.as_ref().map(|s| *s.limits());
        let desk = security.clone().map(Desk::new);
        let server = Server::builder()
            .layer(Timed::new(counts.clone()))
            .layer(Guard::new(security.clone()))
            .max_concurrent_streams(limits.map(|l| l.streams))
            .http2_max_header_list_size(limits.map(|l| l.header_bytes))
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_service(service.agents())
            .add_service(service.operator())
            .add_service(content.content())
            .add_service(content.sharing())
            .add_optional_service(desk.as_ref().map(Desk::join))
            .add_optional_service(desk.as_ref().map(Desk::certificates))
            .add_service(artifacts.server());
        let stopped = async {
            let _ = stopped.await;
        };
        let server = tokio::spawn(async move {
            let served = match security {
                Some(security) => {
                    let keeping = tokio::spawn(security.clone().keep());
                    let served = server.serve_with_incoming_shutdown(security.incoming(listener), stopped).await;
                    keeping.abort();
                    served
                }
                // Answers are small and somebody waits for each: without this, the kernel holds many of them back for
                // 40 ms.
                None => {
                    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
            };
            if let Err(error) = served {
                tracing::error!(%error, "the server failed");
            }
        });
        Ok(Self {
            address,
            driver,
            samples: stored,
            counts,
            thread,
            sweeping: [sweeping, sweeping_artifacts],
            server,
            stop,
        })
    }

    /// Returns when the coordinator can no longer work, with what is known of the reason.
    pub(super) async fn failed(&self) -> Failure {
        self.driver.ended().await;
        Failure::failed(
            "the coordinator cannot go on: its journal can no longer be read or written; the log above says why",
        )
    }

    /// Ends the server, then the driver, within a bounded time; everything that was answered is on disk.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        self.sweeping.iter().for_each(tokio::task::JoinHandle::abort);
        // Questions for work stay open for half a minute; nobody should wait for those.
        let mut server = self.server;
        let is_ended = tokio::time::timeout(FAREWELL, &mut server).await.is_ok();
        // Before the driver, which gives the folder back.
        self.samples.stop().await;
        self.driver.stop().await;
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(LAST_SNAPSHOT, ended).await.is_err() {
            tracing::warn!("the last snapshot takes too long and is left; the next start reads more of the journal");
        }
        // Without the driver, what is still open is answered with "shutting down"; those answers go out.
        if !is_ended {
            let _ = tokio::time::timeout(FAREWELL, server).await;
        }
    }
}

/// Ctrl-C and SIGTERM, from when this was made: none that comes between two questions is missed.
struct Interrupts(Vec<Signal>);

impl Interrupts {
    fn listen() -> Self {
        Self([SignalKind::interrupt(), SignalKind::terminate()].into_iter().filter_map(|s| signal(s).ok()).collect())
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    Interrupts::listen().next().await;
}
