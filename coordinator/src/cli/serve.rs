//! The coordinator as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use fleet_common::lease::LeaseTerms;
use fleet_common::units::Bytes;
use fleet_observe::http;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::Failure;
use crate::driver::{self, Handle};
use crate::metrics::{Counts, Endpoint, Timed};
use crate::service::{ContentService, Service};
use crate::store::{Content, Keep, KeepTime, Samples, Store};

/// Open questions and streams get this long to end when the coordinator stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Space for shared content, unless more is wanted: the public sets have less than 1 GB each.
pub(super) const CONTENT_SPACE: Bytes = Bytes(64 << 30);

/// `fleet serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address to listen on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    listen: String,
    /// Folder for the journal, the index and the samples
    #[arg(long, value_name = "DIR", default_value = "fleet-state/coordinator")]
    state: PathBuf,
    /// Listen beyond this machine although nothing is encrypted and nobody is authenticated
    #[arg(long)]
    insecure: bool,
    /// Address where Prometheus reads /metrics, and whoever watches over programs /healthz (port 9464 is what others
    /// use for it) [default: neither is served]
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
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
        let address = self.address("--listen", &self.listen).await?;
        // Before anything is opened: a port that is taken is told at once.
        let metrics = match &self.metrics {
            Some(text) => {
                let address = self.address("--metrics", text).await?;
                Some(http::listen(address).await.map_err(Failure::failed)?)
            }
            None => None,
        };
        let running =
            Running::start(&self.state, address, self.leases.terms(), self.retention.keep(), self.content_space)
                .await?;
        tracing::info!(address = %running.address, state = %self.state.display(), "the coordinator is ready");
        say!("listening on http://{}", running.address);
        if let Some(listener) = metrics {
            let address = listener.local_addr().map_err(|e| Failure::failed(e.to_string()))?;
            let endpoint = Endpoint::new(running.driver.clone(), running.counts.clone(), self.state.clone());
            tokio::spawn(http::serve(listener, Arc::new(endpoint)));
            tracing::info!(%address, "metrics can be read");
            say!("metrics on http://{address}/metrics");
        }
        let outcome = tokio::select! {
            () = interrupted() => Ok(()),
            failure = running.failed() => Err(failure),
        };
        tracing::info!("stopping");
        running.stop().await;
        outcome
    }

    /// The address that an option names; one that others can reach has to be wanted.
    async fn address(&self, option: &str, text: &str) -> Result<SocketAddr, Failure> {
        let address = http::resolve(option, text).await.map_err(Failure::usage)?;
        if !address.ip().is_loopback() && !self.insecure {
            return Err(Failure::usage(format!(
                "{address} can be reached from other machines, and the connection is neither encrypted nor authenticated. \
                 Listen on 127.0.0.1 (and forward it, for instance with ssh), or say --insecure on a network that you trust"
            )));
        }
        Ok(address)
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
    sweeping: tokio::task::JoinHandle<()>,
    server: tokio::task::JoinHandle<()>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Running {
    pub(super) async fn start(
        state: &Path,
        address: SocketAddr,
        terms: LeaseTerms,
        keep: Keep,
        content_space: Bytes,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|e| match e.kind() {
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
        let content = Content::open(&state.join("content"), content_space);
        let content = ContentService::new(Arc::new(content.map_err(|e| Failure::failed(e.to_string()))?));
        for damage in &opened.damage {
            tracing::error!(
                offset = damage.offset,
                bytes = damage.bytes,
                "the journal is damaged here; {}",
                if damage.tail { "the rest was cut off" } else { "this part was skipped" }
            );
        }
        opened.misfits.iter().for_each(|m| tracing::error!("the journal has a hole: {m}"));
        tracing::info!(events = opened.events, rebuilt_index = opened.rebuilt, "the journal was read");
        let (index, samples) = (store.index.clone(), store.samples.clone());
        let stored = samples.clone();
        let counts = Arc::new(Counts::default());
        let (driver, thread) = driver::start(store, known, terms, counts.clone());
        let ticking = driver.clone();
        tokio::spawn(async move { ticking.tick().await });
        let service = Service::new(driver.clone(), index, samples, counts.clone());
        service.sweep(keep).await;
        let sweeping = tokio::spawn(service.clone().keep_sweeping(keep));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        // Answers are small and somebody waits for each: without this, the kernel holds many of them back for 40 ms.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .layer(Timed::new(counts.clone()))
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_service(service.agents())
            .add_service(service.operator())
            .add_service(content.content())
            .add_service(content.sharing())
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            });
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the server failed");
            }
        });
        Ok(Self { address, driver, samples: stored, counts, thread, sweeping, server, stop })
    }

    /// Returns when the coordinator can no longer work, with what is known of the reason.
    pub(super) async fn failed(&self) -> Failure {
        self.driver.ended().await;
        Failure::failed(
            "the coordinator cannot go on: its journal can no longer be read or written; the log above says why",
        )
    }

    /// Ends the server, then the driver; everything that was answered is on disk.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        self.sweeping.abort();
        // Questions for work stay open for half a minute; nobody should wait for those.
        let _ = tokio::time::timeout(FAREWELL, self.server).await;
        // Before the driver, which gives the folder back.
        self.samples.stop().await;
        self.driver.stop().await;
        let thread = self.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
