//! The coordinator's disk: what was written but not synced is lost by a crash, or torn.
//!
//! Records are encoded and read by the coordinator's own code.

use fleet_common::lease::Millis;
use fleet_common::wire::v1;
use fleet_coordinator::core::{Event, State};
use fleet_coordinator::store::journal::record::encode;
use fleet_coordinator::store::journal::{Found as Next, MAGIC, Scanner};
use prost::Message as _;
use rand::{Rng, RngExt as _};

/// What a file's bytes hold, as the coordinator's own code reads them.
#[derive(Debug, Default)]
struct Scan {
    records: Vec<(u64, Vec<u8>)>,
    /// Stretches that hold no records, but for one at the end.
    holes: usize,
    /// Where such a one begins.
    tail: Option<usize>,
}

fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut scanner = Scanner::new(&bytes[MAGIC.len()..], MAGIC.len() as u64, 0);
    while let Some(next) = scanner.advance().expect("memory can be read") {
        match next {
            Next::Record { sequence, payload, .. } => scan.records.push((sequence, payload.to_vec())),
            Next::Damage { offset, tail: true, .. } => scan.tail = Some(offset as usize),
            Next::Damage { .. } => scan.holes += 1,
        }
    }
    scan
}

/// A journal in memory.
#[derive(Debug)]
pub(crate) struct Disk {
    /// What the file holds as programs see it.
    bytes: Vec<u8>,
    /// How much of it a crash leaves for sure.
    synced: usize,
    /// The number of the next record.
    next: u64,
}

/// What a crash did to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tear {
    /// There was nothing to lose.
    Nothing,
    /// All that was not synced is gone.
    Lost,
    /// It is all there nevertheless.
    Kept,
    /// It ends in the middle.
    Cut,
    /// Its length was written and some of its content was not.
    Garbled,
    /// Its end was written and something before it was not.
    Hole,
}

/// What a start finds.
pub(crate) struct Found {
    pub state: State,
    /// The events with their numbers and payloads.
    pub events: Vec<(u64, Event)>,
    /// Events that do not follow from those before.
    pub misfits: Vec<String>,
    /// Bytes that were cut off.
    pub cut: usize,
    /// Damage that is not at the end.
    pub holes: usize,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { bytes: MAGIC.to_vec(), synced: MAGIC.len(), next: 1 }
    }

    /// Writes an event, without a sync; returns its number.
    pub(crate) fn append(&mut self, event: &Event, unix_ms: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        encode(&mut self.bytes, number, &event.to_journal(unix_ms).encode_to_vec());
        number
    }

    /// All that was written outlasts a crash.
    pub(crate) fn sync(&mut self) {
        self.synced = self.bytes.len();
    }

    /// The system refused the write: nothing of it counts.
    pub(crate) fn refuse(&mut self) {
        self.bytes.truncate(self.synced);
        self.next = scan(&self.bytes).records.last().map_or(1, |(number, _)| number + 1);
    }

    /// The machine goes down.
    pub(crate) fn crash(&mut self, random: &mut impl Rng) -> Tear {
        let loose = self.bytes.len() - self.synced;
        if loose == 0 {
            return Tear::Nothing;
        }
        let tear = match random.random_range(0..8) {
            0 | 1 => Tear::Lost,
            2 => Tear::Kept,
            3 => Tear::Garbled,
            4 => Tear::Hole,
            _ => Tear::Cut,
        };
        match tear {
            Tear::Lost => self.bytes.truncate(self.synced),
            Tear::Cut => self.bytes.truncate(self.synced + random.random_range(0..loose)),
            Tear::Garbled => {
                let from = self.synced + random.random_range(0..loose);
                self.bytes[from..].fill(0);
            }
            Tear::Hole => {
                let from = self.synced + random.random_range(0..loose);
                let to = random.random_range(from..self.bytes.len());
                self.bytes[from..=to].fill(0);
            }
            Tear::Kept | Tear::Nothing => {}
        }
        self.synced = self.bytes.len();
        tear
    }

    /// Reads the file as a coordinator does at its start, and cuts a damaged end off.
    pub(crate) fn start(&mut self) -> Found {
        let replay = scan(&self.bytes);
        let before = self.bytes.len();
        if let Some(tail) = replay.tail {
            self.bytes.truncate(tail);
        }
        self.synced = self.bytes.len();
        self.next = replay.records.last().map_or(1, |(number, _)| number + 1);
        let (state, events, misfits) = fold(&replay.records, Millis(0));
        Found { state, events, misfits, cut: before - self.bytes.len(), holes: replay.holes }
    }

    /// The state as what is synced has it.
    pub(crate) fn replay(&self, now: Millis) -> (State, Vec<(u64, Event)>) {
        let (state, events, _) = fold(&scan(&self.bytes[..self.synced]).records, now);
        (state, events)
    }
}

fn fold(records: &[(u64, Vec<u8>)], now: Millis) -> (State, Vec<(u64, Event)>, Vec<String>) {
    let (mut state, mut events, mut misfits) = (State::default(), Vec::new(), Vec::new());
    for (number, payload) in records {
        let applied = v1::JournalEvent::decode(payload.as_slice()).map_err(|e| e.to_string()).and_then(|entry| {
            let at = entry.at_unix_ms;
            let event = Event::from_journal(entry).map_err(|e| e.to_string())?;
            state.apply(&event, now, at).map_err(|e| e.to_string())?;
            Ok(event)
        });
        match applied {
            Ok(event) => events.push((*number, event)),
            Err(why) => misfits.push(format!("event {number}: {why}")),
        }
    }
    (state, events, misfits)
}
