//! Going on from a state that another machine has left.

use anyhow::{Context as _, ensure};

use super::bundle;
use super::handover::note_acknowledged;
use crate::daemon::Shared;
use crate::daemon::resume::{Carried, States};
use crate::daemon::trial::{Lease, StoredState};
use crate::device::Slot;

/// Brings the latest state of the lease's trial here, if it is not. Returns why the trial starts over, if it does
/// although there was a state.
pub(in crate::daemon) async fn take_over(
    shared: &Shared,
    slot: &Slot,
    lease: &Lease,
    states: &States,
) -> Option<String> {
    let mut refused = None;
    let mut local = states.latest();
    if let Some((_, carried)) = local.take_if(|(_, carried)| !carried.is_of(&slot.hardware)) {
        states.remove();
        refused = Some(carried.of_other_hardware());
    }
    let Some(stored) = &lease.resume else {
        return refused.or_else(|| lease.starts_over.clone().filter(|_| local.is_none()));
    };
    if local.as_ref().is_some_and(|(_, carried)| carried.place() >= (stored.attempt, stored.step)) {
        return None;
    }
    match fetch(shared, slot, stored, states).await {
        Ok(()) => {
            tracing::info!(attempt = %stored.attempt, step = stored.step, "going on from the state of another attempt");
            None
        }
        Err(error) => {
            let why = format!(
                "the state that attempt {} left at step {} could not be used: {error:#}",
                stored.attempt, stored.step
            );
            tracing::warn!("{why}");
            // An older one that is here is better than none.
            refused.or(Some(why)).filter(|_| local.is_none())
        }
    }
}

/// Fetches it, looks whether it is what the lease says, and puts it where states are.
async fn fetch(shared: &Shared, slot: &Slot, stored: &StoredState, states: &States) -> anyhow::Result<()> {
    let dir = states.dir().to_owned();
    tokio::fs::create_dir_all(&dir).await.with_context(|| dir.display().to_string())?;
    let bundle = dir.join("fetched.tar");
    let bytes = shared.artifacts.get(&stored.name, &bundle).await?;
    shared.metrics.counts.artifact_bytes_received.inc_by(bytes);
    ensure!(bytes == stored.bytes, "expected {} bytes, found {bytes}", stored.bytes);
    let (states, hardware, place) = (states.clone(), slot.hardware.clone(), (stored.attempt, stored.step));
    let unpacking = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let state = dir.join(format!("state-{}.safetensors", place.1));
        let carried = bundle::unpack(&bundle, &state).map_err(anyhow::Error::msg)?;
        let _ = std::fs::remove_file(&bundle);
        let json = carried;
        let carried = Carried::read(&json).map_err(anyhow::Error::msg)?;
        ensure!(carried.is_of(&hardware), "{}", carried.of_other_hardware());
        ensure!(
            carried.place() == place,
            "expected step {} of attempt {}, found step {} of attempt {}",
            place.1,
            place.0,
            carried.place().1,
            carried.place().0
        );
        states.complete(&state, &carried).with_context(|| state.display().to_string())?;
        note_acknowledged(&states, &json).context("the state is here, and cannot be noted")
    });
    unpacking.await?
}
