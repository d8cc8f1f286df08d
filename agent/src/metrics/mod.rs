//! What the agent tells Prometheus: the readings of trials at work, and what it has counted since its start.
//!
//! The loop that handles readings hands each of them over once ([`Watched::observe`]); the latest of each channel is
//! what a scrape sees. A reading that is not renewed, or whose trial is over, is absent rather than stale.

mod counts;
mod readings;
mod trial;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fleet_common::id::SlotId;
use fleet_common::plan::CellSettings;
use fleet_common::telemetry::Channel;
use fleet_common::wire::v1;
use fleet_observe::page::Page;
use fleet_observe::process;

pub use counts::Counts;

use crate::device::Slot;

/// Meters are read ten times a second; what is this old has not been read for a while.
const STALE: Duration = Duration::from_secs(10);

/// What waits in a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Samples that the coordinator has not acknowledged.
    pub samples: u64,
    /// Bytes of them in the file.
    pub bytes: u64,
    /// The disk refused some.
    pub refused: bool,
}

/// Says what waits in a spool.
type AskSpool = Box<dyn Fn() -> Waiting + Send>;

/// A trial in a slot.
struct Work {
    slot: Slot,
    settings: CellSettings,
    sensors: BTreeMap<Channel, String>,
    spool: AskSpool,
    readings: BTreeMap<Channel, (Instant, i64)>,
}

/// What of the daemon is looked at, apart from what it counts and reads.
#[derive(Debug, Default)]
pub struct Standing {
    /// How far the trials in the slots are.
    pub progress: Vec<v1::Progress>,
    /// Records that are not delivered yet.
    pub undelivered: u64,
}

/// The metrics of a daemon.
pub struct Metrics {
    /// What is counted.
    pub counts: Counts,
    agent: String,
    host: String,
    slots: Vec<Slot>,
    work: Mutex<BTreeMap<SlotId, Work>>,
}

impl Metrics {
    /// Of the agent `agent` on `host`, which offers `slots`.
    pub fn new(agent: &str, host: &str, slots: &[Slot]) -> Arc<Self> {
        Arc::new(Self {
            counts: Counts::default(),
            agent: agent.to_owned(),
            host: host.to_owned(),
            slots: slots.to_vec(),
            work: Mutex::default(),
        })
    }

    fn work(&self) -> MutexGuard<'_, BTreeMap<SlotId, Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A trial with these settings is at work in `slot`, until the guard is dropped; `sensors` are the names of hwmon's
    /// channels, and `spool` says what of its samples waits.
    pub fn begin(
        self: &Arc<Self>,
        slot: &Slot,
        settings: &CellSettings,
        sensors: BTreeMap<Channel, String>,
        spool: impl Fn() -> Waiting + Send + 'static,
    ) -> AtWork {
        let work = Work {
            slot: slot.clone(),
            settings: settings.clone(),
            sensors,
            spool: Box::new(spool),
            readings: BTreeMap::new(),
        };
        self.work().insert(slot.id.clone(), work);
        AtWork(self.watched(&slot.id))
    }

    /// Where readings of the trial in a slot go.
    pub fn watched(self: &Arc<Self>, slot: &SlotId) -> Watched {
        Watched { metrics: self.clone(), slot: slot.clone() }
    }

    /// The text for a scrape; `state` is the state folder.
    pub fn text(&self, standing: &Standing, state: &Path) -> String {
        let tables = [process::METRICS, readings::ALL, trial::ALL];
        let mut page = Page::of(tables.into_iter().flatten());
        process::put(&mut page, "fleet-agent", env!("CARGO_PKG_VERSION"), state);
        trial::slots(&mut page, &self.agent, &self.host, &self.slots);
        page.put(&trial::UNDELIVERED, [], standing.undelivered as f64);
        self.counts.silence().into_iter().for_each(|s| page.put(&trial::SILENCE, [], s.as_secs_f64()));
        let work = self.work();
        for slot in &self.slots {
            page.put(&trial::BUSY, [("slot", slot.id.as_str())], f64::from(u8::from(work.contains_key(&slot.id))));
        }
        for (slot, work) in work.iter() {
            let progress = standing.progress.iter().find(|p| p.slot == slot.as_str());
            trial::put(&mut page, &work.slot, &work.settings, (work.spool)(), progress);
            for (channel, (_, value)) in work.readings.iter().filter(|(_, (at, _))| at.elapsed() < STALE) {
                let sensor = work.sensors.get(channel).map(String::as_str);
                readings::put(&mut page, &self.host, &work.slot, *channel, sensor, *value);
            }
        }
        drop(work);
        page.text(self.counts.registry())
    }
}

/// What an agent shows that has no slot: every metric is declared in it.
pub fn declared() -> String {
    Metrics::new("", "", &[]).text(&Standing::default(), Path::new("/"))
}

/// Takes readings of the trial in one slot.
#[derive(Clone)]
pub struct Watched {
    metrics: Arc<Metrics>,
    slot: SlotId,
}

impl Watched {
    /// The latest reading of a channel, in the unit that its series names.
    pub fn observe(&self, channel: Channel, value: i64) {
        if let Some(work) = self.metrics.work().get_mut(&self.slot) {
            work.readings.insert(channel, (Instant::now(), value));
        }
    }
}

/// A trial at work; dropped, it is over.
pub struct AtWork(Watched);

impl AtWork {
    /// Its meters are no longer read.
    pub fn meters_end(&self) {
        if let Some(work) = self.0.metrics.work().get_mut(&self.0.slot) {
            work.readings.clear();
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.metrics.work().remove(&self.0.slot);
    }
}

#[cfg(test)]
mod tests;
