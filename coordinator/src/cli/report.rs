//! The comparison of a campaign: as a table, as JSON, as a page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use fleet_common::compare::{Comparison, Preparation, Total, totals};
use fleet_common::plan::Excluded;
use fleet_common::record::Waste;
use serde::Serialize;
use tonic::transport::Channel;

use super::fetch::{Fetched, fetch};
use super::{Coordinator, Failure, Json, Named, client, files, print_json, terminal_width};
use crate::report::{self, ReportInput};
use crate::service::rpc::operator_client::OperatorClient;

/// `fleet report`.
#[derive(Debug, Args)]
pub(super) struct Report {
    #[command(flatten)]
    named: Named,
    /// Also write a self-contained HTML page
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

/// On what terms costs are told.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Terms {
    #[command(flatten)]
    carbon: Carbon,
    #[command(flatten)]
    counting: Counting,
}

/// What counts as inference.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Counting {
    /// Count what a model that is not trained prepares before its first image as part of its inference: features of the
    /// training images and a probe on them, or embeddings of descriptions of the classes. Else they stand apart
    #[arg(long)]
    count_preparation: bool,
}

impl Counting {
    pub(super) const fn preparation(self) -> Preparation {
        if self.count_preparation { Preparation::Counted } else { Preparation::Apart }
    }
}

/// What the electricity is made of.
#[derive(Debug, Clone, Copy, Args)]
struct Carbon {
    /// Grams of CO2-equivalent per kilowatt-hour of your electricity, to have emissions beside joules; none are assumed
    #[arg(long, env = "FLEET_GRAMS_PER_KWH", value_name = "G", value_parser = grams_per_kwh)]
    grams_per_kwh: Option<f64>,
}

fn grams_per_kwh(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(grams) if (0.0..=5000.0).contains(&grams) => Ok(grams),
        _ => Err(format!("expected grams per kilowatt-hour from 0 to 5000, found \"{text}\"")),
    }
}

impl Report {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let name = self.named.campaign.to_string();
        show(&mut client, &name, self.html.as_deref(), self.terms, self.json.json).await?;
        if let (Some(path), false) = (&self.html, self.json.json) {
            say!("Report: {}", path.display());
        }
        Ok(())
    }
}

/// Prints the comparison, and writes the page if one is wanted.
pub(super) async fn show(
    client: &mut OperatorClient<Channel>,
    name: &str,
    html: Option<&Path>,
    terms: Terms,
    json: bool,
) -> Result<Fetched, Failure> {
    let carbon = terms.carbon;
    let fetched = fetch(client, name, html.is_some(), terms.counting.preparation()).await?;
    if let Some(path) = html {
        files::write(path, "the report", page(&fetched, carbon).as_bytes())?;
    }
    if json {
        print_json(&Document::new(&fetched, carbon));
    } else {
        let width = terminal_width();
        say!("{}", report::table(&fetched.comparison, &fetched.records, width));
        for line in report::energy_in_all(&fetched.records, &fetched.wasted, carbon.grams_per_kwh) {
            say!("{line}");
        }
        for lost in &fetched.campaign.given_up {
            say!("given up: {}: {}", lost.label, lost.reason);
        }
    }
    Ok(fetched)
}

/// The `--json` form.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    campaign: &'a str,
    /// Trials that the campaign asks for.
    asked: u64,
    waiting: u64,
    running: u64,
    cancelled: u64,
    /// Ended trials by class of outcome.
    finished: BTreeMap<&'a str, u64>,
    /// Reports of former lease holders, outside the statistics.
    superseded: usize,
    warnings: &'a [String],
    excluded: &'a [Excluded],
    comparison: &'a Comparison,
    /// Energy of all trials, per domain.
    energy: Vec<Total>,
    /// Energy of attempts that is in no record.
    wasted: &'a [Waste],
    grams_per_kwh: Option<f64>,
}

impl<'a> Document<'a> {
    fn new(f: &'a Fetched, carbon: Carbon) -> Self {
        Self {
            schema: "fleet.report/1",
            campaign: &f.campaign.campaign,
            asked: f.campaign.trials,
            waiting: f.status.waiting,
            running: f.status.leased,
            cancelled: f.status.cancelled,
            finished: f.status.finished.iter().map(|c| (c.class.as_str(), c.count)).collect(),
            superseded: f.superseded,
            warnings: &f.campaign.warnings,
            excluded: &f.excluded,
            comparison: &f.comparison,
            energy: totals(&f.records, &f.wasted),
            wasted: &f.wasted,
            grams_per_kwh: carbon.grams_per_kwh,
        }
    }
}

fn page(f: &Fetched, carbon: Carbon) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let given_up: Vec<(String, String)> =
        f.campaign.given_up.iter().map(|g| (g.label.clone(), g.reason.clone())).collect();
    report::html(&ReportInput {
        campaign: &f.campaign.campaign,
        generated_unix_ms: now.as_millis() as u64,
        version: env!("CARGO_PKG_VERSION"),
        toml: &f.campaign.toml,
        asked: f.campaign.trials,
        waiting: f.status.waiting,
        running: f.status.leased,
        cancelled: f.status.cancelled,
        excluded: &f.excluded,
        warnings: &f.campaign.warnings,
        comparison: &f.comparison,
        records: &f.records,
        samples: &f.samples,
        given_up: &given_up,
        wasted: &f.wasted,
        grams_per_kwh: carbon.grams_per_kwh,
        superseded: f.superseded,
    })
}
