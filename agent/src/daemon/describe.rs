//! What this agent says of its slots, and telling of faults.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_common::id::SlotId;
use fleet_common::record::{Outcome, Record};
use fleet_common::wire::v1;
use tokio::sync::Notify;

use super::Shared;
use crate::device::{GpuSlot, Slot};

/// The longest that a crash's record waits for the coordinator to hear whose fault it was.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wrong with slots' devices.
#[derive(Debug, Default)]
pub(super) struct Faults {
    known: Mutex<HashMap<SlotId, String>>,
    /// The coordinator has not heard of all of them.
    news: AtomicBool,
    told: Notify,
}

impl Faults {
    fn get(&self) -> MutexGuard<'_, HashMap<SlotId, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent has to introduce itself again, so that the coordinator hears; it does then.
    pub(super) fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::SeqCst)
    }

    /// The coordinator has heard.
    pub(super) fn introduced(&self) {
        self.told.notify_waiters();
    }

    /// Notes a fault; whether it is news.
    fn note(&self, slot: &SlotId, fault: String) -> bool {
        let news = self.get().get(slot) != Some(&fault);
        if news {
            tracing::error!(%slot, "the device is at fault: {fault}");
            self.get().insert(slot.clone(), fault);
            self.news.store(true, Ordering::SeqCst);
        }
        news
    }
}

/// A slot as the coordinator is told of it.
pub(super) fn slot(shared: &Shared, slot: &Slot) -> v1::Slot {
    let options = &shared.options;
    let gpu = slot.gpu.as_ref().map(|g| &g.gpu);
    let unlabelled = options.label.as_ref().and_then(|label| {
        let ending = format!(" [{}]", label.as_str());
        slot.hardware.as_str().strip_suffix(&ending)
    });
    v1::Slot {
        slot: slot.id.to_string(),
        hardware: slot.hardware.to_string(),
        memory_bytes: slot.memory_bytes,
        model: gpu.map_or(unlabelled.unwrap_or(slot.hardware.as_str()), |g| &g.name).to_owned(),
        driver: gpu.map(|g| g.driver.clone()).unwrap_or_default(),
        compute_capability: gpu.map(|g| g.compute_capability.clone()).unwrap_or_default(),
        tags: options.tags.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        limit_bytes: options.limits.iter().find(|l| l.slot == slot.id).map(|l| l.memory.0),
        fault: shared.faults.get().get(&slot.id).cloned().unwrap_or_default(),
    }
}

/// After a trial crashed: if it was the device, the coordinator is told before it is told of the crash, so that it knows
/// whose fault that was.
pub(super) async fn look(shared: &Shared, record: &Record) {
    let slot = shared.slots.iter().find(|s| s.id == record.machine.slot);
    let Some(slot) = slot.filter(|_| matches!(record.outcome, Outcome::Crashed { .. })) else { return };
    let told = shared.faults.told.notified();
    if read(shared, slot) {
        let _ = tokio::time::timeout(PATIENCE, told).await;
    }
}

/// Reads the counters of a slot's board; whether they tell something new.
fn read(shared: &Shared, slot: &Slot) -> bool {
    let fault = slot.gpu.as_ref().zip(shared.nvidia.as_ref()).and_then(|(gpu, nvidia)| nvidia.fault(gpu));
    fault.is_some_and(|fault| shared.faults.note(&slot.id, fault))
}

/// Reads all counters once, then lets a thread wait for what the driver reports.
pub(super) fn watch(shared: &Arc<Shared>) {
    for slot in &shared.slots {
        read(shared, slot);
    }
    let gpus: Vec<(SlotId, GpuSlot)> =
        shared.slots.iter().filter_map(|s| Some((s.id.clone(), s.gpu.clone()?))).collect();
    let Some(nvidia) = shared.nvidia.clone().filter(|_| !gpus.is_empty()) else { return };
    let shared = shared.clone();
    let waiting = move || {
        let boards: Vec<GpuSlot> = gpus.iter().map(|(_, gpu)| gpu.clone()).collect();
        nvidia.watch(&boards, |fault| {
            let slot = fault.as_ref().and_then(|(gpu, _)| gpus.iter().find(|(_, g)| g.index == gpu.index));
            if let (Some((_, fault)), Some((slot, _))) = (fault, slot) {
                shared.faults.note(slot, fault);
            }
            !shared.is_stopping()
        });
    };
    if let Err(error) = std::thread::Builder::new().name("faults".to_owned()).spawn(waiting) {
        tracing::warn!(%error, "the driver's reports about boards are not waited for");
    }
}
