//! What the coordinator keeps: the journal (the truth), snapshots and the index (made again from the journal at any
//! time), the samples. `README.md` beside this file says what is where, and why.
//!
//! ```text
//! STATE/version      of the layout
//! STATE/lock         held while the coordinator runs
//! STATE/journal/     events, in segments
//! STATE/snapshots/   the state up to an event
//! STATE/index/       sled
//! STATE/samples/     samples, see there
//! STATE/content/     data sets and weights that were shared, by hash
//! ```

mod archive;
mod backup;
mod content;
mod health;
mod index;
pub mod journal;
mod layout;
mod replay;
mod samples;
pub mod snapshot;
mod upkeep;
mod verify;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_common::lease::Millis;
use prost::Message;

pub(crate) use archive::beside_name;
pub use archive::{ArchiveError, Moved, export, import};
pub use backup::{Copying, Manifest};
pub use content::{Content, Refused, Shared};
pub use health::{Health, Part};
pub use index::{Index, IndexError, Place, Placed, SledIndex, Stored};
pub use journal::{Damage, Journal, JournalError};
pub use layout::{LAYOUT, Layout};
pub use replay::Made;
pub use samples::{Keep, KeepTime, Reader, Removal, Samples, SamplesError, flatten};
pub use snapshot::SnapshotError;
pub use upkeep::{Limits, Rebuilt, rebuild};
pub use verify::{Finding, Verified, verify};

use crate::core::{Event, State};
use journal::{Bound, From, View};
use upkeep::Upkeep;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has it.
    #[error("{path} is in use by another coordinator; stop that one, or give this one another --state folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused.
    #[error("the state folder {path} cannot be used: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is nothing to look at.
    #[error(
        "{path} is not a coordinator's state folder: expected a journal in it; name the folder that `fleet serve --state` has"
    )]
    NoState {
        /// The folder.
        path: PathBuf,
    },
    /// A later version wrote it.
    #[error(
        "the state folder {path} was written by a later version of fleet (its layout is {found}, this version knows up \
         to {LAYOUT}); use that version, or let it write a file for this one with `fleet store export`"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The version of its layout.
        found: u32,
    },
    /// A later version wrote an event.
    #[error(
        "event {sequence} in {path} is of a kind that this version of fleet does not know: a later version wrote it. Use \
         that version; leaving the event out would give a state that never was"
    )]
    NewerEvent {
        /// The segment.
        path: PathBuf,
        /// The event's number.
        sequence: u64,
    },
    /// See [`JournalError`].
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// See [`SnapshotError`].
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// See [`IndexError`].
    #[error(transparent)]
    Index(#[from] IndexError),
    /// See [`SamplesError`].
    #[error(transparent)]
    Samples(#[from] SamplesError),
}

/// What was found when the state folder was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// The latest event of the snapshot that the state was read from; 0 for none.
    pub snapshot: u64,
    /// Events replayed behind it.
    pub events: u64,
    /// Stretches of the journal that could not be read.
    pub damage: Vec<Damage>,
    /// Events that were read but do not follow from those before: their forerunners are in the damage.
    pub misfits: Vec<String>,
    /// Snapshots that are there and were not used, with the reason.
    pub refused: Vec<String>,
    /// The index had to be made again.
    pub rebuilt: bool,
    /// The folder had the layout of an earlier version.
    pub migrated: bool,
}

/// The state folder, open.
pub struct Store {
    journal: Journal,
    /// Shared with readers.
    pub index: Arc<dyn Index>,
    /// Shared with readers.
    pub samples: Arc<Samples>,
    /// Shared with those who tell.
    pub health: Arc<Health>,
    path: PathBuf,
    /// The latest durable record.
    bound: Option<Bound>,
    upkeep: Upkeep,
    _lock: File,
}

/// How long a lock may outlive its holder: a program that was being started then has a copy of it until it runs.
const FAREWELL: Duration = Duration::from_millis(500);

/// Takes a state folder for this process alone.
pub(crate) fn lock(path: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let lock = File::create(path.join("lock")).map_err(io)?;
    let until = Instant::now() + FAREWELL;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
        }
    }
}

impl Store {
    /// Opens or creates a state folder: the latest snapshot, and what the journal has behind it. A folder of an earlier
    /// layout is brought to this one.
    ///
    /// # Errors
    /// It is in use, cannot be written to, or holds something else.
    pub fn open(path: &Path) -> Result<(Self, State, Opened), StoreError> {
        Self::open_with(path, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As above.
    pub fn open_with(path: &Path, limits: Limits) -> Result<(Self, State, Opened), StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        let lock = lock(path)?;
        if let Layout::Newer(found) = layout::look(path).map_err(io)? {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        let mut opened = Opened { migrated: layout::migrate(path).map_err(io)?, ..Opened::default() };
        let (journal, tail) = Journal::open_with(&path.join(layout::JOURNAL), limits.segment_bytes)?;
        let base = replay::base(&path.join(SNAPSHOTS), journal.view(), Millis(0)).map_err(io)?;
        let (rest, sequence) = (base.rest(), base.sequence());
        opened.snapshot = sequence;
        opened.refused = base.refused;
        let mut state = base.state;
        let index = open_index(path, journal.latest(), &mut opened)?;
        let applied = index.applied();
        // Of what is in the snapshot, the index may lack something.
        let from = if applied < sequence { From::After(applied) } else { rest };
        let mut batch = Batch { index: &index, events: Vec::new(), bytes: 0 };
        let folded = replay::fold(journal.view(), from, &mut state, sequence, Millis(0), |_, placed| {
            if placed.sequence > applied { batch.add(placed) } else { Ok(()) }
        })?;
        batch.apply()?;
        opened.events = folded.events;
        opened.misfits = folded.misfits;
        if folded.untold > 0 {
            opened.misfits.push(format!("{} more events do not fit", folded.untold));
        }
        opened.damage = [base.damage, folded.damage, tail].concat();
        let samples = Arc::new(Samples::open(&path.join("samples"))?);
        let bound = folded.bound.or(base.bound);
        // How long the journal was at the snapshot does not matter enough to look for it.
        let upkeep = Upkeep::new(limits, sequence, journal.bytes());
        let store = Self {
            journal,
            index: Arc::new(index),
            samples,
            health: Arc::default(),
            path: path.to_owned(),
            bound,
            upkeep,
            _lock: lock,
        };
        Ok((store, state, opened))
    }

    /// Makes events durable, with one sync for all of them, and brings the index up to date.
    ///
    /// # Errors
    /// The journal could not be written: none of the events counts. An index that fails behind a written journal is no
    /// error, because the events do count; [`Store::upkeep`] brings it up to date once it can be written again.
    pub fn commit(&mut self, events: Vec<(u64, Event)>) -> Result<(), StoreError> {
        let mut placed = Vec::with_capacity(events.len());
        let mut bound = self.bound;
        for (at_unix_ms, event) in events {
            let now = self.journal.append(&event.to_journal(at_unix_ms).encode_to_vec())?;
            bound = Some(now);
            placed.push(Placed { sequence: now.sequence, at: now.at, event });
        }
        if let Err(error) = self.journal.commit() {
            self.health.fails(Part::Journal, &error);
            return Err(error.into());
        }
        self.health.works(Part::Journal);
        self.bound = bound;
        if !self.health.is_failing(Part::Index)
            && let Err(error) = self.index.apply(&placed)
        {
            self.health.fails(Part::Index, &error);
        }
        Ok(())
    }

    /// Bytes of the journal that are durable.
    pub fn journal_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// What of the journal is durable.
    pub fn journal(&self) -> &View {
        self.journal.view()
    }

    /// The state as the journal has it, leases renewed at `now`: the way back after a commit failed.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn replay(&self, now: Millis) -> Result<State, StoreError> {
        let io = |source| StoreError::Io { path: self.path.clone(), source };
        let base = replay::base(&self.snapshots(), self.journal.view(), now).map_err(io)?;
        let (rest, sequence, mut state) = (base.rest(), base.sequence(), base.state);
        replay::fold(self.journal.view(), rest, &mut state, sequence, now, |_, _| Ok(()))?;
        Ok(state)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }
}

/// The folder of the snapshots in a state folder.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// The folder of the index in a state folder.
pub(crate) const INDEX: &str = "index";

/// The index; made again where it cannot be opened, is of another version, or knows more than the journal (whose tail
/// was cut).
fn open_index(path: &Path, latest: u64, opened: &mut Opened) -> Result<SledIndex, StoreError> {
    let (index, journal) = (path.join(INDEX), path.join(layout::JOURNAL));
    match SledIndex::open(&index, &journal) {
        Ok(open) if open.is_current()? && open.applied() <= latest => return Ok(open),
        _ => {}
    }
    opened.rebuilt = true;
    match std::fs::remove_dir_all(&index) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Io { path: path.to_owned(), source })
        }
        _ => Ok(SledIndex::open(&index, &journal)?),
    }
}

/// Events on their way into the index, in parts, so that a long journal does not become one enormous batch.
struct Batch<'a> {
    index: &'a dyn Index,
    events: Vec<Placed>,
    bytes: usize,
}

impl Batch<'_> {
    fn add(&mut self, placed: Placed) -> Result<(), StoreError> {
        if let Event::ImportedPart { records, .. } = &placed.event {
            self.bytes += records.iter().map(Vec::len).sum::<usize>();
        }
        // The record stays in the journal.
        self.events.push(placed);
        if self.events.len() >= 1000 || self.bytes >= 8 << 20 { self.apply() } else { Ok(()) }
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        self.index.apply(&self.events)?;
        self.events.clear();
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
