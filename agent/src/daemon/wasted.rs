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
use super::artifacts::acknowledged;
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
        // Another attempt's record counts: it went on from what this agent handed over or was handed, if from anything.
        let carried = match goes_on {
            true => States::of(state, &record.trial).latest().map(|(_, carried)| carried),
            false => acknowledged(state, &record.trial),
        };
        if let Some((kept, kept_seconds)) = carried.and_then(|carried| sum(&carried.phases)) {
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

    /// What an attempt of a daemon that is gone has left in its spool: all of it, but what went into a state that somebody
    /// goes on from: the latest here, or, where another machine has gone on already, what it had.
    pub(super) fn left_behind(
        state: &Path,
        slot: &Slot,
        covered: &Covered,
        trial: &TrialId,
        attempt: Attempt,
        readings: &Readings,
        overtaken: Option<&[PhaseRecord]>,
    ) -> Option<Self> {
        let latest = States::of(state, trial).latest();
        let kept = overtaken.unwrap_or_else(|| latest.as_ref().map_or(&[], |(_, c)| &c.phases));
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

#[cfg(test)]
mod tests {
    use fleet_common::record::{Outcome, Segment};
    use serde_json::json;

    use super::super::artifacts::note_acknowledged;
    use super::super::resume::Carried;
    use super::*;

    /// A record that took 1,000 J to load and 3,000 J to train.
    fn record(outcome: Outcome) -> Record {
        let phase = |name: &str, joules: f64| {
            json!({ "phase": name, "windows": [], "seconds": joules / 100.0,
                    "energy": { "measured": { "joules": joules, "domain": "gpu", "source": "test", "readings": 9,
                                              "above_idle": { "measured": joules / 2.0 } } } })
        };
        let document = json!({
            "schema": "fleet.record/1",
            "trial": { "cell": "0".repeat(32), "hardware": null, "repeat": 0 }, "attempt": 2,
            "settings": {
                "definition": 1, "method": { "name": "full" }, "backbone": "vit_micro", "image_size": 64,
                "checkpointing": "none", "dataset": { "name": "textures", "fingerprint": "ab", "classes": 8 },
                "weights": { "from": "scratch" }, "seed": 0, "budget_bytes": null,
                "train": { "steps": 10, "warm_up_steps": 0, "batch": 32, "learning_rate": 0.001, "weight_decay": 0.05,
                           "sampling": "replacement", "augment": true },
                "evaluate": { "batch": 64 }
            },
            "outcome": outcome,
            "training": {
                "parameters": 1, "trainable": 1, "macs": 1, "losses": [], "top1_percent": null, "evaluation_loss": null,
                "evaluated": 0, "phases": [], "recomputed_blocks": [],
                "software": { "fleet": "0", "libtorch": "0", "threads": 1, "decode_threads": 1 }
            },
            "phases": [phase("load", 1000.0), phase("train", 3000.0)],
            "machine": { "agent": "a", "slot": "cuda:0", "hardware": "X", "host": "h", "os": "o", "cpu": "c", "cpus": 1,
                         "memory_bytes": 1 },
            "started_unix_ms": 0, "finished_unix_ms": 0, "samples_taken": 0
        });
        Record::from_json(document.to_string().as_bytes()).expect("a record")
    }

    #[test]
    fn a_crash_wastes_what_no_state_carries_on_and_a_superseded_record_everything() {
        let dir = tempfile::tempdir().expect("a folder");
        let crashed = record(Outcome::Crashed { message: "signal 11".into() });
        let of = |record: &Record| {
            let waste = Waste::of_record(dir.path(), record, "why".into()).expect("measured");
            (waste.energy.joules, waste.energy.above_idle.value().copied(), waste.seconds)
        };
        assert_eq!(of(&crashed), (4000.0, Some(2000.0), 40.0));
        // A state carries the load and a third of the training.
        let mut kept = crashed.phases.clone();
        if let Reading::Measured(energy) = &mut kept[1].energy {
            (energy.joules, energy.above_idle) = (1000.0, Reading::Measured(500.0));
        }
        kept[1].seconds = 10.0;
        let segment = Segment {
            attempt: crashed.attempt,
            started_unix_ms: 0,
            ended_unix_ms: 1,
            from_step: 0,
            to_step: 3,
            machine: None,
        };
        let states = States::of(dir.path(), &crashed.trial);
        fs::create_dir_all(states.dir()).expect("a folder");
        let state = states.dir().join("state-3.safetensors");
        fs::write(&state, "").expect("writes");
        states
            .complete(&state, &Carried::new(None, kept, segment, Vec::new(), &"X".parse().expect("a class")))
            .expect("writes");
        assert_eq!(of(&crashed), (2000.0, Some(1000.0), 20.0));
        assert_eq!(of(&record(Outcome::Completed)).0, 4000.0, "nobody goes on from a state of a finished trial");
        // Unless it was handed over: another machine went on from it, and its record has what is in it.
        let carried = states.latest().expect("there is one").1;
        note_acknowledged(&states, &serde_json::to_vec(&carried).expect("JSON")).expect("notes");
        assert_eq!(of(&record(Outcome::Completed)), (2000.0, Some(1000.0), 20.0));
    }

    #[test]
    fn what_is_not_told_yet_outlives_the_daemon_and_less_than_a_joule_is_not_worth_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let agent: AgentId = "a".parse().expect("an id");
        let untold = || Untold::new(dir.path().join("wasted"));
        let waste = |joules: f64| {
            let mut waste = Waste::of_record(dir.path(), &record(Outcome::Completed), "why".into()).expect("measured");
            waste.energy.joules = joules;
            waste
        };
        untold().put(&agent, waste(0.4));
        assert!(untold().all().is_empty());
        untold().put(&agent, waste(40.0));
        untold().put(&agent, waste(40.0));
        let all = untold().all();
        assert_eq!(all.len(), 1, "an attempt is told of once");
        let document = Document::from_json(&all[0].1).expect("our own document");
        assert_eq!((document.energy.joules, document.reason.as_str(), document.agent), (40.0, "why", agent));
    }
}
