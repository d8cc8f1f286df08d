//! States that interrupted trials left, and what belongs to them.
//!
//! ```text
//! STATE/resume/TRIAL/state-120.safetensors    the worker's: what trains, the optimiser, its figures
//! STATE/resume/TRIAL/state-120.json           ours: times, energies and segments up to that state
//! ```
//!
//! The second is written once the first is durable; a pair is complete or does not count. A trial's folder holds one
//! pair (and beside it what is on its way to the artifact store), and is removed with the delivery of its record. What trials that never came back leave is bounded.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fleet_common::id::{Attempt, HardwareClass, TrialId};
use fleet_common::record::{PhaseRecord, Segment, merge_phases};
use fleet_common::worker::Phase;
use serde::{Deserialize, Serialize};

use super::artifacts::Sent;

/// Name and version of the form.
const SCHEMA: &str = "fleet.carried/1";

/// What earlier attempts measured up to a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Carried {
    schema: String,
    /// Optimiser steps done.
    pub step: u32,
    /// Phases of all attempts up to the state.
    pub phases: Vec<PhaseRecord>,
    /// The attempts.
    pub segments: Vec<Segment>,
    /// What a careful reader must know about how they were measured.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// The hardware class of all attempts; joules of unlike hardware are not added up.
    #[serde(default)]
    hardware: Option<HardwareClass>,
    /// What of the states went to the artifact store meanwhile.
    #[serde(default)]
    pub sent: Sent,
}

impl Carried {
    /// What `earlier` carried, and what the attempt of `segment` adds.
    pub(super) fn new(
        earlier: Option<&Self>,
        phases: Vec<PhaseRecord>,
        segment: Segment,
        remarks: Vec<String>,
        hardware: &HardwareClass,
    ) -> Self {
        let mut all = earlier.map_or_else(Vec::new, |e| e.phases.clone());
        // An evaluation that was begun starts over.
        merge_phases(&mut all, phases.into_iter().filter(|p| p.phase != Phase::Evaluate));
        let mut segments = earlier.map_or_else(Vec::new, |e| e.segments.clone());
        let step = segment.to_step;
        segments.push(segment);
        let sent = earlier.map_or_else(Sent::default, |e| e.sent);
        Self { schema: SCHEMA.to_owned(), step, phases: all, segments, remarks, hardware: Some(hardware.clone()), sent }
    }

    /// The same, with what else has gone to the artifact store.
    pub(super) fn having_sent(mut self, sent: Sent) -> Self {
        self.sent = self.sent.plus(sent);
        self
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or one of another version; in words.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        let carried: Self = serde_json::from_slice(json).map_err(|e| format!("not a {SCHEMA} document: {e}"))?;
        match carried.schema == SCHEMA && !carried.segments.is_empty() {
            true => Ok(carried),
            false => Err(format!("expected schema {SCHEMA} with segments, found \"{}\"", carried.schema)),
        }
    }

    /// The attempt that left the state, and the step: what is later is greater.
    pub(super) fn place(&self) -> (Attempt, u32) {
        (self.segments.last().map_or(Attempt::FIRST, |s| s.attempt), self.step)
    }

    /// Whether it was measured on this class; of an earlier version nobody knows, and it was this machine.
    pub(super) fn is_of(&self, class: &HardwareClass) -> bool {
        self.hardware.as_ref().is_none_or(|h| h == class)
    }

    /// Why it cannot be gone on from.
    pub(super) fn of_other_hardware(&self) -> String {
        let (attempt, step) = self.place();
        let class = self.hardware.as_ref().map_or("unknown", HardwareClass::as_str);
        format!("the state that attempt {attempt} left at step {step} is of other hardware ({class})")
    }
}

/// The states of one trial.
#[derive(Debug, Clone)]
pub(super) struct States {
    dir: PathBuf,
}

impl States {
    /// Those of `trial`, in the agent's state folder.
    pub(super) fn of(state: &Path, trial: &TrialId) -> Self {
        Self { dir: state.join("resume").join(trial.file_stem()) }
    }

    /// Where the worker leaves states.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The latest complete pair.
    pub(super) fn latest(&self) -> Option<(PathBuf, Carried)> {
        let files = fs::read_dir(&self.dir).ok()?.flatten().map(|e| e.path());
        let pairs = files.filter(|f| f.extension().is_some_and(|e| e == "json")).filter_map(|json| {
            let carried = Carried::read(&fs::read(&json).ok()?).ok()?;
            let state = json.with_extension("safetensors");
            state.is_file().then_some((state, carried))
        });
        pairs.max_by_key(|(_, carried)| carried.place())
    }

    /// Completes the pair of the worker's file `state`, and removes what is older.
    ///
    /// # Errors
    /// The disk refused; then the pair before is still there.
    pub(super) fn complete(&self, state: &Path, carried: &Carried) -> std::io::Result<()> {
        let json = state.with_extension("json");
        let partial = state.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(&serde_json::to_vec(carried).map_err(std::io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&partial, &json)?;
        File::open(&self.dir)?.sync_all()?;
        for old in fs::read_dir(&self.dir)?.flatten().map(|e| e.path()).filter(|f| *f != json && f != state) {
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// Removes them.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// When a folder's files were last written, and their bytes; of the folders in it as well.
fn measured(dir: &Path) -> (SystemTime, u64) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold((SystemTime::UNIX_EPOCH, 0), |(latest, bytes), entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => {
            let (inner, more) = measured(&entry.path());
            (latest.max(inner), bytes + more)
        }
        Ok(meta) => (latest.max(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)), bytes + meta.len()),
        Err(_) => (latest, bytes),
    })
}

/// Removes the states of trials that were interrupted longest ago, until all take at most `most` bytes. Those of `keep`
/// stay.
pub(super) fn prune(state: &Path, most: u64, keep: &[TrialId]) {
    let keep: Vec<String> = keep.iter().map(TrialId::file_stem).collect();
    let Ok(entries) = fs::read_dir(state.join("resume")) else { return };
    let mut trials: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter(|e| !keep.iter().any(|k| e.file_name().to_string_lossy() == *k))
        .map(|e| {
            let (latest, bytes) = measured(&e.path());
            (latest, bytes, e.path())
        })
        .collect();
    trials.sort();
    let mut all: u64 = trials.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, dir) in trials {
        if all <= most {
            break;
        }
        tracing::info!(dir = %dir.display(), "removing a state that nobody went on from");
        let _ = fs::remove_dir_all(dir);
        all -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(n: u32) -> TrialId {
        format!("{n:032x}/0").parse().expect("an id")
    }

    fn carried(step: u32) -> Carried {
        let segment = Segment {
            attempt: Attempt::FIRST,
            started_unix_ms: 1,
            ended_unix_ms: 2,
            from_step: 0,
            to_step: step,
            machine: None,
        };
        Carried::new(None, Vec::new(), segment, Vec::new(), &"CPU".parse().expect("a class"))
    }

    fn save(states: &States, step: u32, bytes: usize) -> PathBuf {
        fs::create_dir_all(states.dir()).expect("a folder");
        let file = states.dir().join(format!("state-{step}.safetensors"));
        fs::write(&file, vec![0; bytes]).expect("writes");
        file
    }

    #[test]
    fn only_complete_pairs_count_and_the_latest_replaces_the_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let states = States::of(dir.path(), &trial(1));
        assert!(states.latest().is_none());
        let first = save(&states, 10, 1);
        states.complete(&first, &carried(10)).expect("writes");
        // Killed between the worker's file and ours.
        save(&states, 20, 1);
        assert_eq!(states.latest(), Some((first.clone(), carried(10))));
        let third = save(&states, 30, 1);
        states.complete(&third, &carried(30)).expect("writes");
        assert_eq!(states.latest(), Some((third, carried(30))));
        assert!(!first.exists());
        assert_eq!(fs::read_dir(states.dir()).expect("a folder").count(), 2);
        states.remove();
        assert!(states.latest().is_none());
    }

    #[test]
    fn what_is_carried_knows_its_class_and_place_and_adds_up_what_was_sent() {
        let class = |text: &str| text.parse::<HardwareClass>().expect("a class");
        let first = carried(10);
        assert!(first.is_of(&class("CPU")) && !first.is_of(&class("GPU")));
        assert!(first.of_other_hardware().contains("attempt 1 left at step 10 is of other hardware (CPU)"));
        let segment =
            Segment { attempt: Attempt::FIRST.next(), from_step: 10, to_step: 12, ..first.segments[0].clone() };
        let second = Carried::new(Some(&first), Vec::new(), segment, Vec::new(), &class("CPU"));
        assert!(second.place() > first.place() && carried(99).place() < second.place(), "the later attempt is ahead");
        let read = Carried::read(&serde_json::to_vec(&second).expect("JSON"));
        assert_eq!(read.as_ref(), Ok(&second));
        // An earlier version said nothing of classes: its states were of this machine.
        let mut old = serde_json::to_value(&first).expect("JSON");
        old.as_object_mut().expect("an object").retain(|key, _| key != "hardware" && key != "sent");
        assert!(Carried::read(old.to_string().as_bytes()).expect("readable").is_of(&class("GPU")));
        old["schema"] = "fleet.carried/0".into();
        assert!(Carried::read(old.to_string().as_bytes()).is_err());
    }

    #[test]
    fn what_is_left_behind_is_bounded_and_what_is_wanted_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        for n in 1..=4 {
            save(&States::of(dir.path(), &trial(n)), 1, 100);
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
        prune(dir.path(), 200, &[trial(1)]);
        let left = |n| States::of(dir.path(), &trial(n)).dir().exists();
        assert_eq!([left(1), left(2), left(3), left(4)], [true, false, true, true]);
    }
}
