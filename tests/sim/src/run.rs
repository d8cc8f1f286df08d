//! Many worlds, one after another on each thread; one that fails is told about.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::faults::Faults;
use crate::tally::Tally;
use crate::world::World;

/// A seed that breaks a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The faults that are needed, as far as leaving them out one by one tells.
    pub faults: Faults,
    /// What was violated.
    pub violation: String,
    /// What happened, in order.
    pub log: Vec<String>,
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What happened in all of them.
    pub tally: Tally,
    /// Seeds that ran.
    pub seeds: u64,
    /// The first failure, if there was one.
    pub failure: Option<Failure>,
}

/// Runs one seed; what happened, and what was violated.
pub fn one(seed: u64, faults: Faults, log: bool) -> (Tally, Option<String>, Vec<String>) {
    let mut world = World::new(seed, faults, log);
    let violation = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Some(format!("it panicked: {text}"))
    });
    let happened = world.happened;
    let mut tally = std::mem::take(&mut world.tally);
    tally.count_many("things that happened", happened);
    tally.count_many("virtual seconds", world.now / 1_000);
    (tally, violation, world.log())
}

/// Leaves out what a failing seed does not need, and runs it once more with a log.
pub fn explain(seed: u64) -> Option<Failure> {
    one(seed, Faults::ALL, false).1?;
    let mut faults = Faults::ALL;
    for fault in Faults::ALL.iter() {
        let fewer = faults.without(fault);
        if one(seed, fewer, false).1.is_some() {
            faults = fewer;
        }
    }
    let (_, violation, log) = one(seed, faults, true);
    Some(Failure { seed, faults, violation: violation?, log })
}

/// Runs `count` seeds from `first` on, on `threads` threads, until one fails.
pub fn many(first: u64, count: u64, threads: usize) -> Outcome {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let (tally, failing) = (Mutex::new((Tally::default(), 0)), Mutex::new(None::<u64>));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = (Tally::default(), 0);
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(count) {
                        break;
                    }
                    let (happened, violation, _) = one(seed, Faults::ALL, false);
                    mine.0.add(&happened);
                    mine.1 += 1;
                    if violation.is_some() {
                        failed.store(true, Ordering::Relaxed);
                        let mut failing = failing.lock().expect("no thread panics with it");
                        *failing = Some(failing.map_or(seed, |other| other.min(seed)));
                    }
                }
                let mut all = tally.lock().expect("no thread panics with it");
                all.0.add(&mine.0);
                all.1 += mine.1;
            });
        }
    });
    let (tally, seeds) = tally.into_inner().expect("no thread panics with it");
    let failing = failing.into_inner().expect("no thread panics with it");
    Outcome { tally, seeds, failure: failing.and_then(explain) }
}
