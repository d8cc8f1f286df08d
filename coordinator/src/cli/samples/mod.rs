//! Samples of a campaign: which attempts have some, and all of them in one file.

mod csv;
mod list;
mod parquet;
mod rows;
mod sink;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::Args;
use fleet_common::id::{CampaignName, TrialId};
use fleet_common::wire::{self, v1};
use tonic::transport::Channel;

use self::csv::Csv;
use self::parquet::Parquet;
use self::rows::{Gap, Rows};
use self::sink::{Out, Sink};
use super::{Coordinator, Failure, Json, client};
use crate::service::rpc::operator_client::OperatorClient;

/// `fleet samples`.
#[derive(Debug, Args)]
#[group(id = "form", required = false, multiple = false, args = ["parquet", "csv", "json"])]
pub(super) struct Samples {
    /// A campaign, by name
    #[arg(value_name = "NAME")]
    name: CampaignName,
    /// Only this trial, CELL/REPEAT or CELL/REPEAT/HARDWARE
    #[arg(long, value_name = "ID")]
    trial: Option<TrialId>,
    /// Write one row per sample to a Parquet file (coordinator/README.md describes the columns). "-" is standard output
    #[arg(long, value_name = "OUT.parquet")]
    parquet: Option<PathBuf>,
    /// Write one row per sample to a CSV file. "-" is standard output
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Samples {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let attempts = self.attempts(&mut client).await?;
        match (&self.parquet, &self.csv) {
            (Some(path), _) => {
                let sink = Parquet::begin(out(path)?, self.name.as_str())?;
                self.export(&mut client, &attempts, sink).await
            }
            (None, Some(path)) => self.export(&mut client, &attempts, Csv::begin(out(path)?)?).await,
            (None, None) => {
                list::show(&self.name, &attempts, self.json.json);
                Ok(())
            }
        }
    }

    /// The attempts that are asked for.
    async fn attempts(&self, client: &mut OperatorClient<Channel>) -> Result<Vec<v1::SampledAttempt>, Failure> {
        let request = v1::SampledAttemptsRequest { campaign: self.name.to_string() };
        let mut stream = client.sampled_attempts(request).await?.into_inner();
        let mut attempts = Vec::new();
        let wanted = self.trial.as_ref().map(v1::TrialId::from);
        while let Some(attempt) = stream.message().await? {
            if wanted.is_none() || attempt.trial == wanted {
                attempts.push(attempt);
            }
        }
        match &self.trial {
            Some(trial) if attempts.is_empty() => Err(Failure::usage(format!(
                "campaign \"{}\" has no samples of a trial {trial}; `fleet samples {}` lists those that it has",
                self.name, self.name
            ))),
            _ => Ok(attempts),
        }
    }

    /// Writes all samples of these attempts, as they come.
    async fn export(
        &self,
        client: &mut OperatorClient<Channel>,
        attempts: &[v1::SampledAttempt],
        mut sink: impl Sink,
    ) -> Result<(), Failure> {
        let (mut samples, mut unknown) = (0, 0);
        let mut gaps: Vec<Gap> = Vec::new();
        for attempt in attempts {
            let trial = wire::trial(attempt.trial.clone()).map_err(|e| Failure::failed(e.to_string()))?;
            let mut rows = Rows::of(&trial, attempt.attempt);
            let request = v1::TrialSamplesRequest { trial: attempt.trial.clone(), attempt: attempt.attempt };
            let mut batches = client.trial_samples(request).await?.into_inner();
            while let Some(batch) = batches.message().await? {
                for row in rows.take(&batch)? {
                    sink.row(&row)?;
                    samples += 1;
                }
                if sink.is_closed() {
                    // A reader that has seen enough closes the pipe, which is no failure.
                    return Ok(());
                }
            }
            let (more, left_out) = rows.end(attempt.taken);
            gaps.extend(more);
            unknown += left_out;
        }
        sink.finish(&gaps)?;
        let missing: u64 = gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
        let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let written = count(samples, "sample");
        eprintln!("{}: {written} of {} written", self.name, count(attempts.len() as u64, "attempt"));
        if missing > 0 {
            eprintln!(
                "{} did not reach the coordinator, in {}",
                count(missing, "sample"),
                count(gaps.len() as u64, "gap")
            );
        }
        if unknown > 0 {
            let what = "of series that this version of fleet does not know were left out";
            eprintln!("{} {what}; use the coordinator's version", count(unknown, "sample"));
        }
        Ok(())
    }
}

/// Where it goes.
fn out(path: &Path) -> Result<Out, Failure> {
    if path == Path::new("-") { Ok(Out::standard()) } else { Out::file(path) }
}
