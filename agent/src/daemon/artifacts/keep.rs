//! What a trial leaves for good: its trained weights and adapter, where its campaign wants them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleet_artifacts::Name;
use fleet_common::record::Record;

use super::{Whose, count_sent};
use crate::daemon::Shared;

/// A record waits no longer than this for all that it names to be in the store; the files are here in any case.
const PATIENCE: Duration = Duration::from_secs(600);

/// Puts what the record names into the store, and notes in it what it is called there. What cannot be put there is
/// remarked.
pub(in crate::daemon) async fn keep(shared: &Arc<Shared>, record: &mut Record) {
    let has_files = [&record.artifact, &record.adapter, &record.adapter_config].into_iter().any(Option::is_some);
    if !has_files || !shared.artifacts.is_there() {
        return;
    }
    // The result first: a large file may take minutes.
    let (at_hand, outbox) = (record.clone(), shared.clone());
    let put = tokio::task::spawn_blocking(move || outbox.outbox.put(&at_hand)).await;
    if let Err(error) = put.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
        tracing::error!(%error, "the record could not be kept on disk; it waits in memory for its files to be sent");
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    let whose = Whose { trial: record.trial.clone(), attempt: record.attempt };
    let folder = format!("kept/{}", record.trial.file_stem());
    let kept = [&mut record.artifact, &mut record.adapter, &mut record.adapter_config];
    let mut remarks = Vec::new();
    for artifact in kept.into_iter().flatten() {
        let name = artifact.sha256.parse().and_then(|hash| Name::new(&folder, hash));
        let put = async {
            let name = name?;
            let bytes = shared.artifacts.put(&name, Path::new(&artifact.path), &whose).await?;
            anyhow::Ok((name, bytes))
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout_at(until, put) => outcome.map_err(anyhow::Error::from).flatten(),
            () = shared.stopped() => Err(anyhow::anyhow!("the agent is shutting down")),
        };
        match outcome {
            Ok((name, bytes)) => {
                count_sent(&shared.metrics, bytes);
                artifact.stored = Some(name.to_string());
            }
            Err(error) => {
                shared.metrics.counts.artifact_failures.inc();
                tracing::warn!(file = artifact.path, "it is kept here only: {error:#}");
                remarks.push(format!("{} is kept on its agent only: {error:#}", artifact.path));
            }
        }
    }
    record.flags.extend(remarks);
}
