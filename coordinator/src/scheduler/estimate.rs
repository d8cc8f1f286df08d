//! What a trial will need and how long it will take: first from its settings, then from those that have finished.

use std::collections::BTreeMap;

use fleet_common::id::HardwareClass;
use fleet_common::plan::Kind;
use fleet_common::record::{Outcome, OutcomeClass, Record};
use fleet_common::units::Bytes;
use fleet_common::worker::Phase;
use serde::{Deserialize, Serialize};

/// A kind of trial (see [`Kind`]), by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct KindId(u32);

impl KindId {
    /// The kind of trials of which nothing is known: earlier versions did not plan it.
    pub const UNKNOWN: Self = Self(0);

    /// For keeping it.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The kind of a number that was kept.
    pub fn numbered(number: u32) -> Self {
        Self(number)
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a finished trial tells the scheduler.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    /// The most that its tensors held while training, bytes; 0 where nobody knows.
    pub peak_bytes: u64,
    /// How long its slot was taken; 0 where nobody knows.
    pub seconds: f64,
    /// The class of the slot.
    pub hardware: Option<HardwareClass>,
    /// What its tensors could hold at most, bytes; 0 where nobody knows.
    pub cap_bytes: u64,
}

/// Values whose logarithms are averaged: durations and rates vary by factors, not by sums.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Times {
    n: u32,
    mean: f64,
    squares: f64,
}

impl Times {
    fn add(&mut self, value: f64) {
        let x = value.ln();
        self.n += 1;
        let off = x - self.mean;
        self.mean += off / f64::from(self.n);
        self.squares += off * (x - self.mean);
    }

    fn middle(&self) -> Option<f64> {
        (self.n > 0).then(|| self.mean.exp())
    }

    /// Standard deviation of the logarithms; of few values, what is usual.
    fn spread(&self, usual: f64) -> f64 {
        match self.n {
            0..3 => usual,
            n => (self.squares / f64::from(n - 1)).sqrt().max(0.02),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    kind: Kind,
    family: usize,
    measured_bytes: u64,
    measured: u32,
    /// The largest cap that was too small.
    too_small: u64,
    times: BTreeMap<usize, Times>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Family {
    /// Measured over estimated peaks, ascending.
    ratios: Vec<f64>,
    /// Seconds per multiply-accumulate.
    rates: BTreeMap<usize, Times>,
}

/// Ratios that a family keeps; a median needs no more.
const MOST_RATIOS: usize = 99;

/// Where an expected peak comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PeakBasis {
    /// The largest of finished trials of this kind.
    Measured {
        /// How many.
        trials: u32,
    },
    /// More than a cap that was too small.
    DidNotFit {
        /// The cap, bytes.
        cap: u64,
    },
    /// The estimate, corrected by how far it was off for finished trials of the family.
    Corrected {
        /// How many.
        trials: usize,
    },
    /// The estimate as it is.
    Estimated,
    /// Nothing is known.
    Unknown,
}

impl std::fmt::Display for PeakBasis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Measured { trials } => write!(f, "measured in {}", count(*trials as usize, "finished trial")),
            Self::DidNotFit { cap } => write!(f, "one like it did not fit into {}", Bytes(*cap)),
            Self::Corrected { trials } => {
                write!(f, "predicted from its settings and {} like it", count(*trials, "finished trial"))
            }
            Self::Estimated => f.write_str("predicted from its settings"),
            Self::Unknown => f.write_str("nothing is known"),
        }
    }
}

/// "1 trial", "2 trials".
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What a trial's tensors are expected to hold at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Bytes; 0 where nothing is known.
    pub bytes: u64,
    /// Why so many.
    pub basis: PeakBasis,
}

/// Where an expected duration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeBasis {
    /// Finished trials of this kind on this class.
    Measured {
        /// How many.
        trials: u32,
    },
    /// Trials of the same backbone and method on this class, by the work in them.
    Family {
        /// How many.
        trials: u32,
    },
    /// Trials of this kind on other classes, by how fast those are.
    OtherClass {
        /// How many.
        trials: u32,
    },
    /// Any trials on this class, by the work in them.
    Class {
        /// How many.
        trials: u32,
    },
    /// Any trials anywhere, by the work in them.
    Anything {
        /// How many.
        trials: u32,
    },
    /// Nothing has finished yet.
    Assumed,
}

impl std::fmt::Display for TimeBasis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = |trials: &u32| count(*trials as usize, "finished trial");
        match self {
            Self::Measured { trials } => write!(f, "{} of these settings on this hardware", n(trials)),
            Self::Family { trials } => write!(f, "{} of this backbone and method on this hardware", n(trials)),
            Self::OtherClass { trials } => write!(f, "{} of these settings on other hardware", n(trials)),
            Self::Class { trials } => write!(f, "{} on this hardware, by the work in them", n(trials)),
            Self::Anything { trials } => write!(f, "{} on other hardware, by the work in them", n(trials)),
            Self::Assumed => f.write_str("nothing like it has finished yet"),
        }
    }
}

/// How long a trial is expected to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duration {
    /// The middle one, seconds.
    pub seconds: f64,
    /// Spread of one trial, standard deviation of its logarithm.
    pub spread: f64,
    /// How far off all trials of the kind may be together, the same.
    pub doubt: f64,
    /// Why so long.
    pub basis: TimeBasis,
}

impl Duration {
    /// Whether it rests on anything that has happened.
    pub fn is_known(&self) -> bool {
        self.basis != TimeBasis::Assumed
    }

    /// The duration that a share of trials stays below, given how many standard deviations that is.
    pub fn quantile(&self, deviations: f64) -> f64 {
        self.seconds * (deviations * self.spread.hypot(self.doubt)).exp()
    }
}

/// What has been learned; a fold over the finished trials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimates {
    kinds: Vec<Entry>,
    by_key: BTreeMap<String, KindId>,
    families: Vec<Family>,
    by_name: BTreeMap<String, usize>,
    classes: BTreeMap<HardwareClass, usize>,
    /// Seconds per multiply-accumulate, by class.
    rates: Vec<Times>,
    rate: Times,
}

impl Default for Estimates {
    fn default() -> Self {
        let empty = Self {
            kinds: Vec::new(),
            by_key: BTreeMap::new(),
            families: Vec::new(),
            by_name: BTreeMap::new(),
            classes: BTreeMap::new(),
            rates: Vec::new(),
            rate: Times::default(),
        };
        let mut estimates = empty;
        // The first kind is that of which nothing is known.
        let nothing = Kind { key: String::new(), family: String::new(), budget_bytes: None, peak_bytes: 0, work: 0.0 };
        estimates.learn_kind(&nothing);
        estimates
    }
}

/// Multiply-accumulates per second of a trial of which nothing is known: lengths then still compare with each other.
const ASSUMED_RATE: f64 = 1e11;
/// Seconds of a trial of which nothing at all is known.
const ASSUMED_SECONDS: f64 = 60.0;

impl Estimates {
    /// The number of a kind, a new one if it was not known; the latest plan's estimate counts.
    pub fn learn_kind(&mut self, kind: &Kind) -> KindId {
        if let Some(id) = self.by_key.get(&kind.key) {
            self.kinds[id.index()].kind = kind.clone();
            return *id;
        }
        let id = KindId(self.kinds.len() as u32);
        let family = *self.by_name.entry(kind.family.clone()).or_insert_with(|| {
            self.families.push(Family::default());
            self.families.len() - 1
        });
        self.kinds.push(Entry {
            kind: kind.clone(),
            family,
            measured_bytes: 0,
            measured: 0,
            too_small: 0,
            times: BTreeMap::new(),
        });
        self.by_key.insert(kind.key.clone(), id);
        id
    }

    fn entry(&self, kind: KindId) -> &Entry {
        self.kinds.get(kind.index()).unwrap_or(&self.kinds[0])
    }

    /// What a kind is.
    pub fn kind(&self, kind: KindId) -> &Kind {
        &self.entry(kind).kind
    }

    /// Takes in how a trial ended. Returns whether memory is expected otherwise than before.
    pub fn observe(&mut self, kind: KindId, outcome: OutcomeClass, figures: &Figures) -> bool {
        if kind == KindId::UNKNOWN || kind.index() >= self.kinds.len() {
            return false;
        }
        let before = self.peak(kind).bytes;
        match outcome {
            OutcomeClass::Completed => {
                self.observe_peak(kind, figures.peak_bytes);
                self.observe_time(kind, figures);
            }
            OutcomeClass::DoesNotFit => {
                let entry = &mut self.kinds[kind.index()];
                entry.too_small = entry.too_small.max(figures.cap_bytes);
            }
            _ => {}
        }
        self.peak(kind).bytes != before
    }

    fn observe_peak(&mut self, kind: KindId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let entry = &mut self.kinds[kind.index()];
        entry.measured_bytes = entry.measured_bytes.max(bytes);
        entry.measured += 1;
        if entry.kind.peak_bytes > 0 {
            let ratio = bytes as f64 / entry.kind.peak_bytes as f64;
            let ratios = &mut self.families[entry.family].ratios;
            if ratios.len() < MOST_RATIOS {
                let at = ratios.partition_point(|r| *r < ratio);
                ratios.insert(at, ratio);
            }
        }
    }

    fn observe_time(&mut self, kind: KindId, figures: &Figures) {
        let Some(hardware) = figures.hardware.as_ref().filter(|_| figures.seconds > 0.0) else { return };
        let class = match self.classes.get(hardware) {
            Some(class) => *class,
            None => {
                self.rates.push(Times::default());
                self.classes.insert(hardware.clone(), self.rates.len() - 1);
                self.rates.len() - 1
            }
        };
        let entry = &mut self.kinds[kind.index()];
        entry.times.entry(class).or_default().add(figures.seconds);
        if entry.kind.work > 0.0 {
            let rate = figures.seconds / entry.kind.work;
            self.families[entry.family].rates.entry(class).or_default().add(rate);
            self.rates[class].add(rate);
            self.rate.add(rate);
        }
    }

    /// What a kind's tensors are expected to hold at most.
    pub fn peak(&self, kind: KindId) -> Peak {
        let entry = self.entry(kind);
        let ratios = self.families.get(entry.family).map_or(&[][..], |f| &f.ratios);
        let predicted = match (entry.measured, ratios.get(ratios.len() / 2), entry.kind.peak_bytes) {
            (1.., _, _) => Peak { bytes: entry.measured_bytes, basis: PeakBasis::Measured { trials: entry.measured } },
            (0, _, 0) => Peak { bytes: 0, basis: PeakBasis::Unknown },
            (0, Some(ratio), bytes) => {
                Peak { bytes: (bytes as f64 * ratio) as u64, basis: PeakBasis::Corrected { trials: ratios.len() } }
            }
            (0, None, bytes) => Peak { bytes, basis: PeakBasis::Estimated },
        };
        if entry.too_small > 0 && entry.too_small >= predicted.bytes {
            let cap = entry.too_small;
            return Peak { bytes: cap + 1, basis: PeakBasis::DidNotFit { cap } };
        }
        predicted
    }

    /// What a trial of a kind will take of a slot at most: no more than its budget, which is enforced.
    pub fn size(&self, kind: KindId) -> u64 {
        let peak = self.peak(kind).bytes;
        self.kind(kind).budget_bytes.map_or(peak, |budget| peak.min(budget))
    }

    /// The number of a class on which something has finished.
    pub(super) fn class(&self, hardware: &HardwareClass) -> Option<usize> {
        self.classes.get(hardware).copied()
    }

    /// How long a trial of a kind will take on a class.
    pub fn duration(&self, kind: KindId, hardware: &HardwareClass) -> Duration {
        self.duration_on(kind, self.class(hardware))
    }

    /// The same, of a class by its number.
    pub(super) fn duration_on(&self, kind: KindId, class: Option<usize>) -> Duration {
        let entry = self.entry(kind);
        let work = entry.kind.work;
        let of = |times: Option<&Times>, scale: f64| {
            times.and_then(|t| Some((*t, t.middle()? * scale))).filter(|(_, seconds)| *seconds > 0.0)
        };
        if let Some((t, seconds)) = of(class.and_then(|c| entry.times.get(&c)), 1.0) {
            let spread = t.spread(0.1);
            let doubt = spread / f64::from(t.n).sqrt();
            return Duration { seconds, spread, doubt, basis: TimeBasis::Measured { trials: t.n } };
        }
        let guess = |seconds, doubt, basis| Duration { seconds, spread: 0.1, doubt, basis };
        let family = self.families.get(entry.family);
        if let Some((t, seconds)) = of(class.and_then(|c| family?.rates.get(&c)), work) {
            return guess(seconds, t.spread(0.25).max(0.1), TimeBasis::Family { trials: t.n });
        }
        let rate = |class: usize| self.rates.get(class).and_then(Times::middle);
        let elsewhere = entry.times.iter().find_map(|(other, t)| Some((*other, t.n, t.middle()?)));
        if let Some((other, trials, seconds)) = elsewhere {
            let faster = class.and_then(rate).zip(rate(other)).map(|(here, there)| here / there);
            let doubt = if faster.is_some() { 0.35 } else { 0.8 };
            return guess(seconds * faster.unwrap_or(1.0), doubt, TimeBasis::OtherClass { trials });
        }
        if let Some((t, seconds)) = of(class.and_then(|c| self.rates.get(c)), work) {
            return guess(seconds, t.spread(0.5).max(0.3), TimeBasis::Class { trials: t.n });
        }
        if let Some((t, seconds)) = of(Some(&self.rate), work) {
            return guess(seconds, t.spread(0.8).max(0.6), TimeBasis::Anything { trials: t.n });
        }
        let seconds = if work > 0.0 { work / ASSUMED_RATE } else { ASSUMED_SECONDS };
        guess(seconds, 1.0, TimeBasis::Assumed)
    }
}

impl Figures {
    /// What a record tells.
    pub fn of(record: &Record) -> Self {
        let phases = match record.settings.train {
            Some(_) => [Phase::WarmUp, Phase::Train],
            None => [Phase::Prepare, Phase::Evaluate],
        };
        let peak = phases.iter().filter_map(|phase| record.worker_phase(*phase)).map(|p| p.peak_bytes).max();
        let taken = |from: u64, until: u64| until.saturating_sub(from) as f64 / 1e3;
        let seconds = match record.segments.is_empty() {
            true => taken(record.started_unix_ms, record.finished_unix_ms),
            false => record.segments.iter().map(|s| taken(s.started_unix_ms, s.ended_unix_ms)).sum(),
        };
        let cap = match &record.outcome {
            Outcome::DoesNotFit { budget_bytes, .. } => Some(*budget_bytes),
            _ => record.training.cap.map(|cap| cap.bytes),
        };
        Self {
            peak_bytes: peak.unwrap_or(0),
            seconds,
            hardware: Some(record.machine.hardware.clone()),
            cap_bytes: cap.unwrap_or(0),
        }
    }
}
