//! An attempt's states on their way to the store: one at a time, beside the trial, the latest first.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fleet_artifacts::Name;
use fleet_common::id::{HardwareClass, SlotId, TrialId};
use fleet_common::units::Bytes;
use fleet_common::wire::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{NotWanted, Whose, bundle, count_sent, pause};
use crate::daemon::Shared;
use crate::daemon::resume::{Carried, States};
use crate::half::backoff::Backoff;

/// What could not be handed over is tried again after so long, and longer each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What went to the store while the worker was at work: company for its meters.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(in crate::daemon) struct Sent {
    states: u32,
    bytes: u64,
    seconds: f64,
}

impl Sent {
    /// Both.
    pub(in crate::daemon) fn plus(self, other: Self) -> Self {
        Self {
            states: self.states + other.states,
            bytes: self.bytes + other.bytes,
            seconds: self.seconds + other.seconds,
        }
    }

    /// What a careful reader must know.
    pub(in crate::daemon) fn flag(self) -> Option<String> {
        (self.states > 0).then(|| {
            let Self { states, bytes, seconds } = self;
            let what = if states == 1 { "1 state was".to_owned() } else { format!("{states} states were") };
            let bytes = Bytes(bytes);
            format!("company: {what} sent to the artifact store beside the trial ({bytes}, {seconds:.1} s in all)")
        })
    }
}

/// A state to hand over. The file is open, so that a later one may replace it on the disk meanwhile.
#[derive(Clone)]
struct Ready {
    step: u32,
    state: Arc<File>,
    carried: Arc<Vec<u8>>,
}

/// Whose states, and from where.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) whose: Whose,
    pub(super) slot: SlotId,
    pub(super) hardware: HardwareClass,
    pub(super) states: States,
}

/// The handing over of one attempt's states; ends when dropped. Without a store it does nothing.
pub(in crate::daemon) struct Handover {
    running: Option<Running>,
}

struct Running {
    latest: watch::Sender<Option<Ready>>,
    /// The step of the last one that was dealt with.
    done: watch::Receiver<Option<u32>>,
    sent: Arc<Mutex<Sent>>,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Handover {
    /// Of the attempt in this slot.
    pub(in crate::daemon) fn begin(
        shared: &Arc<Shared>,
        whose: Whose,
        slot: &crate::device::Slot,
        states: &States,
    ) -> Self {
        if !shared.artifacts.is_there() {
            return Self { running: None };
        }
        let origin = Origin { whose, slot: slot.id.clone(), hardware: slot.hardware.clone(), states: states.clone() };
        let (latest, receiver) = watch::channel(None);
        let (dealt_with, done) = watch::channel(None);
        let sent: Arc<Mutex<Sent>> = Arc::default();
        let work = hand_over(shared.clone(), origin, receiver, dealt_with, sent.clone());
        let task = tokio::spawn(work.in_current_span());
        Self { running: Some(Running { latest, done, sent, shared: shared.clone(), task }) }
    }

    /// There is a state, whole, with what belongs to it.
    pub(in crate::daemon) fn offer(&self, state: &Path, carried: &Carried) {
        let Some(running) = &self.running else { return };
        let ready = File::open(state).map_err(anyhow::Error::from).and_then(|file| {
            Ok(Ready { step: carried.step, state: Arc::new(file), carried: Arc::new(serde_json::to_vec(carried)?) })
        });
        match ready {
            Ok(ready) => {
                running.latest.send_replace(Some(ready));
            }
            Err(error) => tracing::warn!(%error, "a state cannot be handed over"),
        }
    }

    /// What has been sent so far.
    pub(in crate::daemon) fn sent(&self) -> Sent {
        let sent = self.running.as_ref().map(|r| *r.sent.lock().unwrap_or_else(PoisonError::into_inner));
        sent.unwrap_or_default()
    }

    /// The trial ends here: waits until its latest state is where another machine finds it, no longer than `within`.
    pub(in crate::daemon) async fn finish(&mut self, within: Duration) {
        let Some(running) = &mut self.running else { return };
        let Some(step) = running.latest.borrow().as_ref().map(|ready| ready.step) else { return };
        running.shared.artifacts.hurry();
        let done = running.done.wait_for(|done| *done == Some(step));
        if tokio::time::timeout(within, done).await.is_err() {
            tracing::warn!(step, "the latest state could not be handed over in time; it is kept here");
        }
    }
}

/// Hands over what is offered, for as long as somebody may offer something.
async fn hand_over(
    shared: Arc<Shared>,
    origin: Origin,
    mut latest: watch::Receiver<Option<Ready>>,
    done: watch::Sender<Option<u32>>,
    sent: Arc<Mutex<Sent>>,
) {
    let mut backoff = Backoff::between(FIRST_PAUSE, LONGEST_PAUSE);
    while latest.changed().await.is_ok() {
        loop {
            let Some(ready) = latest.borrow_and_update().clone() else { break };
            let begun = Instant::now();
            let outcome = hand_over_one(&shared, &origin, &ready).await;
            if let Ok((bytes, _)) = &outcome {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                *sent = sent.plus(Sent { states: 1, bytes: *bytes, seconds: begun.elapsed().as_secs_f64() });
            }
            match outcome {
                Ok((bytes, told)) => {
                    backoff.reset();
                    match told {
                        Ok(()) => tracing::info!(step = ready.step, bytes, "a state was handed over"),
                        Err(NotWanted { reason, .. }) => {
                            tracing::info!(step = ready.step, reason, "the coordinator does not want the state");
                        }
                    }
                    done.send_replace(Some(ready.step));
                    break;
                }
                Err(error) => {
                    shared.metrics.counts.artifact_failures.inc();
                    tracing::warn!(
                        step = ready.step,
                        "a state could not be handed over; other machines cannot go on from it yet: {error:#}"
                    );
                }
            }
            tokio::select! {
                () = pause(&mut backoff) => {}
                changed = latest.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Hands over one state, and tells of it. What the coordinator took note of is noted here too.
async fn hand_over_one(
    shared: &Shared,
    origin: &Origin,
    ready: &Ready,
) -> anyhow::Result<(u64, Result<(), NotWanted>)> {
    let folder = origin.states.dir().join(HANDED_OVER);
    tokio::fs::create_dir_all(&folder).await.with_context(|| folder.display().to_string())?;
    let file = folder.join("bundle.tar");
    let (packing, to) = (ready.clone(), file.clone());
    let packed = tokio::task::spawn_blocking(move || bundle::pack(&packing.state, &packing.carried, &to)).await?;
    let hash = packed.with_context(|| format!("cannot write {}", file.display()))?;
    let Origin { whose, slot, hardware, .. } = origin;
    let name = Name::new(&format!("states/{}", whose.trial.file_stem()), hash)?;
    let bytes = shared.artifacts.put(&name, &file, whose).await?;
    let _ = tokio::fs::remove_file(&file).await;
    count_sent(&shared.metrics, bytes);
    let request = v1::SavedRequest {
        agent: shared.id.to_string(),
        slot: slot.to_string(),
        trial: Some((&whose.trial).into()),
        state: Some(v1::ResumableState {
            attempt: whose.attempt.get(),
            step: ready.step,
            artifact: name.to_string(),
            bytes,
            hardware: hardware.to_string(),
        }),
    };
    let told = shared.artifacts.tell(request).await.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    if told.is_ok() {
        let (states, carried) = (origin.states.clone(), ready.carried.clone());
        tokio::task::spawn_blocking(move || note_acknowledged(&states, &carried)).await??;
    }
    Ok((bytes, told))
}

/// The folder beside a trial's states with what is on its way, and the file in it with what belongs to the state that
/// the coordinator has taken note of last.
const HANDED_OVER: &str = "handed-over";
const ACKNOWLEDGED: &str = "acknowledged";

/// What belongs to the state that other machines go on from, if this agent has handed over one.
pub(in crate::daemon) fn acknowledged(state: &Path, trial: &TrialId) -> Option<Carried> {
    let file: PathBuf = States::of(state, trial).dir().join(HANDED_OVER).join(ACKNOWLEDGED);
    Carried::read(&std::fs::read(file).ok()?).ok()
}

/// Notes what belongs to the state that another machine would go on from.
pub(in crate::daemon) fn note_acknowledged(states: &States, carried: &[u8]) -> std::io::Result<()> {
    let folder = states.dir().join(HANDED_OVER);
    std::fs::create_dir_all(&folder)?;
    let partial = folder.join("partial");
    std::fs::write(&partial, carried)?;
    std::fs::rename(&partial, folder.join(ACKNOWLEDGED))
}

/// Hands over a state that an earlier daemon could not any more; `Err` if the coordinator does not want it.
pub(super) async fn late(
    shared: &Shared,
    origin: &Origin,
    state: &Path,
    carried: &Carried,
) -> anyhow::Result<Result<(), NotWanted>> {
    let ready = Ready {
        step: carried.step,
        state: Arc::new(File::open(state)?),
        carried: Arc::new(serde_json::to_vec(carried)?),
    };
    Ok(hand_over_one(shared, origin, &ready).await?.1)
}
