//! Energy that attempts took and that is in no record, on its way to the coordinator. It outlives the daemon, as records
//! do: a crash is what most of it comes from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_common::energy::Readings;
use fleet_common::id::{AgentId, Attempt, TrialId};
use fleet_common::record::{Energy, PhaseRecord, Reading, Record, Waste as Document};
use fleet_common::wire::v1;

use super::Shared;
use super::connection::answer;
use super::resume::States;
use crate::device::Slot;
use crate::meter::{Account, Covered};

/// How often what could not be told is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Told in one message.
const AT_ONCE: usize = 500;

/// What was wasted, before it is known who tells it.
pub(super) struct Waste {
    trial: TrialId,
    attempt: Attempt,
    hardware: fleet_common::id::HardwareClass,
    energy: Energy,
    seconds: f64,
    reason: String,
}

impl Waste {
    pub(super) fn new(
        slot: &Slot,
        trial: &TrialId,
        attempt: Attempt,
        energy: Energy,
        seconds: f64,
        reason: &str,
    ) -> Self {
        let (trial, hardware) = (trial.clone(), slot.hardware.clone());
        Self { trial, attempt, hardware, energy, seconds, reason: reason.to_owned() }
    }

    /// What a record that nobody counts has measured, but for what is in the state that a later attempt may go on from;
    /// `None` where it has measured nothing.
    pub(super) fn of_record(state: &Path, record: &Record, reason: String) -> Option<Self> {
        let (mut energy, mut seconds) = sum(&record.phases)?;
        let goes_on = !record.outcome.kind().is_result();
        let carried = States::of(state, &record.trial).latest().filter(|_| goes_on);
        if let Some((kept, kept_seconds)) = carried.and_then(|(_, carried)| sum(&carried.phases)) {
            energy.joules = (energy.joules - kept.joules).max(0.0);
            if let (Reading::Measured(all), Reading::Measured(some)) = (&mut energy.above_idle, &kept.above_idle) {
                *all -= some;
            }
            seconds -= kept_seconds;
        }
        Some(Self {
            trial: record.trial.clone(),
            attempt: record.attempt,
            hardware: record.machine.hardware.clone(),
            seconds: seconds.max(0.0),
            energy,
            reason,
        })
    }

    /// What an attempt of a daemon that is gone has left in its spool: all of it, but what went into a state.
    pub(super) fn left_behind(
        state: &Path,
        slot: &Slot,
        covered: &Covered,
        trial: &TrialId,
        attempt: Attempt,
        readings: &Readings,
    ) -> Option<Self> {
        let carried = States::of(state, trial).latest();
        let kept = carried.as_ref().map_or(&[][..], |(_, c)| &c.phases);
        let (energy, seconds) = Account { readings, covered }.wasted(attempt, kept)?;
        Some(Self::new(slot, trial, attempt, energy, seconds, "the agent's daemon was killed or crashed"))
    }

    fn document(self, agent: &AgentId) -> Document {
        let Self { trial, attempt, hardware, energy, seconds, reason } = self;
        Document { trial, attempt, agent: agent.clone(), hardware, energy, seconds, reason }
    }
}

/// Energy and seconds of the phases that were measured in one way.
fn sum(phases: &[PhaseRecord]) -> Option<(Energy, f64)> {
    let measured = phases.iter().filter_map(|p| Some((p.energy.value()?.clone(), p.seconds)));
    measured.reduce(|(all, seconds), (energy, more)| match all.clone().plus(energy) {
        Ok(sum) => (sum, seconds + more),
        Err(_) => (all, seconds),
    })
}

/// What has not been told yet, a file each.
#[derive(Debug)]
pub(super) struct Untold {
    dir: PathBuf,
}

impl Untold {
    /// In the folder `dir`, which is made when there is something.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps it until it is told. What is not worth a joule is not worth telling.
    pub(super) fn put(&self, agent: &AgentId, waste: Waste) {
        let waste = waste.document(agent);
        if waste.energy.joules < 1.0 {
            return;
        }
        let path = self.dir.join(format!("{}-{}.json", waste.trial.file_stem(), waste.attempt));
        let partial = path.with_extension("partial");
        let kept = fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&partial, waste.to_json()))
            .and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = kept {
            tracing::warn!(%error, trial = %waste.trial, "energy that was wasted could not be noted");
        }
    }

    fn all(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|e| e.path());
        let documents = entries.filter(|p| p.extension().is_some_and(|e| e == "json"));
        documents.filter_map(|p| Some((p.clone(), fs::read(&p).ok()?))).take(AT_ONCE).collect()
    }
}

/// Tells what there is, for as long as the daemon lives.
pub(super) async fn tell(shared: &Shared) {
    loop {
        tell_now(shared).await;
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells what there is, once.
pub(super) async fn tell_now(shared: &Shared) {
    let all = shared.untold.all();
    if all.is_empty() {
        return;
    }
    let (files, waste_json): (Vec<PathBuf>, Vec<Vec<u8>>) = all.into_iter().unzip();
    match answer(shared.client.clone().wasted(v1::WastedRequest { waste_json })).await {
        Ok(_) => files.iter().for_each(|file| drop(fs::remove_file(file))),
        Err(status) => tracing::debug!(message = status.message(), "wasted energy could not be told yet"),
    }
}
