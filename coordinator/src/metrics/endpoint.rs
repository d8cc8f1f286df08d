//! The coordinator as an observed program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_observe::http::Observed;

use super::{Counts, text};
use crate::core::{Input, Reply, Snapshot};
use crate::driver::Handle;

/// A driver that does not answer for so long does not work.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked at a scrape.
pub struct Endpoint {
    driver: Handle,
    counts: Arc<Counts>,
    state: PathBuf,
}

impl Endpoint {
    /// Of a coordinator with its state in the folder `state`.
    pub fn new(driver: Handle, counts: Arc<Counts>, state: PathBuf) -> Self {
        Self { driver, counts, state }
    }

    async fn snapshot(&self) -> Result<Snapshot, String> {
        let answer = tokio::time::timeout(PATIENCE, self.driver.ask(|token| Input::Status(token, None))).await;
        match answer.map_err(|_| format!("the coordinator has not answered for {} s", PATIENCE.as_secs()))? {
            Ok(Reply::Status(Ok(snapshot))) => Ok(*snapshot),
            Ok(_) => Err("the core answered another question than was asked; this is a bug".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Observed for Endpoint {
    async fn metrics(&self) -> Result<String, String> {
        let snapshot = self.snapshot().await?;
        Ok(text(&self.counts, &snapshot, self.driver.queued(), self.driver.health(), &self.state))
    }

    async fn health(&self) -> Result<(), String> {
        self.snapshot().await.map(drop)
    }
}
