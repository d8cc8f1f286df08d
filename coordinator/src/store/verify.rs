//! Whether a state folder is what it should be: every checksum, every number, and whether what is derived agrees with
//! the journal. Changes nothing of what is kept.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::lease::Millis;
use fleet_common::telemetry::Seal;

use super::journal::{From, View};
use super::samples::{self, Removed};
use super::{INDEX, Layout, Place, Placed, SNAPSHOTS, SledIndex, StoreError, layout, lock, replay, snapshot};
use crate::core::{Event, State};
use crate::store::Index as _;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Something is lost. Otherwise it heals by itself or costs time only.
    pub is_loss: bool,
    /// Where.
    pub place: String,
    /// What is wrong there.
    pub wrong: String,
    /// What it costs.
    pub cost: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// What a folder holds, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Verified {
    /// Version of the layout.
    pub layout: u32,
    /// Segments of the journal.
    pub segments: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Events that fold.
    pub events: u64,
    /// Number of the latest event.
    pub latest: u64,
    /// Trials.
    pub trials: u64,
    /// Trials that have a record.
    pub records: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Chunk files of samples.
    pub sample_files: u64,
    /// Samples in them.
    pub samples: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

const FROM_BACKUP: &str = "take the file from a backup if there is one; otherwise the coordinator goes on without it";
const BY_ITSELF: &str = "nothing: the next start makes it again, as does `fleet store rebuild`";

/// A trial's record as the journal has it.
struct Recorded {
    place: Place,
    attempt: Attempt,
    seal: Seal,
}

/// Checks the folder `dir`, which no coordinator may hold. `tell` hears how much is done, of how much if that is known.
///
/// # Errors
/// It is in use, cannot be read at all, or a later version wrote it.
pub fn verify(dir: &Path, tell: &mut dyn FnMut(&str, u64, Option<u64>)) -> Result<Verified, StoreError> {
    let io = |source| StoreError::Io { path: dir.to_owned(), source };
    let layout = match layout::look(dir).map_err(io)? {
        Layout::Known(version) => version,
        Layout::Newer(found) => return Err(StoreError::Newer { path: dir.to_owned(), found }),
        Layout::Empty => return Err(StoreError::NoState { path: dir.to_owned() }),
    };
    let _lock = lock(dir)?;
    let journal = layout::journal(dir)?;
    let mut found = Verified {
        layout,
        segments: journal.segments.len() as u64,
        journal_bytes: journal.bytes(),
        ..Verified::default()
    };
    let recorded = found.journal(dir, &journal, tell)?;
    found.index(dir, &recorded);
    found.samples(dir, &recorded, tell).map_err(io)?;
    Ok(found)
}

impl Verified {
    fn finds(
        &mut self,
        is_loss: bool,
        place: &Path,
        wrong: impl Into<String>,
        cost: &'static str,
        remedy: &'static str,
    ) {
        self.findings.push(Finding { is_loss, place: place.display().to_string(), wrong: wrong.into(), cost, remedy });
    }

    /// Reads all of the journal, and compares the snapshots with it on the way.
    fn journal(
        &mut self,
        dir: &Path,
        journal: &View,
        tell: &mut dyn FnMut(&str, u64, Option<u64>),
    ) -> Result<HashMap<TrialId, Recorded>, StoreError> {
        let io = |source| StoreError::Io { path: dir.to_owned(), source };
        let mut snapshots = BTreeMap::new();
        for path in snapshot::list(&dir.join(SNAPSHOTS)).map_err(io)? {
            self.snapshots += 1;
            match snapshot::head(&path) {
                Ok(head) => drop(snapshots.insert(head.bound.sequence, path)),
                Err(error) => self.bad_snapshot(&path, error.to_string()),
            }
        }
        let mut recorded = HashMap::new();
        let mut state = State::default();
        let (mut before, mut gaps, mut bad) = (0, Vec::new(), Vec::new());
        let total = journal.bytes();
        let starts: Vec<u64> = journal
            .segments
            .iter()
            .scan(0, |sum, s| {
                let start = *sum;
                *sum += s.bytes;
                Some(start)
            })
            .collect();
        let mut segment = 0;
        let folded = replay::fold(journal, From::After(0), &mut state, 0, Millis(0), |state, placed| {
            let Placed { sequence, at, event } = placed;
            if sequence > before + 1 {
                gaps.push((before + 1, sequence - 1, at));
            }
            before = sequence;
            while journal.segments.get(segment).is_some_and(|s| s.first < at.segment) {
                segment += 1;
            }
            tell("journal", starts.get(segment).copied().unwrap_or(0) + at.offset, Some(total));
            match event {
                Event::TrialRecorded { trial, attempt, seal, .. } => {
                    recorded.insert(trial, Recorded { place: Place { sequence, at }, attempt, seal });
                }
                Event::TrialRetried { trial, .. } => drop(recorded.remove(&trial)),
                _ => {}
            }
            if let Some(path) = snapshots.remove(&sequence) {
                let why = match snapshot::read(&path, Millis(0)) {
                    Err(error) => Some(error.to_string()),
                    Ok((head, _)) if head.mismatch(journal).is_some() => head.mismatch(journal),
                    Ok((_, kept)) if kept != *state => Some("it is not what the journal's events add up to".to_owned()),
                    Ok(_) => None,
                };
                bad.extend(why.map(|why| (path, why)));
            }
            Ok(())
        })?;
        let lost = "the events there, and what follows from them";
        for damage in folded.damage {
            let words = format!("{} bytes from byte {} on are no events", damage.bytes, damage.offset);
            let wrong = if damage.bytes == 0 { "the segment in front of it is missing".to_owned() } else { words };
            if damage.tail {
                let cost = "nothing that was confirmed, if a crash left it: what was being written";
                self.finds(false, &damage.file, wrong, cost, "nothing: the next start cuts it off");
            } else {
                self.finds(true, &damage.file, wrong, lost, FROM_BACKUP);
            }
        }
        for (first, last, at) in gaps {
            let words =
                if first == last { format!("event {first} is") } else { format!("events {first} to {last} are") };
            self.finds(
                true,
                &journal.path(at.segment),
                format!("{words} missing before byte {}", at.offset),
                lost,
                FROM_BACKUP,
            );
        }
        for misfit in folded.misfits {
            let cost = "that event; a snapshot made before the damage still has what followed from it";
            self.finds(
                true,
                &journal.dir,
                format!("{misfit}: it does not follow from those before"),
                cost,
                FROM_BACKUP,
            );
        }
        if folded.untold > 0 {
            self.finds(true, &journal.dir, format!("{} more events do not follow", folded.untold), lost, FROM_BACKUP);
        }
        bad.extend(
            snapshots.into_values().map(|path| (path, "the journal has not the event that it ends with".to_owned())),
        );
        bad.into_iter().for_each(|(path, why)| self.bad_snapshot(&path, why));
        self.events = folded.events;
        self.latest = folded.bound.map_or(0, |b| b.sequence);
        self.trials = state.trial_count() as u64;
        self.records = recorded.len() as u64;
        Ok(recorded)
    }

    fn bad_snapshot(&mut self, path: &Path, why: String) {
        let cost = "time: more of the journal is read at the next start";
        self.finds(false, path, why, cost, "remove it, or run `fleet store rebuild`, which makes a new one");
    }

    /// Compares the index with the journal.
    fn index(&mut self, dir: &Path, recorded: &HashMap<TrialId, Recorded>) {
        let path = dir.join(INDEX);
        // A backup has none.
        if !path.exists() {
            return;
        }
        let cost = "time: records cannot be shown before it is made again";
        let index = SledIndex::open(&path, &dir.join(layout::JOURNAL));
        let read = index.and_then(|index| Ok((index.is_current()?, index.applied(), index.places()?)));
        let (applied, places) = match read {
            Ok((true, applied, places)) => (applied, places),
            Ok((false, ..)) => return self.finds(false, &path, "another version wrote it", cost, BY_ITSELF),
            Err(error) => return self.finds(false, &path, error.to_string(), cost, BY_ITSELF),
        };
        if applied > self.latest {
            let wrong = format!("it knows events up to {applied}, the journal has them up to {}", self.latest);
            return self.finds(false, &path, wrong, cost, BY_ITSELF);
        }
        let places: HashMap<String, Option<Place>> = places.into_iter().collect();
        let is_right = |(trial, r): &(&TrialId, &Recorded)| places.get(&trial.to_string()) == Some(&Some(r.place));
        let due = || recorded.iter().filter(|(_, r)| r.place.sequence <= applied);
        let wrong = due().filter(|entry| !is_right(entry)).count();
        let more = places.len().saturating_sub(due().count());
        if wrong + more > 0 {
            let words = format!("{wrong} records are not where it says, and it has {more} too many");
            self.finds(true, &path, words, "records are not shown, or wrong ones are", "run `fleet store rebuild`");
        }
    }

    /// Compares samples with their seals.
    fn samples(
        &mut self,
        dir: &Path,
        recorded: &HashMap<TrialId, Recorded>,
        tell: &mut dyn FnMut(&str, u64, Option<u64>),
    ) -> std::io::Result<()> {
        let dir = dir.join("samples");
        let mut files: BTreeMap<String, PathBuf> = samples::files(&dir)?;
        let removed = Removed::open(&dir.join("removed.jsonl")).map_err(std::io::Error::other)?;
        let total = files.len() as u64;
        self.sample_files = total;
        let lost = "samples of that attempt: traces in reports, not its record";
        for (trial, Recorded { attempt, seal, .. }) in recorded {
            let name = samples::name(trial, *attempt);
            let path = files.remove(&name);
            tell("samples", total - files.len() as u64, Some(total));
            // What came after a removal is not what was sealed.
            if removed.find(&name).is_some() {
                continue;
            }
            match path {
                Some(path) => self.chunks(&path, Some(*seal), lost)?,
                None if seal.stored > 0 => {
                    let words = format!("the file {name}.chunks of {} sealed samples is missing", seal.stored);
                    self.finds(true, &dir, words, lost, FROM_BACKUP);
                }
                None => {}
            }
        }
        let mut left = files.len() as u64;
        for path in files.into_values() {
            left -= 1;
            tell("samples", total - left, Some(total));
            self.chunks(&path, None, lost)?;
        }
        Ok(())
    }

    fn chunks(&mut self, path: &Path, seal: Option<Seal>, lost: &'static str) -> std::io::Result<()> {
        let checked = samples::check(path, seal)?;
        self.samples += checked.samples;
        if !checked.is_sealed {
            let stored = seal.map_or(0, |s| s.stored);
            let words = format!("it is not what was sealed: {stored} samples were, {} are readable", checked.samples);
            self.finds(true, path, words, lost, FROM_BACKUP);
        } else if checked.whole < checked.bytes {
            let words = format!("{} bytes at its end are no whole chunk", checked.bytes - checked.whole);
            let cost = "nothing that was confirmed, if a crash left it";
            self.finds(false, path, words, cost, "nothing: it is cut off when samples come");
        }
        Ok(())
    }

    /// Whether nothing is lost.
    pub fn is_whole(&self) -> bool {
        !self.findings.iter().any(|f| f.is_loss)
    }
}
