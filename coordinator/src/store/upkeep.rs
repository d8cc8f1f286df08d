//! What the store does for itself now and then: snapshots, and an index that failed.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleet_common::lease::Millis;

use super::journal::{From, SEGMENT_BYTES};
use super::replay::{self, Made, Making};
use super::{Batch, INDEX, Layout, Part, SNAPSHOTS, Store, StoreError, layout, lock, snapshot};
use crate::core::State;

/// Sizes at which something is done.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after which a segment of the journal is closed.
    pub segment_bytes: u64,
    /// Events after which a snapshot is made; more where there are more than four times as many trials, so that what
    /// snapshots cost per trial does not grow with their number.
    pub snapshot_events: u64,
    /// Bytes of the journal after which a snapshot is made; more from 262,144 trials on, for the same reason.
    pub snapshot_bytes: u64,
}

impl Default for Limits {
    /// 20,000 events or 256 MiB are replayed in less than a second.
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, snapshot_events: 20_000, snapshot_bytes: 256 << 20 }
    }
}

/// Trials from which on a snapshot is made after more bytes: one of a million trials takes seconds.
const MANY: u64 = 1 << 18;
/// How long after a refusal the disk is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The same where little is written.
const PROBE: Duration = Duration::from_secs(1);
/// What an ordinary commit may take.
const PROBE_BYTES: usize = 64 << 10;

/// What is under way, and what was done last.
#[derive(Debug)]
pub(super) struct Upkeep {
    limits: Limits,
    making: Option<JoinHandle<Result<Option<Made>, StoreError>>>,
    /// The latest event of the latest snapshot.
    sequence: u64,
    /// Bytes of the journal then.
    journal: u64,
    not_before: Option<Instant>,
    pub(super) index_not_before: Option<Instant>,
    probe_not_before: Option<Instant>,
}

impl Upkeep {
    /// After a start with that snapshot.
    pub(super) fn new(limits: Limits, snapshot: u64, journal: u64) -> Self {
        Self {
            limits,
            making: None,
            sequence: snapshot,
            journal,
            not_before: None,
            index_not_before: None,
            probe_not_before: None,
        }
    }
}

impl Store {
    /// Does what is due, without waiting for it; called again and again. Returns a snapshot that became whole.
    pub fn upkeep(&mut self, trials: usize) -> Option<Made> {
        let made = self.collect(false);
        self.recover_index();
        self.probe();
        let due = self.journal.latest().saturating_sub(self.upkeep.sequence);
        let limits = self.upkeep.limits;
        let bytes = limits.snapshot_bytes.max(limits.snapshot_bytes / MANY * trials as u64);
        let is_due = due >= limits.snapshot_events.max(trials as u64 / 4)
            || (due > 0 && self.journal.bytes().saturating_sub(self.upkeep.journal) >= bytes);
        let waits = self.upkeep.not_before.is_some_and(|at| Instant::now() < at);
        if is_due && !waits && self.upkeep.making.is_none() {
            let making = Making { dir: self.snapshots(), journal: self.journal.view().clone(), at_unix_ms: unix_ms() };
            let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || making.run());
            match thread {
                Ok(thread) => self.upkeep.making = Some(thread),
                Err(error) => self.refused(&error),
            }
        }
        made
    }

    /// What became of a snapshot under way, if it is whole or `wait` says to wait for it.
    pub(super) fn collect(&mut self, wait: bool) -> Option<Made> {
        if !self.upkeep.making.as_ref().is_some_and(|making| wait || making.is_finished()) {
            return None;
        }
        let outcome = self.upkeep.making.take()?.join();
        match outcome {
            Ok(Ok(made)) => {
                if let Some(made) = made {
                    self.made(made);
                }
                made
            }
            Ok(Err(error)) => {
                self.refused(&error);
                None
            }
            Err(_) => {
                self.refused(&"its thread ended without a word; this is a bug");
                None
            }
        }
    }

    fn made(&mut self, made: Made) {
        self.health.works(Part::Snapshot);
        self.upkeep.sequence = made.sequence;
        self.upkeep.journal = made.journal;
        self.upkeep.not_before = None;
        tracing::info!(event = made.sequence, bytes = made.bytes, "a snapshot was made");
    }

    fn refused(&mut self, why: &impl ToString) {
        self.health.fails(Part::Snapshot, why);
        self.upkeep.not_before = Some(Instant::now() + RETRY);
    }

    /// Nobody may be asking for anything: whether the journal's disk has space again is found out nevertheless.
    fn probe(&mut self) {
        if !self.health.is_failing(Part::Journal) || self.upkeep.probe_not_before.is_some_and(|at| Instant::now() < at)
        {
            return;
        }
        self.upkeep.probe_not_before = Some(Instant::now() + PROBE);
        let path = self.path.join("probe");
        let written = std::fs::write(&path, [0; PROBE_BYTES]).and_then(|()| std::fs::File::open(&path)?.sync_all());
        let _ = std::fs::remove_file(&path);
        if written.is_ok() {
            self.health.works(Part::Journal);
        }
    }

    /// The index takes in what it lacks, if it failed and works again.
    fn recover_index(&mut self) {
        if !self.health.is_failing(Part::Index) || self.upkeep.index_not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.catch_up() {
            Ok(()) => {
                self.health.works(Part::Index);
                self.upkeep.index_not_before = None;
            }
            Err(error) => {
                self.health.fails(Part::Index, &error);
                self.upkeep.index_not_before = Some(Instant::now() + RETRY);
            }
        }
    }

    fn catch_up(&self) -> Result<(), StoreError> {
        self.index.reopen()?;
        let mut batch = Batch { index: self.index.as_ref(), events: Vec::new(), bytes: 0 };
        let from = From::After(self.index.applied());
        replay::fold(self.journal.view(), from, &mut State::default(), u64::MAX, Millis(0), |_, placed| {
            batch.add(placed)
        })?;
        batch.apply()
    }

    /// Leaves a snapshot of `state`, which is what the journal says, so that the next start is quick.
    pub fn close(&mut self, state: &State) {
        self.collect(true);
        let Some(bound) = self.bound.filter(|b| b.sequence > self.upkeep.sequence) else { return };
        let view = self.journal.view();
        let head = snapshot::Head { bound, segments: view.segments.clone(), at_unix_ms: unix_ms() };
        match snapshot::write(&self.snapshots(), &head, state) {
            Ok(bytes) => self.made(Made { sequence: bound.sequence, bytes, journal: self.journal.bytes() }),
            Err(error) => self.refused(&error),
        }
    }
}

impl Drop for Store {
    /// Nothing writes to the folder afterwards.
    fn drop(&mut self) {
        self.collect(true);
    }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// What [`rebuild`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Events that were read.
    pub events: u64,
    /// Trials.
    pub trials: u64,
    /// Size of the snapshot.
    pub bytes: u64,
    /// What of the journal is damaged or does not follow from what is before. Then the snapshots, which may have what
    /// followed from the lost events, are kept.
    pub misfits: Vec<String>,
}

/// Makes the index and a snapshot again from the journal, in a folder that no coordinator holds.
///
/// # Errors
/// It is in use, a later version wrote it, or the disk refuses.
pub fn rebuild(dir: &Path) -> Result<Rebuilt, StoreError> {
    let io = |source| StoreError::Io { path: dir.to_owned(), source };
    match layout::look(dir).map_err(io)? {
        Layout::Empty => return Err(StoreError::NoState { path: dir.to_owned() }),
        Layout::Newer(found) => return Err(StoreError::Newer { path: dir.to_owned(), found }),
        Layout::Known(_) => {}
    }
    let held = lock(dir)?;
    let journal = layout::journal(dir)?;
    let mut state = State::default();
    let folded = replay::fold(&journal, From::After(0), &mut state, 0, Millis(0), |_, _| Ok(()))?;
    let damage = folded.damage.iter().filter(|d| !d.tail);
    let damage = damage.map(|d| format!("{}, byte {}: {}", d.file.display(), d.offset, d.consequence()));
    let misfits: Vec<String> = damage.chain(folded.misfits).collect();
    if let Some(bound) = folded.bound.filter(|_| misfits.is_empty()) {
        let snapshots = dir.join(SNAPSHOTS);
        let head = snapshot::Head { bound, segments: journal.segments.clone(), at_unix_ms: unix_ms() };
        snapshot::write(&snapshots, &head, &state)?;
        // Others may be those that are not right.
        let others = snapshot::list(&snapshots).map_err(io)?;
        for path in others.into_iter().filter(|path| snapshot::head(path).ok() != Some(head.clone())) {
            std::fs::remove_file(path).map_err(io)?;
        }
    }
    match std::fs::remove_dir_all(dir.join(INDEX)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    drop((held, state));
    let (mut store, state, _) = Store::open(dir)?;
    store.close(&state);
    let latest = snapshot::list(&store.snapshots()).map_err(io)?.first().and_then(|path| path.metadata().ok());
    Ok(Rebuilt {
        events: folded.events,
        trials: state.trial_count() as u64,
        bytes: latest.map_or(0, |m| m.len()),
        misfits,
    })
}
