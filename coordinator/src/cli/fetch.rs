//! Everything about a campaign that a report needs, from the coordinator.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::canonical;
use fleet_common::compare::{Comparison, Preparation, compare};
use fleet_common::id::TrialId;
use fleet_common::plan::{CellSettings, Excluded};
use fleet_common::record::{Outcome, Record, Waste};
use fleet_common::score::Exponents;
use fleet_common::telemetry::Sample;
use fleet_common::wire::v1;
use tonic::Code;
use tonic::transport::Channel;

use super::Failure;
use super::records::{Held, held};
use crate::service::rpc::operator_client::OperatorClient;
use crate::store::flatten;

/// What the coordinator knows of a campaign.
pub(super) struct Fetched {
    pub campaign: v1::CampaignReply,
    pub status: v1::CampaignStatus,
    pub excluded: Vec<Excluded>,
    pub records: Vec<Record>,
    /// Energy of attempts that is in no record.
    pub wasted: Vec<Waste>,
    pub superseded: usize,
    pub comparison: Comparison,
    pub samples: BTreeMap<TrialId, Vec<Sample>>,
}

/// Fetches it. Samples come for one trial of each group only: that is what is drawn.
pub(super) async fn fetch(
    client: &mut OperatorClient<Channel>,
    name: &str,
    with_samples: bool,
    preparation: Preparation,
) -> Result<Fetched, Failure> {
    let campaign = client.campaign(v1::CampaignRequest { campaign: name.to_owned() }).await?.into_inner();
    let status = client.status(v1::StatusRequest { campaign: Some(name.to_owned()) }).await?.into_inner();
    let status = status.campaigns.into_iter().next().unwrap_or_default();
    let Held { records, superseded, .. } = held(client, name).await?;
    let mut samples = BTreeMap::new();
    if with_samples {
        for record in representatives(&records) {
            let request =
                v1::TrialSamplesRequest { trial: Some((&record.trial).into()), attempt: record.attempt.get() };
            let mut stream = match client.trial_samples(request).await {
                Ok(stream) => stream.into_inner(),
                // Removed by retention: the report lacks that trial's traces, and no more.
                Err(status) if status.code() == Code::FailedPrecondition => continue,
                Err(status) => return Err(status.into()),
            };
            let mut batches = Vec::new();
            while let Some(batch) = stream.message().await? {
                batches.push(batch);
            }
            samples.insert(record.trial.clone(), flatten(&batches));
        }
    }
    // Written by a coordinator of another version, an entry may not be readable; the report then lacks that line.
    let excluded = campaign.excluded_json.iter().filter_map(|e| serde_json::from_str(e).ok()).collect();
    let wasted = campaign.wasted_json.iter().filter_map(|w| Waste::from_json(w).ok()).collect();
    let comparison = compare(&records, &Exponents::default(), preparation);
    Ok(Fetched { campaign, status, excluded, records, wasted, superseded, comparison, samples })
}

/// The completed trial with the lowest seed of each group.
fn representatives(records: &[Record]) -> Vec<&Record> {
    let mut completed: Vec<&Record> = records.iter().filter(|r| r.outcome == Outcome::Completed).collect();
    completed.sort_by_key(|r| (r.settings.seed, r.trial.repeat));
    let mut seen = BTreeSet::new();
    completed.retain(|r| {
        let shared = CellSettings { seed: 0, ..r.settings.clone() };
        seen.insert((canonical::json(&shared), r.machine.hardware.clone()))
    });
    completed
}
