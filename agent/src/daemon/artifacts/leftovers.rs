//! States that a daemon saved and was killed before it could hand them over.

use std::collections::HashMap;
use std::time::Duration;

use fleet_common::id::TrialId;
use fleet_common::record::PhaseRecord;

use super::Whose;
use super::handover::{Origin, acknowledged, late};
use crate::daemon::Shared;
use crate::daemon::resume::States;
use crate::daemon::spool::LeftBehind;

/// All of them together may take so long; nothing is trained here meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Hands over what an earlier daemon left, before anybody asks for work: so that whoever goes on with the trial goes on
/// from the latest state. Returns the trials with which another machine has gone on already, and the phases up to the
/// state that it had; what was done here after that is lost, and its state is removed.
pub(in crate::daemon) async fn hand_over_leftovers(
    shared: &Shared,
    left: &[LeftBehind],
) -> HashMap<TrialId, Vec<PhaseRecord>> {
    if !shared.artifacts.is_there() {
        return HashMap::new();
    }
    let mut overtaken = HashMap::new();
    let all = async {
        for left in left.iter().filter(|l| !l.has_ended) {
            let (trial, attempt) = left.spool.whose();
            if let Some(false) = hand_over(shared, left, trial, attempt).await {
                let known = acknowledged(&shared.options.state, trial);
                States::of(&shared.options.state, trial).remove();
                overtaken.insert(trial.clone(), known.map(|carried| carried.phases).unwrap_or_default());
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, all).await;
    if outcome.is_err() {
        tracing::warn!("states from before the restart could not be handed over in time; they are kept here");
    }
    overtaken
}

/// Whether the coordinator took note of the state; `None` if there is nothing to tell, or it could not be told.
async fn hand_over(
    shared: &Shared,
    left: &LeftBehind,
    trial: &TrialId,
    attempt: fleet_common::id::Attempt,
) -> Option<bool> {
    let slot = shared.slots.iter().find(|s| s.id == left.slot)?;
    let states = States::of(&shared.options.state, trial);
    let (file, carried) = states.latest()?;
    let is_known = acknowledged(&shared.options.state, trial).is_some_and(|a| a.place() >= carried.place());
    if is_known || carried.place().0 != attempt || !carried.is_of(&slot.hardware) {
        return None;
    }
    let whose = Whose { trial: trial.clone(), attempt };
    let origin = Origin { whose, slot: slot.id.clone(), hardware: slot.hardware.clone(), states };
    match late(shared, &origin, &file, &carried).await {
        Ok(told) => {
            tracing::info!(%trial, step = carried.step, accepted = told.is_ok(), "a state from before the restart was handed over");
            Some(told.is_ok())
        }
        Err(error) => {
            tracing::warn!(%trial, "a state from before the restart could not be handed over: {error:#}");
            None
        }
    }
}
