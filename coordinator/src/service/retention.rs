//! Retention: now and then, samples that need not be kept are removed.

use std::time::{Duration, SystemTime};

use fleet_common::id::{Attempt, TrialId};

use super::{Service, ServiceError};
use crate::store::Keep;

/// How often. What grows beyond its space in between is a few minutes of samples.
const EVERY: Duration = Duration::from_secs(5 * 60);

impl Service {
    /// Removes once what need not be kept. A failure is logged: what is left goes the next time.
    pub async fn sweep(&self, keep: Keep) {
        if keep == Keep::default() {
            return;
        }
        match self.swept(keep).await {
            Ok((0, _)) => {}
            Ok((files, bytes)) => tracing::info!(attempts = files, bytes, "samples were removed by retention"),
            Err(error) => tracing::error!(%error, "samples could not be removed; trying again later"),
        }
    }

    /// Goes on doing so until this is dropped.
    pub async fn keep_sweeping(self, keep: Keep) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.sweep(keep).await;
        }
    }

    async fn swept(&self, keep: Keep) -> Result<(usize, u64), ServiceError> {
        let campaigns = self.snapshot(None).await?.campaigns.into_iter();
        let running = campaigns.flat_map(|c| c.running).filter_map(|r| Some((r.trial, r.attempt?)));
        let running: Vec<(TrialId, Attempt)> = running.collect();
        let removed = self.samples.sweep(&running, keep, SystemTime::now()).await?;
        Ok((removed.len(), removed.iter().map(|r| r.bytes).sum()))
    }
}
