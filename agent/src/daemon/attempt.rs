//! What is noted while an attempt runs, and the record that it becomes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_common::energy::Readings;
use fleet_common::id::{Attempt, HardwareClass};
use fleet_common::lease::may_go_on_here;
use fleet_common::record::{
    Artifact, Machine, Metering, Outcome, Record, SCHEMA, Segment, SegmentMachine, Training, merge_phases,
};
use fleet_common::telemetry::{Channel, MonoNanos};
use fleet_dataset::sha256_of_file;

use super::artifacts::{Handover, Sent, Whose, acknowledged};
use super::resume::{Carried, States};
use super::spool::Spool;
use super::trial::Lease;
use super::wasted::Waste;
use super::{Shared, process_cpu};
use crate::clock::{self, Clocks};
use crate::device::Slot;
use crate::meter::{Account, Covered, Mark, interruptions, short_windows};
use crate::metrics::Watched;

/// An attempt so far.
pub(super) struct AttemptLog {
    attempt: Attempt,
    pub states: States,
    /// Its states on their way to other machines.
    pub handover: Handover,
    /// Where it runs.
    machine: SegmentMachine,
    hardware: HardwareClass,
    /// The state that it goes on from, and what was measured up to there.
    pub carried: Option<(PathBuf, Carried)>,
    /// Optimiser steps done.
    pub step: u32,
    /// It got further than the state that it goes on from.
    pub advanced: bool,
    /// Why it started from the beginning although there was a state.
    pub refused: Option<String>,
    started_unix_ms: u64,
    pub marks: Vec<Mark>,
    pub end: MonoNanos,
    readings: Readings,
    watched: Watched,
    /// What the slot's meters cover.
    pub covered: Covered,
    /// What went wrong with them, or beside them.
    remarks: BTreeSet<String>,
    clocks: Clocks,
    cpu: Duration,
    /// How warm the device was when it began.
    pub start_celsius: Option<f64>,
}

impl AttemptLog {
    pub(super) fn start(shared: &Arc<Shared>, slot: &Slot, lease: &Lease, states: States) -> Self {
        let carried = states.latest();
        let whose = Whose { trial: lease.trial.clone(), attempt: lease.attempt };
        Self {
            attempt: lease.attempt,
            handover: Handover::begin(shared, whose, slot, &states),
            machine: SegmentMachine { agent: shared.id.clone(), slot: slot.id.clone(), host: shared.host.name.clone() },
            hardware: slot.hardware.clone(),
            states,
            step: carried.as_ref().map_or(0, |(_, c)| c.step),
            remarks: carried.iter().flat_map(|(_, c)| c.remarks.clone()).collect(),
            carried,
            advanced: false,
            refused: None,
            started_unix_ms: clock::unix_ms(),
            marks: Vec::new(),
            end: clock::monotonic(),
            readings: Readings::default(),
            watched: shared.metrics.watched(&slot.id),
            covered: shared.meters(slot, None).covered,
            clocks: Clocks::read(),
            cpu: process_cpu(),
            start_celsius: None,
        }
    }

    /// What this attempt adds, up to the step that it has reached.
    fn segment(&self) -> Segment {
        Segment {
            attempt: self.attempt,
            started_unix_ms: self.started_unix_ms,
            ended_unix_ms: clock::unix_ms(),
            from_step: self.carried.as_ref().map_or(0, |(_, c)| c.step),
            to_step: self.step,
            machine: Some(self.machine.clone()),
        }
    }

    fn account(&self) -> Account<'_> {
        Account { readings: &self.readings, covered: &self.covered }
    }

    /// The worker left a state: keeps what belongs to it.
    pub(super) async fn saved(&mut self, at: MonoNanos, step: u32, file: PathBuf) {
        (self.step, self.advanced) = (step, true);
        let (phases, remarks) = self.account().phases(self.attempt, &self.marks, at);
        let remarks = self.remarks.iter().cloned().chain(remarks).collect();
        let earlier = self.carried.as_ref().map(|(_, c)| c);
        let carried = Carried::new(earlier, phases, self.segment(), remarks, &self.hardware);
        let carried = carried.having_sent(self.handover.sent());
        let states = self.states.clone();
        let (state, beside) = (file.clone(), carried.clone());
        let kept = tokio::task::spawn_blocking(move || states.complete(&state, &beside)).await;
        match kept.map_err(std::io::Error::other).and_then(|k| k) {
            Ok(()) => self.handover.offer(&file, &carried),
            Err(error) => tracing::warn!(%error, step, "the state could not be kept"),
        }
    }

    /// The worker could not use the state.
    pub(super) fn refused(&mut self, reason: String) {
        self.states.remove();
        (self.carried, self.step) = (None, 0);
        self.refused = Some(reason);
    }

    /// A reading.
    pub(super) fn reading(&mut self, spool: &Spool, at: MonoNanos, channel: Channel, value: i64) {
        spool.push(at, channel, value);
        self.readings.push(at, channel, value);
        self.watched.observe(channel, value);
    }

    /// What a careful reader must know, where there is something.
    pub(super) fn remark(&mut self, remarks: impl IntoIterator<Item = String>) {
        self.remarks.extend(remarks);
    }

    /// Looks whether a clock was set or the machine slept.
    pub(super) fn look_at_clocks(&mut self) {
        let now = Clocks::read();
        self.remarks.extend(now.since(&self.clocks));
        self.clocks = now;
    }

    /// What of its energy no state has kept that anybody goes on from: where another machine has the trial by now, what
    /// is in the artifact store, and what is here is removed; else the latest that is here.
    pub(super) fn wasted(&self, shared: &Shared, slot: &Slot, lease: &Lease, why: &str) -> Option<Waste> {
        let stays = shared.is_stopping() || may_go_on_here(why, &shared.id) || !shared.artifacts.is_there();
        let carried = if stays {
            self.states.latest().map(|(_, carried)| carried)
        } else {
            let carried = acknowledged(&shared.options.state, &lease.trial);
            self.states.remove();
            carried
        };
        let kept = carried.as_ref().map_or(&[][..], |c| &c.phases);
        let (energy, seconds) = self.account().wasted(self.attempt, kept)?;
        Some(Waste::new(slot, &lease.trial, self.attempt, energy, seconds, why))
    }

    /// The record.
    pub(super) fn record(
        mut self,
        shared: &Shared,
        slot: &Slot,
        lease: &Lease,
        spool: &Spool,
        outcome: Outcome,
        training: Training,
    ) -> Record {
        self.look_at_clocks();
        let segment = self.segment();
        let (new, remarks) = self.account().phases(self.attempt, &self.marks, self.end);
        let mut phases = self.carried.as_ref().map_or_else(Vec::new, |(_, c)| c.phases.clone());
        merge_phases(&mut phases, new);
        let mut segments = self.carried.as_ref().map_or_else(Vec::new, |(_, c)| c.segments.clone());
        segments.push(segment);
        let mut flags = short_windows(&phases);
        flags.extend(self.remarks.into_iter().chain(remarks).collect::<BTreeSet<_>>());
        flags.extend(interruptions(&segments));
        let sent = self.carried.as_ref().map_or_else(Sent::default, |(_, c)| c.sent).plus(self.handover.sent());
        flags.extend(sent.flag());
        flags.extend(self.refused.map(|reason| format!("started from the beginning: {reason}")));
        let kept = |wanted: bool, file: &str| {
            let there = wanted && outcome == Outcome::Completed;
            there.then(|| artifact(&artifacts(shared, lease).join(file))).flatten()
        };
        let weights = kept(lease.keep.weights, "weights.safetensors");
        let adapter = kept(lease.keep.adapter, "adapter/adapter_model.safetensors");
        let adapter_config = kept(adapter.is_some() && shared.artifacts.is_there(), "adapter/adapter_config.json");
        Record {
            schema: SCHEMA.to_owned(),
            trial: lease.trial.clone(),
            attempt: lease.attempt,
            settings: lease.settings.clone(),
            flags,
            outcome,
            training,
            phases,
            segments,
            machine: machine(shared, slot),
            metering: Some(Metering {
                every_seconds: shared.options.meter_every.as_secs_f64(),
                meters: self.covered.all().map(|m| m.describe()).collect(),
                start_celsius: self.start_celsius,
                cpu_seconds: process_cpu().saturating_sub(self.cpu).as_secs_f64(),
            }),
            started_unix_ms: self.started_unix_ms,
            finished_unix_ms: clock::unix_ms(),
            samples_taken: spool.taken(),
            artifact: weights,
            adapter,
            adapter_config,
        }
    }

    /// Whether there are meters that must cover its end.
    pub(super) fn is_metered(&self) -> bool {
        self.covered.device.is_ok() || !self.covered.others.is_empty()
    }
}

fn machine(shared: &Shared, slot: &Slot) -> Machine {
    Machine {
        agent: shared.id.clone(),
        agent_version: Some(crate::VERSION.to_owned()),
        slot: slot.id.clone(),
        hardware: slot.hardware.clone(),
        label: shared.options.label.as_ref().map(|l| l.as_str().to_owned()),
        host: shared.host.name.clone(),
        os: shared.host.os.clone(),
        cpu: shared.host.cpu.clone(),
        cpus: shared.host.cpus,
        memory_bytes: shared.host.memory_bytes,
        gpu: slot.gpu.as_ref().map(|g| g.gpu.clone()),
    }
}

/// Where to keep what a trial leaves.
pub(super) fn artifacts(shared: &Shared, lease: &Lease) -> PathBuf {
    shared.options.state.join("artifacts").join(lease.trial.file_stem())
}

/// A file that a trial has left, if it has.
fn artifact(path: &Path) -> Option<Artifact> {
    Some(Artifact { path: path.display().to_string(), sha256: sha256_of_file(path).ok()?, stored: None })
}
