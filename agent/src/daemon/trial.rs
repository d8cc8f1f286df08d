//! One trial: check what it needs, run the worker, meter it, write its record.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_common::id::{Attempt, SlotId, TrialId};
use fleet_common::plan::CellSettings;
use fleet_common::record::{Artifact, Machine, Outcome, Record, SCHEMA, Segment, Training, merge_phases};
use fleet_common::spec::{DatasetName, Output};
use fleet_common::telemetry::{Channel, MonoNanos, Series};
use fleet_common::wire::{self, WireError, v1};
use fleet_common::worker::{Event, Job, JobDevice, Phase, SaveStates};
use fleet_dataset::sha256_of_file;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Span;

use super::process::Worker;
use super::record::{Readings, flags, interruptions, phases};
use super::resume::{Carried, States, prune};
use super::spool::Spool;
use super::{Shared, clock};
use crate::device::{DeviceLock, Slot};
use crate::meter::{self, Meter, ProcessMeter};
use crate::metrics::Watched;

/// Ten readings per second (measurement.md asks for at least that).
const METER_EVERY: Duration = Duration::from_millis(100);
/// A worker that neither begins a phase nor ends a step for so long hangs, in a driver call for instance. The slowest
/// step that makes sense takes a few minutes.
const STALL: Duration = Duration::from_secs(30 * 60);
/// A worker that is asked to end gets this long to end its step and write its state. The step takes seconds at most on
/// anything that one would train on; a state of ViT-Small under full fine-tuning is 260 MB.
const FAREWELL: Duration = Duration::from_secs(20);
/// The meter's next reading takes an interval, and the time that a driver takes to answer.
const LAST_READING: Duration = Duration::from_millis(500);
/// Samples go up in batches of this age.
const BATCH_EVERY: Duration = Duration::from_secs(1);

/// A lease, parsed.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub trial: TrialId,
    pub attempt: Attempt,
    pub settings: CellSettings,
    pub dataset: DatasetName,
    pub keep: Output,
}

impl TryFrom<v1::Lease> for Lease {
    type Error = WireError;
    fn try_from(lease: v1::Lease) -> Result<Self, WireError> {
        let trial = wire::trial(lease.trial)?;
        Ok(Self {
            settings: wire::settings(&trial.cell, &lease.settings_json)?,
            trial,
            attempt: lease.attempt.try_into()?,
            dataset: DatasetName::try_from(lease.dataset).map_err(WireError::Invalid)?,
            keep: Output { weights: lease.keep_weights, adapter: lease.keep_adapter },
        })
    }
}

/// What a slot is doing, as heartbeats tell it.
pub(super) struct Running {
    trial: TrialId,
    attempt: Attempt,
    slot: SlotId,
    progress: Arc<Mutex<Progress>>,
    stop: watch::Sender<Option<String>>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    phase: String,
    done: u64,
    of: u64,
    loss: Option<f64>,
}

impl Running {
    fn new(lease: &Lease, slot: &SlotId) -> Self {
        Self {
            trial: lease.trial.clone(),
            attempt: lease.attempt,
            slot: slot.clone(),
            progress: Arc::default(),
            stop: watch::Sender::new(None),
        }
    }

    /// A record that only has to be delivered.
    pub(super) fn finished(record: &Record) -> Self {
        Self {
            trial: record.trial.clone(),
            attempt: record.attempt,
            slot: record.machine.slot.clone(),
            progress: Arc::new(Mutex::new(Progress { phase: "delivering".to_owned(), ..Progress::default() })),
            stop: watch::Sender::new(None),
        }
    }

    pub(super) fn held(&self) -> v1::HeldLease {
        v1::HeldLease { trial: Some((&self.trial).into()), attempt: self.attempt.get(), slot: self.slot.to_string() }
    }

    pub(super) fn progress(&self) -> v1::Progress {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        v1::Progress {
            trial: Some((&self.trial).into()),
            attempt: self.attempt.get(),
            slot: self.slot.to_string(),
            phase: progress.phase,
            done: progress.done,
            of: progress.of,
            loss: progress.loss,
        }
    }

    pub(super) fn is(&self, trial: Option<&v1::TrialId>, attempt: u32) -> bool {
        self.attempt.get() == attempt && trial.is_some_and(|t| *t == (&self.trial).into())
    }

    /// Which trial.
    pub(super) fn trial(&self) -> &TrialId {
        &self.trial
    }

    /// Ends the worker.
    pub(super) fn stop(&self, reason: String) {
        self.stop.send_replace(Some(reason));
    }
}

/// How a trial ended here.
pub(super) enum Ended {
    /// With a record.
    Record(Box<Record>),
    /// Because somebody said so.
    Stopped(String),
}

/// Runs a lease to its end.
pub(super) async fn run(shared: &Arc<Shared>, slot: &Slot, lock: &DeviceLock, lease: &Lease, spool: &Spool) -> Ended {
    let running = Running::new(lease, &slot.id);
    let progress = running.progress.clone();
    let mut stop = running.stop.subscribe();
    set(&progress, "checking data", 0, 0, None);
    shared.running().insert(slot.id.clone(), running);
    tracing::info!(trial = %lease.trial, attempt = %lease.attempt, slot = %slot.id, "starting");
    let states = States::of(&shared.options.state, &lease.trial);
    let mut attempt = AttemptLog::start(shared, slot, lease, states);

    let checking = {
        let (files, lease) = (shared.files.clone(), lease.clone());
        let span = Span::current();
        tokio::task::spawn_blocking(move || {
            let _within = span.entered();
            files.check_dataset(&lease.settings, &lease.dataset)?;
            files.find_weights(&lease.settings)
        })
    };
    let checked = tokio::select! {
        checked = checking => checked.unwrap_or_else(|e| Err(e.to_string())),
        reason = told_to_stop(shared, &mut stop) => return Ended::Stopped(reason),
    };
    let (outcome, training) = match checked {
        Err(message) => (Outcome::BadInput { message }, Training::default()),
        Ok(weights) => {
            let job = job(shared, slot, lease, weights, &attempt);
            match work(shared, slot, lock, lease, spool, &job, &progress, &mut stop, &mut attempt).await {
                Ok(ended) => ended,
                Err(reason) => return Ended::Stopped(reason),
            }
        }
    };
    if matches!(outcome, Outcome::Crashed { .. }) && !attempt.advanced {
        // Perhaps it is the state that it crashes at.
        attempt.states.remove();
    }
    set(&progress, "delivering", 0, 0, None);
    spool.flush();
    Ended::Record(Box::new(attempt.record(shared, slot, lease, spool, outcome, training)))
}

/// Returns when the trial is to end, with the reason.
async fn told_to_stop(shared: &Shared, stop: &mut watch::Receiver<Option<String>>) -> String {
    tokio::select! {
        () = shared.stopped() => "the agent is shutting down".to_owned(),
        reason = stop.wait_for(Option::is_some) => match reason {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "nobody knows of it any more".to_owned(),
        }
    }
}

fn set(progress: &Mutex<Progress>, phase: &str, done: u64, of: u64, loss: Option<f64>) {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    *progress = Progress { phase: phase.to_owned(), done, of, loss: loss.or(progress.loss) };
}

fn job(shared: &Shared, slot: &Slot, lease: &Lease, weights: Option<PathBuf>, attempt: &AttemptLog) -> Job {
    let every_seconds = shared.options.save_every.as_secs_f64();
    Job {
        settings: lease.settings.clone(),
        device: if slot.gpu.is_some() { JobDevice::Cuda } else { JobDevice::Cpu },
        threads: shared.threads,
        data_dir: shared.files.data_dir().to_owned(),
        dataset: lease.dataset.clone(),
        weights,
        save_weights: lease.keep.weights.then(|| artifacts(shared, lease).join("weights.safetensors")),
        save_adapter: lease.keep.adapter.then(|| artifacts(shared, lease).join("adapter")),
        save_states: (every_seconds > 0.0).then(|| SaveStates { dir: attempt.states.dir().to_owned(), every_seconds }),
        resume: attempt.carried.as_ref().map(|(state, _)| state.clone()),
    }
}

/// Where to keep what a trial leaves.
fn artifacts(shared: &Shared, lease: &Lease) -> PathBuf {
    shared.options.state.join("artifacts").join(lease.trial.file_stem())
}

/// A file that a trial has left, if it has.
fn artifact(path: &Path) -> Option<Artifact> {
    Some(Artifact { path: path.display().to_string(), sha256: sha256_of_file(path).ok()? })
}

/// What is noted while an attempt runs.
struct AttemptLog {
    attempt: Attempt,
    states: States,
    /// The state that it goes on from, and what was measured up to there.
    carried: Option<(PathBuf, Carried)>,
    /// Optimiser steps done.
    step: u32,
    /// It got further than the state that it goes on from.
    advanced: bool,
    /// Why it started from the beginning although there was a state.
    refused: Option<String>,
    started_unix_ms: u64,
    marks: Vec<(Phase, MonoNanos)>,
    end: MonoNanos,
    readings: Readings,
    watched: Watched,
    energy: Result<fleet_common::record::EnergyDomain, String>,
}

impl AttemptLog {
    fn start(shared: &Shared, slot: &Slot, lease: &Lease, states: States) -> Self {
        let meters = meter::of(slot, shared.nvidia.as_ref(), &shared.options.powercap);
        let carried = states.latest();
        Self {
            attempt: lease.attempt,
            states,
            step: carried.as_ref().map_or(0, |(_, c)| c.step),
            carried,
            advanced: false,
            refused: None,
            started_unix_ms: clock::unix_ms(),
            marks: Vec::new(),
            end: clock::monotonic(),
            readings: Readings::default(),
            watched: shared.metrics.watched(&slot.id),
            energy: meters.energy,
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
        }
    }

    /// The worker left a state: keeps what belongs to it.
    async fn saved(&mut self, at: MonoNanos, step: u32, file: PathBuf) {
        (self.step, self.advanced) = (step, true);
        let phases = phases(self.attempt, &self.marks, at, &self.readings, &self.energy);
        let carried = Carried::new(self.carried.as_ref().map(|(_, c)| c), phases, self.segment());
        let states = self.states.clone();
        let kept = tokio::task::spawn_blocking(move || states.complete(&file, &carried)).await;
        if let Err(error) = kept.map_err(std::io::Error::other).and_then(|k| k) {
            tracing::warn!(%error, step, "the state could not be kept");
        }
    }

    /// The worker could not use the state.
    fn refused(&mut self, reason: String) {
        self.states.remove();
        (self.carried, self.step) = (None, 0);
        self.refused = Some(reason);
    }

    fn reading(&mut self, spool: &Spool, at: MonoNanos, channel: Channel, value: i64) {
        spool.push(at, channel, value);
        self.readings.push(at, channel, value);
        self.watched.observe(channel, value);
    }

    fn record(
        self,
        shared: &Shared,
        slot: &Slot,
        lease: &Lease,
        spool: &Spool,
        outcome: Outcome,
        training: Training,
    ) -> Record {
        let segment = self.segment();
        let mut all = self.carried.as_ref().map_or_else(Vec::new, |(_, c)| c.phases.clone());
        merge_phases(&mut all, phases(self.attempt, &self.marks, self.end, &self.readings, &self.energy));
        let phases = all;
        let mut segments = self.carried.as_ref().map_or_else(Vec::new, |(_, c)| c.segments.clone());
        segments.push(segment);
        let mut flags = flags(&phases);
        flags.extend(interruptions(&segments));
        flags.extend(self.refused.map(|reason| format!("started from the beginning: {reason}")));
        let kept = |wanted: bool, file: &str| {
            let there = wanted && outcome == Outcome::Completed;
            there.then(|| artifact(&artifacts(shared, lease).join(file))).flatten()
        };
        let weights = kept(lease.keep.weights, "weights.safetensors");
        let adapter = kept(lease.keep.adapter, "adapter/adapter_model.safetensors");
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
            machine: Machine {
                agent: shared.id.clone(),
                slot: slot.id.clone(),
                hardware: slot.hardware.clone(),
                label: shared.options.label.as_ref().map(|l| l.as_str().to_owned()),
                host: shared.host.name.clone(),
                os: shared.host.os.clone(),
                cpu: shared.host.cpu.clone(),
                cpus: shared.host.cpus,
                memory_bytes: shared.host.memory_bytes,
                gpu: slot.gpu.as_ref().map(|g| g.gpu.clone()),
            },
            started_unix_ms: self.started_unix_ms,
            finished_unix_ms: clock::unix_ms(),
            samples_taken: spool.taken(),
            artifact: weights,
            adapter,
        }
    }
}

/// Runs the worker; `Err` means that it was stopped, for this reason.
#[allow(clippy::too_many_arguments, reason = "the loop that brings everything together")]
async fn work(
    shared: &Shared,
    slot: &Slot,
    lock: &DeviceLock,
    lease: &Lease,
    spool: &Spool,
    job: &Job,
    progress: &Mutex<Progress>,
    stop: &mut watch::Receiver<Option<String>>,
    attempt: &mut AttemptLog,
) -> Result<(Outcome, Training), String> {
    let log = shared.options.state.join("logs").join(format!("{}-{}.log", lease.trial.file_stem(), lease.attempt));
    let mut worker = match Worker::start(&shared.options.worker, job, slot, lock, &log).await {
        Ok(worker) => worker,
        Err(error) => return Ok((Outcome::Crashed { message: format!("{error:#}") }, Training::default())),
    };
    let mut meters = meter::of(slot, shared.nvidia.as_ref(), &shared.options.powercap).meters;
    meters.extend(worker.pid().map(|pid| Box::new(ProcessMeter::new(pid)) as Box<dyn Meter>));
    let mut readings = read_meters(meters);
    let mut batches = tokio::time::interval(BATCH_EVERY);
    let mut finished = None;
    let mut ending: Option<(String, Instant)> = None;
    let mut moved = Instant::now();
    loop {
        tokio::select! {
            event = worker.next() => match event {
                Some(Event::Phase { phase, at }) => {
                    moved = Instant::now();
                    set(progress, phase.name(), 0, 0, None);
                    attempt.marks.push((phase, at));
                }
                Some(Event::Progress { phase, done, of, loss }) => {
                    moved = Instant::now();
                    if matches!(phase, Phase::WarmUp | Phase::Train) {
                        attempt.step = done as u32;
                    }
                    set(progress, phase.name(), done, of, loss);
                }
                Some(Event::Memory { at, live }) => {
                    let live = i64::try_from(live).unwrap_or(i64::MAX);
                    attempt.reading(spool, at, Series::AllocatorLiveBytes.into(), live);
                }
                Some(Event::Saved { at, step, file }) => {
                    moved = Instant::now();
                    attempt.saved(at, step, file).await;
                    prune(&shared.options.state, shared.options.state_space, &shared.trials());
                }
                Some(Event::StateRefused { reason }) => attempt.refused(reason),
                Some(Event::Finished { at, outcome, training }) => {
                    attempt.end = at;
                    finished = Some((outcome, *training));
                }
                None => break,
            },
            Some((at, values)) = readings.recv() => {
                for (channel, value) in values {
                    attempt.reading(spool, at, channel, value);
                }
            }
            _ = batches.tick() => spool.flush(),
            reason = told_to_stop(shared, stop), if ending.is_none() => {
                // A trial that is called off, or that another agent has, needs no state.
                if !shared.is_stopping() || job.save_states.is_none() {
                    worker.kill().await;
                    return Err(reason);
                }
                worker.ask_to_stop().await;
                ending = Some((reason, Instant::now() + FAREWELL));
            }
            () = tokio::time::sleep_until(ending.as_ref().map_or(moved + STALL, |(_, until)| *until)), if ending.is_some() => {
                tracing::warn!("the worker did not end in time; what it did since its latest state is lost");
                worker.kill().await;
                break;
            }
            () = tokio::time::sleep_until(moved + STALL), if ending.is_none() => {
                worker.kill().await;
                let minutes = STALL.as_secs() / 60;
                let message = format!("the worker made no progress for {minutes} minutes, and was ended");
                finished = Some((Outcome::Crashed { message }, Training::default()));
                attempt.end = clock::monotonic();
                break;
            }
        }
    }
    let how = worker.wait().await;
    if let Some((reason, _)) = ending {
        return Err(reason);
    }
    if attempt.energy.is_ok() {
        // The end lies between two readings of the meter; without the one behind it, the last joules would be missing.
        let behind = async {
            while let Some((at, values)) = readings.recv().await {
                values.into_iter().for_each(|(channel, value)| attempt.reading(spool, at, channel, value));
                if at >= attempt.end {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LAST_READING, behind).await;
    }
    Ok(finished.unwrap_or_else(|| {
        attempt.end = clock::monotonic();
        (Outcome::Crashed { message: how }, Training::default())
    }))
}

/// Reads meters on a thread of their own (a driver may take its time to answer) until nobody listens.
fn read_meters(mut meters: Vec<Box<dyn Meter>>) -> mpsc::Receiver<(MonoNanos, Vec<meter::Reading>)> {
    let (sender, receiver) = mpsc::channel(64);
    let span = Span::current();
    std::thread::spawn(move || {
        let _within = span.entered();
        loop {
            let at = clock::monotonic();
            let values: Vec<meter::Reading> = meters.iter_mut().flat_map(|m| m.read()).collect();
            if sender.blocking_send((at, values)).is_err() {
                return;
            }
            std::thread::sleep(METER_EVERY);
        }
    });
    receiver
}
