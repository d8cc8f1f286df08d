//! One trial: check what it needs, run the worker, meter it, write its record.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_artifacts::{Name, NameError};
use fleet_common::id::{Attempt, SlotId, TrialId};
use fleet_common::lease::{CALLED_OFF, may_go_on_here};
use fleet_common::plan::CellSettings;
use fleet_common::record::{Outcome, Record, Training};
use fleet_common::spec::{DatasetName, Output};
use fleet_common::telemetry::Series;
use fleet_common::wire::{self, WireError, v1};
use fleet_common::worker::{Event, Job, JobDevice, Phase, SaveStates};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::artifacts::{keep, take_over};
use super::attempt::{AttemptLog, artifacts};
use super::characterise::Cooling;
use super::process::Worker;
use super::resume::{States, prune};
use super::spool::Spool;
use crate::cache::Ready;
use crate::clock;
use crate::device::{DeviceLock, Slot};
use crate::half::{Held, SHUTTING_DOWN};
use crate::meter::{Batch, Meter, ProcessMeter, sample};

/// A worker that neither begins a phase nor ends a step for so long hangs, in a driver call for instance. The slowest
/// step that makes sense takes a few minutes.
const STALL: Duration = Duration::from_secs(30 * 60);
/// A worker that is asked to end gets this long to end its step and write its state. The step takes seconds at most on
/// anything that one would train on; a state of ViT-Small under full fine-tuning is 260 MB.
const FAREWELL: Duration = Duration::from_secs(20);
/// Its latest state then gets this long to be where another machine finds it.
const HANDOVER: Duration = Duration::from_secs(30);
/// Readings that belong to the end come this much later: sensors that average over a second are half of it late, the
/// next reading takes an interval, and a driver its time to answer.
const LAST_READING: Duration = Duration::from_millis(1500);
/// From where on the end is covered, seconds.
const BEHIND_THE_END: f64 = 0.6;
/// How often it is looked whether another slot is done with a trial.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often a device that should cool is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What a slot is at while what it needs comes from elsewhere.
const FETCH: &str = "fetch";
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
    /// The state to go on from.
    pub resume: Option<StoredState>,
    /// Why there is none, where an earlier attempt left one.
    pub starts_over: Option<String>,
}

/// A state in the artifact store.
#[derive(Debug, Clone)]
pub(super) struct StoredState {
    /// The attempt that left it.
    pub attempt: Attempt,
    pub step: u32,
    pub name: Name,
    pub bytes: u64,
}

impl TryFrom<v1::ResumableState> for StoredState {
    type Error = WireError;
    fn try_from(state: v1::ResumableState) -> Result<Self, WireError> {
        let name = state.artifact.parse().map_err(|e: NameError| WireError::Invalid(e.to_string()))?;
        Ok(Self { attempt: state.attempt.try_into()?, step: state.step, name, bytes: state.bytes })
    }
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
            resume: lease.resume.map(TryInto::try_into).transpose()?,
            starts_over: lease.starts_over,
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

/// What a trial at work tells and is told through its [`Running`].
pub(super) struct Following {
    progress: Arc<Mutex<Progress>>,
    stop: watch::Receiver<Option<String>>,
}

impl Running {
    /// A trial that begins.
    pub(super) fn begin(lease: &Lease, slot: &SlotId) -> (Self, Following) {
        let running = Self {
            trial: lease.trial.clone(),
            attempt: lease.attempt,
            slot: slot.clone(),
            progress: Arc::default(),
            stop: watch::Sender::new(None),
        };
        let following = Following { progress: running.progress.clone(), stop: running.stop.subscribe() };
        (running, following)
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

    pub(super) fn is(&self, held: &Held) -> bool {
        (&self.trial, self.attempt, &self.slot) == (&held.trial, held.attempt, &held.slot)
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
pub(super) async fn run(
    shared: &Arc<Shared>,
    slot: &Slot,
    lock: &DeviceLock,
    lease: &Lease,
    spool: &Spool,
    following: Following,
) -> Ended {
    let Following { progress, mut stop } = following;
    set(&progress, "checking data", 0, 0, None);
    tracing::info!(trial = %lease.trial, attempt = %lease.attempt, slot = %slot.id, "starting");
    // Before the attempt's clocks and meters begin: a download is no part of what a trial costs.
    let told = progress.clone();
    let tell = move |done, of| set(&told, FETCH, done, of, None);
    let checked = tokio::select! {
        checked = shared.content.ready(&shared.files, lease, tell) => checked,
        reason = told_to_stop(shared, &mut stop) => return Ended::Stopped(reason),
    };
    tokio::select! {
        () = alone(shared, slot, lease) => {}
        reason = told_to_stop(shared, &mut stop) => return Ended::Stopped(reason),
    }
    let states = States::of(&shared.options.state, &lease.trial);
    if lease.resume.is_some() {
        set(&progress, "fetching state", 0, 0, None);
    }
    let starts_over = tokio::select! {
        why = take_over(shared, slot, lease, &states) => why,
        reason = told_to_stop(shared, &mut stop) => return Ended::Stopped(reason),
    };
    let mut attempt = AttemptLog::start(shared, slot, lease, states);
    attempt.refused = starts_over;
    tokio::select! {
        () = cool(shared, slot, &progress, &mut attempt) => {}
        reason = told_to_stop(shared, &mut stop) => return Ended::Stopped(reason),
    }
    let (outcome, training) = match checked {
        Err(message) => (Outcome::BadInput { message }, Training::default()),
        // Keeps what it is made of in the cache until the worker has ended.
        Ok(ready) => {
            let job = job(shared, slot, lease, &ready, &attempt);
            match work(shared, slot, lock, lease, spool, &job, &progress, &mut stop, &mut attempt).await {
                Ok(ended) => ended,
                Err(reason) => {
                    // Whoever goes on is to go on from the latest state.
                    let waits = reason != CALLED_OFF && may_go_on_here(&reason, &shared.id);
                    if shared.is_stopping() || waits {
                        set(&progress, "handing over", 0, 0, None);
                        attempt.handover.finish(HANDOVER).await;
                    }
                    if let Some(waste) = attempt.wasted(shared, slot, lease, &reason) {
                        shared.untold.put(&shared.id, waste);
                    }
                    return Ended::Stopped(reason);
                }
            }
        }
    };
    if matches!(outcome, Outcome::Crashed { .. }) && !attempt.advanced {
        // Perhaps it is the state that it crashes at.
        attempt.states.remove();
    }
    set(&progress, "delivering", 0, 0, None);
    spool.flush();
    let mut record = attempt.record(shared, slot, lease, spool, outcome, training);
    keep(shared, &mut record).await;
    Ended::Record(Box::new(record))
}

/// Returns once no other slot is at work on the trial: one that it was taken from may not have been told yet, and
/// still writes into the same folder of states.
async fn alone(shared: &Shared, slot: &Slot, lease: &Lease) {
    let is_elsewhere = || shared.running().iter().any(|(id, r)| *id != slot.id && *r.trial() == lease.trial);
    let gone = async {
        while is_elsewhere() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    // It may as well have a record that cannot be delivered now: that writes nothing.
    let _ = tokio::time::timeout(FAREWELL + HANDOVER, gone).await;
}

/// Returns when the trial is to end, with the reason.
async fn told_to_stop(shared: &Shared, stop: &mut watch::Receiver<Option<String>>) -> String {
    tokio::select! {
        () = shared.stopped() => SHUTTING_DOWN.to_owned(),
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

fn job(shared: &Shared, slot: &Slot, lease: &Lease, ready: &Ready, attempt: &AttemptLog) -> Job {
    let every_seconds = shared.options.save_every.as_secs_f64();
    // Where nothing is trained there is nothing to keep.
    let keep = |wanted: bool| wanted && lease.settings.train.is_some();
    Job {
        settings: lease.settings.clone(),
        device: if slot.gpu.is_some() { JobDevice::Cuda } else { JobDevice::Cpu },
        threads: shared.threads,
        data_dir: ready.data_dir.clone(),
        dataset: ready.dataset.clone(),
        weights: ready.weights.clone(),
        save_weights: keep(lease.keep.weights).then(|| artifacts(shared, lease).join("weights.safetensors")),
        save_adapter: keep(lease.keep.adapter).then(|| artifacts(shared, lease).join("adapter")),
        save_states: (every_seconds > 0.0).then(|| SaveStates { dir: attempt.states.dir().to_owned(), every_seconds }),
        resume: attempt.carried.as_ref().map(|(state, _)| state.clone()),
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
    let mut all = shared.meters(slot, worker.pid()).meters;
    all.extend(worker.pid().map(|pid| Box::new(ProcessMeter::new(pid)) as Box<dyn Meter>));
    let mut batches_of_readings = sample(all, shared.options.meter_every);
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
            Some(batch) = batches_of_readings.recv() => take(batch, spool, attempt),
            _ = batches.tick() => {
                spool.flush();
                attempt.look_at_clocks();
            }
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
    if attempt.is_metered() {
        // The end lies between two readings of the meter; without those behind it, the last joules would be missing.
        let behind = async {
            while let Some(batch) = batches_of_readings.recv().await {
                let at = batch.at;
                take(batch, spool, attempt);
                if at.seconds_since(attempt.end) >= BEHIND_THE_END {
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

/// Keeps what a round of reading brought.
fn take(batch: Batch, spool: &Spool, attempt: &mut AttemptLog) {
    for reading in batch.readings {
        attempt.reading(spool, reading.at, reading.channel, reading.value);
    }
    batch.remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
    attempt.remark(batch.remarks);
}

/// Waits for a device that is warmer than when its idle power was measured, as long as it cools.
async fn cool(shared: &Shared, slot: &Slot, progress: &Mutex<Progress>, attempt: &mut AttemptLog) {
    let Some(nvidia) = shared.nvidia.as_ref() else { return };
    let Some(gpu) = &slot.gpu else { return };
    let idle = attempt.covered.device.as_ref().ok().and_then(|m| m.character.idle.as_ref()?.celsius);
    let begun = Instant::now();
    let mut cooling = idle.map(Cooling::towards);
    while let Some(celsius) = nvidia.celsius(gpu.index) {
        attempt.start_celsius = Some(celsius);
        let over = cooling.as_mut().is_none_or(|c| c.is_over(celsius, begun.elapsed()));
        if over {
            attempt.remark(cooling.and_then(|c| c.remark(celsius)));
            return;
        }
        set(progress, "cooling", 0, 0, None);
        tokio::time::sleep(LOOK).await;
    }
}
