//! From what is on the disk to the state: a snapshot, then the events behind it.

use std::path::Path;

use fleet_common::lease::Millis;
use fleet_common::wire::v1;
use prost::Message;

use super::journal::{Bound, Damage, Entry, From, View};
use super::{Placed, StoreError, snapshot};
use crate::core::{Event, State};

/// Misfits that are told one by one; the rest is counted.
const TOLD: usize = 100;

/// The state as a snapshot has it.
#[derive(Debug, Default)]
pub(super) struct Base {
    pub(super) state: State,
    /// The journal's record that it ends with; none without a snapshot.
    pub(super) bound: Option<Bound>,
    /// Snapshots that are there and not used, with the reason.
    pub(super) refused: Vec<String>,
    /// Segments that were there when it was made and are not, or are shorter.
    pub(super) damage: Vec<Damage>,
}

impl Base {
    /// The number of the latest event that is in.
    pub(super) fn sequence(&self) -> u64 {
        self.bound.map_or(0, |b| b.sequence)
    }

    /// Where to read on.
    pub(super) fn rest(&self) -> From {
        self.bound.map_or(From::After(0), From::Behind)
    }
}

/// The state of the latest snapshot in the folder `dir` that can be used beside this journal; without one, nothing.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn base(dir: &Path, journal: &View, now: Millis) -> std::io::Result<Base> {
    let mut refused = Vec::new();
    for path in snapshot::list(dir)? {
        let usable = snapshot::head(&path).and_then(|head| match head.mismatch(journal) {
            Some(why) => Err(snapshot::SnapshotError::Unusable { path: path.clone(), why }),
            None => snapshot::read(&path, now),
        });
        match usable {
            Ok((head, state)) => {
                let lost = head
                    .segments
                    .iter()
                    .filter(|s| !journal.segments.iter().any(|there| there.first == s.first && there.bytes >= s.bytes));
                let damage =
                    lost.map(|s| Damage { file: journal.path(s.first), offset: 0, bytes: 0, tail: false }).collect();
                return Ok(Base { state, bound: Some(head.bound), refused, damage });
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    Ok(Base { refused, ..Base::default() })
}

/// What folding events came upon.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// The latest record, whether it fitted or not.
    pub(super) bound: Option<Bound>,
    /// Events that became part of the state.
    pub(super) events: u64,
    /// Events that do not follow from those before.
    pub(super) misfits: Vec<String>,
    /// Misfits that are not told.
    pub(super) untold: u64,
    pub(super) damage: Vec<Damage>,
}

impl Folded {
    fn misfit(&mut self, sequence: u64, why: &str) {
        if self.misfits.len() < TOLD {
            self.misfits.push(format!("event {sequence}: {why}"));
        } else {
            self.untold += 1;
        }
    }
}

/// Reads events from the journal one by one, folds those above `after` into the state, and gives all of them out.
///
/// # Errors
/// The journal cannot be read, a later version wrote it, or `each` failed.
pub(super) fn fold(
    journal: &View,
    from: From,
    state: &mut State,
    after: u64,
    now: Millis,
    mut each: impl FnMut(&State, Placed) -> Result<(), StoreError>,
) -> Result<Folded, StoreError> {
    let mut folded = Folded::default();
    let damage = journal.read(from, |Entry { bound, payload }| {
        folded.bound = Some(bound);
        let sequence = bound.sequence;
        let entry = match v1::JournalEvent::decode(payload) {
            Ok(entry) => entry,
            Err(error) => {
                folded.misfit(sequence, &error.to_string());
                return Ok(());
            }
        };
        if entry.event.is_none() {
            // Leaving it out would give a state that never was.
            return Err(StoreError::NewerEvent { path: journal.path(bound.at.segment), sequence });
        }
        let at_unix_ms = entry.at_unix_ms;
        let event = match Event::from_journal(entry) {
            Ok(event) => event,
            Err(error) => {
                folded.misfit(sequence, &error.to_string());
                return Ok(());
            }
        };
        if sequence > after {
            match state.apply(&event, now, at_unix_ms) {
                Ok(()) => folded.events += 1,
                Err(error) => folded.misfit(sequence, &error.to_string()),
            }
        }
        each(state, Placed { sequence, at: bound.at, event })
    })?;
    folded.damage = damage;
    Ok(folded)
}

/// A snapshot that is made beside the coordinator's work: it reads the last one and what the journal has behind it, so
/// nobody waits for it; what it costs is a second state in memory for the while.
#[derive(Debug)]
pub(super) struct Making {
    pub(super) dir: std::path::PathBuf,
    pub(super) journal: View,
    pub(super) at_unix_ms: u64,
}

/// A snapshot that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The latest event that is in.
    pub sequence: u64,
    /// Its size.
    pub bytes: u64,
    /// Bytes of the journal up to it.
    pub journal: u64,
}

impl Making {
    pub(super) fn run(self) -> Result<Option<Made>, StoreError> {
        let Self { dir, journal, at_unix_ms } = self;
        let io = |source| StoreError::Io { path: dir.clone(), source };
        let mut base = base(&dir, &journal, Millis(0)).map_err(io)?;
        let (from, after) = (base.rest(), base.sequence());
        let folded = fold(&journal, from, &mut base.state, after, Millis(0), |_, _| Ok(()))?;
        let Some(bound) = folded.bound.or(base.bound) else { return Ok(None) };
        let head = snapshot::Head { bound, segments: journal.segments.clone(), at_unix_ms };
        let bytes = snapshot::write(&dir, &head, &base.state)?;
        Ok(Some(Made { sequence: bound.sequence, bytes, journal: journal.bytes() }))
    }
}
