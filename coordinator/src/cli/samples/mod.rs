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
use fleet_chart::numbers::utc;
use fleet_common::id::{CampaignName, TrialId};
use fleet_common::wire::{self, v1};
use tonic::transport::Channel;

use self::csv::Csv;
use self::parquet::Parquet;
use self::rows::{Gone, Missing, Rows};
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
        let Some(path) = self.parquet.as_ref().or(self.csv.as_ref()) else {
            list::show(&self.name, &attempts, self.json.json);
            return Ok(());
        };
        self.something_is_left(&attempts)?;
        let out = if path == Path::new("-") { Out::standard() } else { Out::file(path)? };
        if self.parquet.is_some() {
            let sink = Parquet::begin(out, self.name.as_str())?;
            self.export(&mut client, &attempts, sink).await
        } else {
            self.export(&mut client, &attempts, Csv::begin(out)?).await
        }
    }

    /// An empty file would say that nothing was measured.
    fn something_is_left(&self, attempts: &[v1::SampledAttempt]) -> Result<(), Failure> {
        let last = attempts.iter().filter_map(|a| a.removed.as_ref()).max_by_key(|removed| removed.unix_ms);
        match last {
            Some(v1::SamplesRemoved { unix_ms, rule }) if attempts.iter().all(|a| a.bytes.is_none()) => {
                let of = self.trial.as_ref().map_or_else(|| self.name.to_string(), |trial| format!("trial {trial}"));
                Err(Failure::usage(format!(
                    "the samples of {of} were removed on {}: the coordinator runs with {rule}",
                    utc(*unix_ms)
                )))
            }
            _ => Ok(()),
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
        let (mut samples, mut written, mut unknown) = (0, 0, 0);
        let mut missing = Missing::default();
        for attempt in attempts {
            let trial = wire::trial(attempt.trial.clone()).map_err(|e| Failure::failed(e.to_string()))?;
            if let Some(removed) = &attempt.removed {
                let (trial, v1::SamplesRemoved { unix_ms, rule }) = (trial.to_string(), removed.clone());
                missing.removed.push(Gone { trial, attempt: attempt.attempt, unix_ms, rule });
            }
            if attempt.bytes.is_none() {
                continue;
            }
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
            let (gaps, left_out) = rows.end(attempt.taken);
            missing.gaps.extend(gaps);
            written += 1;
            unknown += left_out;
        }
        sink.finish(&missing)?;
        self.conclude(written, samples, unknown, &missing);
        Ok(())
    }

    /// Says what was written, and what could not be.
    fn conclude(&self, attempts: u64, samples: u64, unknown: u64, missing: &Missing) {
        let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        eprintln!("{}: {} of {} written", self.name, count(samples, "sample"), count(attempts, "attempt"));
        let lost: u64 = missing.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
        if lost > 0 {
            let gaps = count(missing.gaps.len() as u64, "gap");
            eprintln!("{} did not reach the coordinator, or are not kept any more, in {gaps}", count(lost, "sample"));
        }
        if !missing.removed.is_empty() {
            let attempts = count(missing.removed.len() as u64, "attempt");
            eprintln!(
                "samples of {attempts} were removed by the coordinator's retention: `fleet samples {}`",
                self.name
            );
        }
        if unknown > 0 {
            let what = "of series that this version of fleet does not know were left out";
            eprintln!("{} {what}; use the coordinator's version", count(unknown, "sample"));
        }
    }
}
