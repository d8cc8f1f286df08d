//! Messages, as they come from a network or a file.

use fleet_common::id::TrialId;
use fleet_common::lease::Millis;
use fleet_common::telemetry::Sample;
use fleet_common::wire::{self, v1};
use fleet_coordinator::core::{Event, Restored, State};
use prost::Message;

/// The first byte says which message the others are. What can be read is the same when it has been written again.
pub fn messages(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => v1::TrialId::decode(bytes).map_or((), trial),
        1 => v1::HeldLease::decode(bytes).map_or((), lease),
        2 => v1::SampleBatch::decode(bytes).map_or((), |batch| samples(&batch)),
        3 => v1::JournalEvent::decode(bytes).map_or((), event),
        4 => v1::PlannedCell::decode(bytes).map_or((), |cell| settings(&cell)),
        _ => parts(bytes),
    }
}

fn trial(message: v1::TrialId) {
    let Ok(id) = TrialId::try_from(message) else { return };
    assert_eq!(wire::trial(Some((&id).into())).as_ref(), Ok(&id));
    assert_eq!(id.to_string().parse::<TrialId>().as_ref(), Ok(&id));
}

fn lease(message: v1::HeldLease) {
    let agent = "agent-1".parse().expect("a name");
    if let Ok((trial, attempt, holder)) = wire::lease(&agent, message) {
        let again =
            v1::HeldLease { trial: Some((&trial).into()), attempt: attempt.get(), slot: holder.slot.to_string() };
        assert_eq!(wire::lease(&agent, again), Ok((trial, attempt, holder)));
    }
}

fn samples(message: &v1::SampleBatch) {
    let Ok(samples) = wire::samples(message) else { return };
    let numbers = |s: &[Sample]| s.iter().map(|s| s.number).collect::<Vec<_>>();
    let is_whole = samples.len() == message.at_nanos.len();
    if let (true, Ok(trial), Ok(attempt)) = (is_whole, wire::trial(message.trial.clone()), message.attempt.try_into()) {
        let again = wire::batch(&trial, attempt, &samples, message.wall_offset_nanos, &message.boot_id);
        let there = wire::samples(&again).expect("our own batch");
        assert_eq!((numbers(&there), &there), (numbers(&samples), &samples));
    }
}

fn event(message: v1::JournalEvent) {
    let at = message.at_unix_ms;
    let Ok(event) = Event::from_journal(message) else { return };
    // Compared as bytes, where a number that is none is equal to itself.
    let written = event.to_journal(at).encode_to_vec();
    let read = v1::JournalEvent::decode(&*written).expect("our own message");
    let again = Event::from_journal(read).expect("our own event").to_journal(at).encode_to_vec();
    assert_eq!(written, again);
}

fn settings(message: &v1::PlannedCell) {
    let Ok(cell) = message.cell.parse() else { return };
    if let Ok(settings) = wire::settings(&cell, &message.settings_json) {
        assert_eq!(settings.id(), cell);
    }
}

/// Parts of a snapshot, each behind its length.
fn parts(mut bytes: &[u8]) {
    let mut restored = Restored::default();
    while let Ok(part) = v1::SnapshotPart::decode_length_delimited(&mut bytes) {
        let Some(part) = part.part else { break };
        if restored.add(part, Millis(0)).is_err() {
            return;
        }
    }
    let state = restored.finish();
    assert!(snapshot(&state).is_ok(), "what was read from a snapshot can be written to one and read again");
}

/// A state that has been through a snapshot.
pub(crate) fn snapshot(state: &State) -> Result<State, String> {
    let mut restored = Restored::default();
    state.parts(|part| {
        let bytes = v1::SnapshotPart { part: Some(part) }.encode_to_vec();
        let part = v1::SnapshotPart::decode(&*bytes).map_err(|e| e.to_string())?.part.ok_or("no part")?;
        restored.add(part, Millis(0)).map_err(|e| e.to_string())
    })?;
    Ok(restored.finish())
}
