//! What is stored beside what was sent, sample by sample.

use std::ops::AddAssign;

use fleet_common::wire::{self, MAX_MESSAGE_BYTES, v1};
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use tonic::transport::Channel;

use super::machines::{Held, said};
use super::{Load, readings};

/// What was found of some trials' samples.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Stored, each number once.
    pub stored: u64,
    /// Numbers that are not there.
    pub lost: u64,
    /// Stored again.
    pub doubled: u64,
    /// Stored with another time, series or value than was sent.
    pub changed: u64,
}

impl AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.changed += other.changed;
    }
}

/// Reads a trial's samples back and compares them.
///
/// # Errors
/// The coordinator does not give them out.
pub async fn check(channel: Channel, held: &Held, trial: usize, load: &Load) -> Result<Found, String> {
    let mut client = OperatorClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let request = v1::TrialSamplesRequest { trial: Some(held.trial.clone()), attempt: held.attempt };
    let mut batches = client.trial_samples(request).await.map_err(said)?.into_inner();
    let mut seen = vec![false; load.per_trial() as usize];
    let mut found = Found::default();
    while let Some(batch) = batches.message().await.map_err(said)? {
        for sample in wire::samples(&batch).map_err(|e| e.to_string())? {
            match seen.get_mut(sample.number as usize) {
                Some(seen) if !*seen => {
                    *seen = true;
                    found.stored += 1;
                }
                _ => found.doubled += 1,
            }
            found.changed += u64::from(sample != readings::sample(trial, sample.number, load.hertz));
        }
    }
    found.lost = load.per_trial() - found.stored;
    Ok(found)
}
