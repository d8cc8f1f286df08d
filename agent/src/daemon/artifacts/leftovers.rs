//! States that a daemon saved and was killed before it could hand them over.

use std::collections::HashMap;
use std::time::Duration;

use fleet_common::id::TrialId;
use fleet_common::record::PhaseRecord;

use super::handover::{Origin, acknowledged, late};
use super::{NotWanted, Whose};
use crate::daemon::Shared;
use crate::daemon::resume::States;
use crate::daemon::spool::LeftBehind;

/// All of them together may take so long at most; nothing is trained here meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// And no longer than so many heartbeats, because none is sent meanwhile: leases of records that are still to be
/// delivered last for more.
const HEARTBEATS: u32 = 4;

/// Hands over what an earlier daemon left, before anybody here asks for work: whoever goes on with the trial later goes on
/// from the latest state. (A machine that was waiting for work has been lent it already when the coordinator hears that
/// this agent was restarted.) Returns the trials with which another machine has gone on, and the phases up to the state
/// that it had; what was done here after that is lost, and its state is removed.
pub(in crate::daemon) async fn hand_over_leftovers(
    shared: &Shared,
    left: &[LeftBehind],
    heartbeat: Duration,
) -> HashMap<TrialId, Vec<PhaseRecord>> {
    if !shared.artifacts.is_there() {
        return HashMap::new();
    }
    let mut overtaken = HashMap::new();
    let all = async {
        for left in left.iter().filter(|l| !l.has_ended) {
            let (trial, attempt) = left.spool.whose();
            if let Some(Told::Overtaken) = hand_over(shared, left, trial, attempt).await {
                let known = acknowledged(&shared.options.state, trial);
                States::of(&shared.options.state, trial).remove();
                overtaken.insert(trial.clone(), known.map(|carried| carried.phases).unwrap_or_default());
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE.min(heartbeat * HEARTBEATS), all).await;
    if outcome.is_err() {
        tracing::warn!("states from before the restart could not be handed over in time; they are kept here");
    }
    overtaken
}

/// What became of a state.
enum Told {
    /// The coordinator took note of it, or may want it later.
    Stays,
    /// Somebody else has gone on.
    Overtaken,
}

/// Hands over the state of one trial; `None` if there is nothing to tell, or it could not be told.
async fn hand_over(
    shared: &Shared,
    left: &LeftBehind,
    trial: &TrialId,
    attempt: fleet_common::id::Attempt,
) -> Option<Told> {
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
        Ok(Ok(())) => {
            tracing::info!(%trial, step = carried.step, "a state from before the restart was handed over");
            Some(Told::Stays)
        }
        Ok(Err(NotWanted { reason, overtaken })) => {
            tracing::info!(%trial, step = carried.step, reason, "a state from before the restart is not wanted");
            Some(if overtaken { Told::Overtaken } else { Told::Stays })
        }
        Err(error) => {
            tracing::warn!(%trial, "a state from before the restart could not be handed over: {error:#}");
            None
        }
    }
}
