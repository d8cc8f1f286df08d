//! Slots, the trials in them, and what waits to be delivered.

use fleet_common::plan::CellSettings;
use fleet_common::wire::v1;
use fleet_observe::page::Page;

use super::Waiting;
use crate::device::Slot;

fleet_observe::metrics! {
    SLOT = Gauge "fleet_slot_info", "A slot of this agent: its hardware class and its agent; always 1";
    MEMORY = Gauge "fleet_slot_memory_bytes", "Memory of the slot's device, in bytes";
    BUSY = Gauge "fleet_slot_busy", "Whether a trial is at work in the slot: 1 or 0";
    PHASE = Gauge "fleet_trial_phase", "The phase that a trial is in; always 1";
    PROGRESS = Gauge "fleet_trial_progress_ratio", "Done share of the phase that a trial is in, 0 to 1";
    LOSS = Gauge "fleet_trial_loss", "Latest training loss of a trial";
    BUDGET = Gauge "fleet_trial_budget_bytes", "Most bytes that a trial's tensors may hold; absent without a cap";
    SPOOLED = Gauge "fleet_spool_samples_waiting", "Samples that the coordinator has not acknowledged";
    SPOOLED_BYTES = Gauge "fleet_spool_waiting_bytes", "Bytes of those samples in the spool file";
    REFUSED = Gauge "fleet_spool_refused", "Whether the disk refused samples of the trial, which are gone: 1 or 0";
    UNDELIVERED = Gauge "fleet_outbox_records", "Finished records that the coordinator has not confirmed";
    SILENCE = Gauge "fleet_coordinator_silence_seconds", "Time since the coordinator last answered, in seconds";
}

/// Puts the slots on a page.
pub(super) fn slots(page: &mut Page, agent: &str, host: &str, slots: &[Slot]) {
    for slot in slots {
        let id = ("slot", slot.id.as_str());
        page.put(&SLOT, [id, ("agent", agent), ("host", host), ("hardware", slot.hardware.as_str())], 1.0);
        page.put(&MEMORY, [id], slot.memory_bytes as f64);
    }
}

/// Puts a trial on a page.
pub(super) fn put(
    page: &mut Page,
    slot: &Slot,
    settings: &CellSettings,
    waiting: Waiting,
    progress: Option<&v1::Progress>,
) {
    let id = ("slot", slot.id.as_str());
    let of = [
        id,
        ("method", settings.method.method().name()),
        ("backbone", settings.backbone.name()),
        ("checkpointing", settings.checkpointing.name()),
        ("dataset", settings.dataset.name.as_str()),
    ];
    if let Some(progress) = progress {
        let [slot, method, backbone, checkpointing, dataset] = of;
        page.put(&PHASE, [slot, method, backbone, checkpointing, dataset, ("phase", &progress.phase)], 1.0);
        if progress.of > 0 {
            page.put(&PROGRESS, of, progress.done as f64 / progress.of as f64);
        }
        progress.loss.into_iter().for_each(|loss| page.put(&LOSS, of, loss));
    }
    settings.budget_bytes.into_iter().for_each(|budget| page.put(&BUDGET, of, budget as f64));
    page.put(&SPOOLED, [id], waiting.samples as f64);
    page.put(&SPOOLED_BYTES, [id], waiting.bytes as f64);
    page.put(&REFUSED, [id], f64::from(u8::from(waiting.refused)));
}
