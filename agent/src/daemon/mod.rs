//! The daemon: asks for leases, runs each trial in a worker process of its own, meters it, and delivers what came out.
//!
//! ```text
//! STATE/agent-id     who this agent is
//! STATE/starts       how many daemons it has had
//! STATE/identity.pem its certificate and key, where connections are encrypted
//! STATE/lock         held while the daemon runs
//! STATE/outbox/      finished records, until they are delivered
//! STATE/spool/       samples, until they are acknowledged
//! STATE/wasted/      energy that is in no record, until it is told
//! STATE/resume/      states that interrupted trials go on from, also on their way to other machines
//! STATE/logs/        what workers logged, one file per attempt
//! STATE/cache/       data sets and weights that were fetched, unless --cache names another place
//! STATE/artifacts/   trained weights, where a campaign wants them kept
//! ```

mod artifacts;
mod attempt;
mod characterise;
mod connection;
mod content;
mod describe;
mod driver;
mod endpoint;
mod identity;
mod idle;
mod outbox;
mod process;
mod resume;
mod slot;
mod spool;
mod trial;
mod upload;
mod wasted;

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fleet_common::id::{AgentId, Attempt, SlotId, TrialId};
use fleet_common::record::{PhaseRecord, Record};
use fleet_common::tags::Tags;
use fleet_common::units::Bytes;
use fleet_observe::log;
use tokio::sync::watch;
use tracing::Instrument as _;

use artifacts::Artifacts;
pub use artifacts::Place;
pub use connection::{Client, connect};
pub use content::ContentPlace;
use driver::Driver;
pub use identity::{identity, join, joined, needs};
use idle::Preparing;
use outbox::Outbox;
use spool::{LeftBehind, Spool};
use trial::Running;
use wasted::{Untold, Waste};

use crate::device::{self, DeviceLock, Host, Label, Limit, Nvidia, Slot};
use crate::files::Files;
use crate::meter;
use crate::metrics::Metrics;

/// Generated from `proto/fleet/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the comments are in proto/")]
pub mod rpc {
    tonic::include_proto!("fleet.v1");
}

/// What a daemon that is on its way out writes into its lock.
const LEAVING: &str = "leaving";
/// A daemon is gone within this time: the worker's last step and state, its way to the store, the last samples, the
/// leases.
const PREDECESSOR: Duration = Duration::from_secs(70);

/// What a daemon needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The coordinator's address, such as `http://127.0.0.1:7070`.
    pub coordinator: String,
    /// The state folder.
    pub state: PathBuf,
    /// Where data sets are.
    pub data: PathBuf,
    /// Where initial weights are, `BACKBONE.safetensors` each, or another of `fleet_checkpoint::EXTENSIONS`.
    pub weights: Option<PathBuf>,
    /// Devices to offer; empty means the GPUs, or the CPU where there is none.
    pub devices: Vec<String>,
    /// What sets this machine apart from others with the same device.
    pub label: Option<Label>,
    /// What the operator says of this machine's slots, for campaigns to select by.
    pub tags: Tags,
    /// How much of a slot trials may be given.
    pub limits: Vec<Limit>,
    /// Threads per worker; by default all CPUs, shared among the slots.
    pub threads: Option<u32>,
    /// Where device locks are.
    pub lock_dir: PathBuf,
    /// The worker program.
    pub worker: PathBuf,
    /// NVML's library, if not the usual one.
    pub nvml: Option<PathBuf>,
    /// Where meters are.
    pub meters: meter::Places,
    /// Time between two readings of a meter.
    pub meter_every: Duration,
    /// Whether meters are looked at before the first trial of a day.
    pub characterise: bool,
    /// Where what is known about meters is kept.
    pub meter_cache: PathBuf,
    /// How often a trial's state is saved; never if zero.
    pub save_every: Duration,
    /// How long a device rests after each trial.
    pub cool_down: Duration,
    /// Where metrics are served, as HOST:PORT; nowhere if none.
    pub metrics: Option<String>,
    /// Where data sets and weights that were fetched are kept.
    pub content_cache: PathBuf,
    /// Most bytes that they may take.
    pub content_space: Bytes,
    /// Folders of content that are asked before the coordinator.
    pub content_from: Vec<ContentPlace>,
    /// Most bytes that states of trials that are not running may take.
    pub state_space: u64,
    /// The daemon ends once it had nothing to do for so long; never if none.
    pub leave_when_idle: Option<Duration>,
    /// Where states and kept weights go, for other machines.
    pub artifacts: Place,
    /// Bytes per second on the way there while trials run; 0 for no limit.
    pub artifacts_rate: u64,
}

/// What all parts of a daemon share.
struct Shared {
    id: AgentId,
    host: Host,
    slots: Vec<Slot>,
    nvidia: Option<Arc<Nvidia>>,
    options: Options,
    files: Arc<Files>,
    outbox: Outbox,
    untold: Untold,
    cache: Mutex<meter::Cache>,
    faults: describe::Faults,
    /// Data sets and weights that were fetched.
    content: Arc<content::Content>,
    metrics: Arc<Metrics>,
    threads: u32,
    client: Client,
    artifacts: Artifacts,
    /// What each slot is doing.
    running: Mutex<HashMap<SlotId, Running>>,
    /// Slots that look at their meters before they ask for work.
    preparing: Preparing,
    /// Turns true when the daemon is to end.
    stopping: watch::Receiver<bool>,
}

impl Shared {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<SlotId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known about meters, as it stands.
    fn cache(&self) -> meter::Cache {
        self.cache_mut().clone()
    }

    fn cache_mut(&self) -> std::sync::MutexGuard<'_, meter::Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trials in the slots.
    fn trials(&self) -> Vec<TrialId> {
        self.running().values().map(|r| r.trial().clone()).collect()
    }

    /// The meters of a slot, with what is known about them; `worker` is the process of its trial.
    fn meters(&self, slot: &Slot, worker: Option<u32>) -> meter::SlotMeters {
        let places = &self.options.meters;
        meter::of(slot, &self.host.name, self.nvidia.as_ref(), places, worker, &self.cache())
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns once the daemon is to end.
    async fn stopped(&self) {
        let _ = self.stopping.clone().wait_for(|stopping| *stopping).await;
    }
}

/// Runs until `stopping` turns true, or it has been idle for as long as the options say. Then workers are ended and
/// their leases given back.
///
/// # Errors
/// The daemon cannot start: a device is taken, the state folder is in use, a path is wrong.
pub async fn run(options: Options, stopping: watch::Receiver<bool>) -> anyhow::Result<()> {
    let (leave, stopping) = idle::or_idle(stopping);
    let state = &options.state;
    std::fs::create_dir_all(state).with_context(|| format!("cannot make the state folder {}", state.display()))?;
    let mut told_to_stop = stopping.clone();
    let state_lock = tokio::select! {
        lock = lock_state(state) => lock?,
        _ = told_to_stop.wait_for(|stopping| *stopping) => return Ok(()),
    };
    tokio::spawn(say_when_leaving(state_lock.try_clone()?, stopping.clone()));
    if !options.worker.exists() {
        bail!(
            "the worker program {} is not there; it is built beside fleet-agent with `cargo build --release`, or named \
             with --worker",
            options.worker.display()
        );
    }
    let host = Host::read();
    let nvidia = Nvidia::open(options.nvml.as_deref());
    let boards = device::all(&host, nvidia.as_ref(), &options.worker);
    for board in &boards.left_out {
        tracing::warn!(device = board.name, "not offered: {}", board.why);
    }
    let mut slots = device::choose(boards, &options.devices)?;
    if let Some(limit) = options.limits.iter().find(|limit| slots.iter().all(|s| s.id != limit.slot)) {
        let offered: Vec<&str> = slots.iter().map(|s| s.id.as_str()).collect();
        bail!(
            "--limit-memory names {}, which is not offered here; this agent offers {}",
            limit.slot,
            offered.join(", ")
        );
    }
    if let Some(label) = &options.label {
        slots.iter_mut().for_each(|slot| slot.hardware = label.append(&slot.hardware));
    }
    let id = agent_id(state, &host.name)?;
    let starts = starts(state);
    let mut locks = Vec::new();
    for slot in &slots {
        let owner = format!("agent {id}, process {}, state {}", std::process::id(), state.display());
        locks.push(DeviceLock::take(&options.lock_dir, &slot.id, &owner)?);
    }
    let client = connect(&options.coordinator, state)?;
    // Of its own, so that bulk does not stand in front of heartbeats.
    let bulk = connection::link(&options.coordinator, state)?;
    let content = content::Content::open(&options, bulk.clone())?;
    let threads = options.threads.unwrap_or_else(|| (host.cpus / slots.len().max(1) as u32).max(1));
    let artifacts = Artifacts::new(options.artifacts.clone(), bulk, options.artifacts_rate);
    let shared = Arc::new(Shared {
        files: Arc::new(Files::new(options.data.clone(), options.weights.clone())),
        outbox: Outbox::open(state.join("outbox")).context("cannot make the outbox")?,
        untold: Untold::new(state.join("wasted")),
        cache: Mutex::new(meter::Cache::open(&options.meter_cache)),
        faults: describe::Faults::default(),
        content: Arc::new(content),
        metrics: Metrics::new(id.as_str(), &host.name, &slots),
        id,
        host,
        slots: slots.clone(),
        nvidia: nvidia.ok().map(Arc::new),
        options,
        threads,
        artifacts,
        client,
        running: Mutex::default(),
        preparing: Preparing::default(),
        stopping,
    });
    announce(&shared);
    describe::watch(&shared);
    if let Some(address) = &shared.options.metrics {
        endpoint::serve(&shared, address).await?;
    }

    // Before the introduction: a coordinator that never answers has no work either.
    let leaving =
        shared.options.leave_when_idle.map(|limit| tokio::spawn(idle::leave_when_idle(shared.clone(), limit, leave)));
    shared.content.look(&shared.files).await;
    let looking = shared.clone();
    let looking = tokio::spawn(async move { looking.content.keep_looking(&looking.files).await });
    let undelivered = shared.outbox.all();
    let content = shared.content.here();
    let ended = Driver::new(shared, starts, content, slots.into_iter().zip(locks).collect(), undelivered).run().await;
    leaving.inspect(tokio::task::JoinHandle::abort);
    looking.abort();
    ended
}

/// Sends what an earlier daemon could not send any more, and notes the energy of what it could not finish. Returns the
/// spools of records that are still to be delivered.
fn send_leftovers(
    shared: &Arc<Shared>,
    left: Vec<LeftBehind>,
    overtaken: &HashMap<TrialId, Vec<PhaseRecord>>,
    undelivered: &[Arc<Record>],
    beside: &mut tokio::task::JoinSet<()>,
) -> HashMap<(TrialId, Attempt), Arc<Spool>> {
    let state = &shared.options.state;
    let mut of_records = HashMap::new();
    for LeftBehind { slot, has_ended, spool, readings } in left {
        let (trial, attempt) = spool.whose();
        let (whose, spool) = ((trial.clone(), attempt), Arc::new(spool));
        let span = log::trial_span(&whose.0.cell, whose.0.repeat, attempt.get(), &shared.id, &slot);
        span.in_scope(|| tracing::info!("sending samples from before the restart"));
        let sender = (shared.id.clone(), slot.clone());
        let uploading = upload::upload(shared.client.clone(), spool.clone(), sender, shared.metrics.clone());
        let sent = spool.clone();
        let sending = async move {
            uploading.await;
            sent.remove();
        };
        beside.spawn(sending.instrument(span));
        if undelivered.iter().any(|r| r.trial == whose.0 && r.attempt == attempt) {
            of_records.insert(whose, spool);
            continue;
        }
        let Some(slot) = shared.slots.iter().find(|s| s.id == slot).filter(|_| !has_ended) else { continue };
        let covered = shared.meters(slot, None).covered;
        let overtaken = overtaken.get(&whose.0).map(Vec::as_slice);
        if let Some(waste) = Waste::left_behind(state, slot, &covered, &whose.0, attempt, &readings, overtaken) {
            shared.untold.put(&shared.id, waste);
        }
    }
    of_records
}

/// CPU time of this process so far.
fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The state folder, ours for as long as the file is open. Waits for a predecessor that is on its way out: it may be
/// saving the state of a trial.
async fn lock_state(state: &Path) -> anyhow::Result<File> {
    let path = state.join("lock");
    let until = Instant::now() + PREDECESSOR;
    loop {
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot write to {}", state.display()))?;
        match lock.try_lock() {
            Ok(()) => {
                lock.set_len(0).context("cannot write the lock of the state folder")?;
                return Ok(lock);
            }
            Err(TryLockError::WouldBlock) => {
                let mut says = String::new();
                let _ = lock.read_to_string(&mut says);
                if says != LEAVING || Instant::now() > until {
                    bail!(
                        "{} is in use by another agent; stop that one, or give this one another --state folder",
                        state.display()
                    );
                }
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the state folder"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Notes in the lock that its holder is on its way out.
async fn say_when_leaving(mut lock: File, mut stopping: watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_ok() {
        let _ = lock.write_all(LEAVING.as_bytes());
    }
}

/// Who this agent is: made up once from the host's name and chance, then kept.
fn agent_id(state: &Path, host: &str) -> anyhow::Result<AgentId> {
    let path = state.join("agent-id");
    if let Ok(text) = std::fs::read_to_string(&path) {
        return text.trim().parse().with_context(|| format!("{} does not hold an agent id", path.display()));
    }
    let plain: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let name = plain.trim_matches('-');
    let id = format!("{}-{:08x}", if name.is_empty() { "agent" } else { name }, rand::random::<u32>());
    std::fs::write(&path, &id).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(id.parse()?)
}

/// How many daemons this agent has had, this one included; kept, so that what an earlier one said is told from what this
/// one says.
fn starts(state: &Path) -> u64 {
    let path = state.join("starts");
    let before: u64 = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let now = before.saturating_add(1).min(u64::from(u32::MAX));
    let kept = write_durably(&path, &now.to_string());
    if let Err(error) = kept {
        tracing::warn!(%error, path = %path.display(), "it cannot be kept how often this agent was started");
    }
    now
}

fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

fn announce(shared: &Shared) {
    for slot in &shared.slots {
        let energy = match &shared.meters(slot, None).covered.device {
            Ok(device) => format!("energy is measured: {}", device.describe().sources.join(", ")),
            Err(why) => format!("energy is unavailable: {why}"),
        };
        tracing::info!(agent = %shared.id, slot = %slot.id, hardware = %slot.hardware, "{energy}");
    }
}
