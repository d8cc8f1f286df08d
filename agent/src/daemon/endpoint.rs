//! The daemon as an observed program.

use std::sync::Arc;

use anyhow::Context as _;
use fleet_observe::http::{self, Observed};

use super::Shared;
use super::trial::Running;
use crate::metrics::Standing;

/// Serves `/metrics` and `/healthz` at an address, from now on.
///
/// # Errors
/// It is no address, or it is taken.
pub(super) async fn serve(shared: &Arc<Shared>, text: &str) -> anyhow::Result<()> {
    let address = http::resolve("--metrics", text).await.map_err(anyhow::Error::msg)?;
    let listener = http::listen(address).await.map_err(anyhow::Error::msg)?;
    let address = listener.local_addr().context("the port for metrics has no address")?;
    tracing::info!(%address, "metrics can be read");
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address can read what runs here; nothing can be changed there");
    }
    tokio::spawn(http::serve(listener, Arc::new(Endpoint(shared.clone()))));
    Ok(())
}

struct Endpoint(Arc<Shared>);

impl Observed for Endpoint {
    async fn metrics(&self) -> Result<String, String> {
        let shared = &self.0;
        let progress = shared.running().values().map(Running::progress).collect();
        let standing = Standing { progress, undelivered: shared.outbox.count() };
        Ok(shared.metrics.text(&standing, &shared.options.state))
    }

    /// A coordinator that cannot be reached is no reason to restart an agent: it goes on by itself.
    async fn health(&self) -> Result<(), String> {
        if self.0.is_stopping() { Err("the agent is stopping".to_owned()) } else { Ok(()) }
    }
}
