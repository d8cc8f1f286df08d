//! How far the campaign is: every trial counted once, and one sentence.

use std::collections::BTreeSet;

use fleet_common::record::{OutcomeClass, Record};

use super::ReportInput;
use super::numbers::{listed, plural};

/// How many trials stand where.
pub(super) struct Progress {
    /// Finished trials by class, without the cancelled.
    pub(super) classes: Vec<(OutcomeClass, u64)>,
    pub(super) finished: u64,
    pub(super) running: u64,
    pub(super) waiting: u64,
    pub(super) cancelled: u64,
    /// Asked for and in none of the other numbers: lost with their agents.
    pub(super) missing: u64,
}

impl Progress {
    pub(super) fn of(input: &ReportInput<'_>) -> Self {
        let of_class = |c: OutcomeClass| input.records.iter().filter(|r| r.outcome.kind() == c).count() as u64;
        let classes: Vec<(OutcomeClass, u64)> = OutcomeClass::ALL
            .into_iter()
            .filter(|c| *c != OutcomeClass::Cancelled)
            .map(|c| (c, of_class(c)))
            .filter(|(_, n)| *n > 0)
            .collect();
        let finished = classes.iter().map(|(_, n)| n).sum();
        // A trial that was stopped while it ran has a record; one that was stopped while it waited has none.
        let cancelled = input.cancelled.max(of_class(OutcomeClass::Cancelled));
        let known = finished + input.running + input.waiting + cancelled;
        Self {
            classes,
            finished,
            running: input.running,
            waiting: input.waiting,
            cancelled,
            missing: input.asked.saturating_sub(known),
        }
    }
}

/// What has happened, in one sentence.
pub(super) fn lead(input: &ReportInput<'_>) -> String {
    let progress = Progress::of(input);
    let mut open = Vec::new();
    for (n, word) in [(progress.running, "running"), (progress.waiting, "waiting"), (progress.cancelled, "cancelled")] {
        if n > 0 {
            open.push(format!("{n} {} {word}", if n == 1 { "is" } else { "are" }));
        }
    }
    if progress.missing > 0 {
        open.push(format!("{} left no record", progress.missing));
    }
    if progress.finished == 0 {
        let rest = if open.is_empty() { String::new() } else { format!("; {}", listed(&open)) };
        return format!("Nothing has finished yet: the campaign asks for {}{rest}.", plural(input.asked, "trial"));
    }
    let hardware: BTreeSet<_> = input.records.iter().map(|r| &r.machine.hardware).collect();
    let hardware = hardware.len() as u64;
    let on = format!("{hardware} hardware class{}", if hardware == 1 { "" } else { "es" });
    let mut text = match progress.classes.as_slice() {
        [(OutcomeClass::Completed, n)] => format!("{n} of {} completed on {on}", plural(input.asked, "trial")),
        classes => {
            let classes: Vec<String> = classes.iter().map(|(c, n)| format!("{n} {}", c.name())).collect();
            let asked = plural(input.asked, "trial");
            format!("{} of {asked} finished on {on}: {}", progress.finished, listed(&classes))
        }
    };
    if !open.is_empty() {
        text.push_str(&format!("; {}", listed(&open)));
    }
    text + "."
}

/// Wall-clock start of the first record and end of the last.
pub(super) fn period<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Option<(u64, u64)> {
    let start = records.clone().map(|r| r.started_unix_ms).min()?;
    let end = records.map(|r| r.finished_unix_ms).max()?;
    Some((start, end))
}
