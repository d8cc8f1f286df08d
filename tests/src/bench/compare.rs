//! One row, both sides in turn.
//!
//! A machine has better and worse minutes, so that times of different minutes say little. The two sides take turns in
//! short windows, and what counts is the ratio of two neighbouring windows.

use std::collections::BTreeMap;

use super::ours::{self, Ours};
use super::python::{Freed, Python};
use super::{Images, Row, Setting};

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Which.
    pub row: Row,
    /// Of each round: our and Python's mean seconds per step.
    pub seconds: Vec<(f64, f64)>,
    /// Most bytes our tensors held.
    pub live_peak: u64,
    /// Our peak of resident memory over the baseline, in bytes; the largest of the rounds. On a GPU all peaks are the
    /// tensors'.
    pub resident_peak: u64,
    /// Python's, where glibc returns freed memory.
    pub python_returned: u64,
    /// Python's, where glibc keeps it, as it does by default.
    pub python_kept: u64,
    /// Python's version, and those of its packages.
    pub versions: BTreeMap<String, String>,
}

impl Compared {
    /// Our time over Python's in each round.
    pub fn ratios(&self) -> Vec<f64> {
        self.seconds.iter().map(|(ours, python)| ours / python).collect()
    }

    /// What the row was to reach and has not: nothing, if it is at least as fast in the median at a lower peak.
    pub fn missed(&self) -> Vec<&'static str> {
        let slower = median(&self.ratios()) > 1.0;
        let larger = self.resident_peak >= self.python_returned;
        [(slower, "time"), (larger, "memory")].iter().filter(|(missed, _)| *missed).map(|(_, what)| *what).collect()
    }
}

/// The middle value, or the mean of the two middle ones.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Measures a row; `progress` hears what was found on the way.
///
/// # Errors
/// In words: one of the sides failed, or they do not train the same number of parameters.
pub fn compare(
    row: &Row,
    setting: &Setting,
    images: &Images,
    progress: &mut dyn FnMut(&str),
) -> Result<Compared, String> {
    let mut python = Python::start(row, setting, Freed::Kept)?;
    let mut seconds = Vec::new();
    let (mut live_peak, mut resident_peak, mut python_kept) = (0, 0, 0);
    for round in 0..setting.rounds {
        let ours = ours::run(row, setting, images)?;
        same_work(row, &ours, &python)?;
        let theirs = python.steps(row.steps(setting.on_cuda()))?;
        let mean = theirs.seconds.iter().sum::<f64>() / theirs.seconds.len() as f64;
        progress(&format!("round {}: ours {:.3} s, Python {mean:.3} s per step", round + 1, ours.seconds));
        seconds.push((ours.seconds, mean));
        live_peak = live_peak.max(ours.live_peak);
        resident_peak = resident_peak.max(ours.resident_peak);
        python_kept = python_kept.max(theirs.peak.saturating_sub(python.ready.baseline));
    }
    let mut versions = python.ready.versions.clone();
    versions.insert("Python".to_owned(), python.ready.python.clone());
    drop(python);
    // A GPU's allocator counts tensors, whatever glibc does.
    let python_returned = if setting.on_cuda() {
        python_kept
    } else {
        let mut frugal = Python::start(row, setting, Freed::Returned)?;
        frugal.steps(row.steps(false).min(2))?.peak.saturating_sub(frugal.ready.baseline)
    };
    Ok(Compared { row: row.clone(), seconds, live_peak, resident_peak, python_returned, python_kept, versions })
}

/// A comparison of different work would be worthless.
fn same_work(row: &Row, ours: &Ours, python: &Python) -> Result<(), String> {
    let (ours, theirs) = (ours.trainable, python.ready.trainable);
    if ours == theirs {
        return Ok(());
    }
    Err(format!("{row}: we train {ours} parameters and Python {theirs}; the two sides do not do the same"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(seconds: &[(f64, f64)], ours: u64, python: u64) -> Compared {
        Compared {
            row: Row::parse("vit_small:8:lora:none").expect("a row"),
            seconds: seconds.to_vec(),
            live_peak: ours - 1,
            resident_peak: ours,
            python_returned: python,
            python_kept: python + 1,
            versions: BTreeMap::new(),
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_row_is_missed_where_the_median_ratio_is_above_one_or_the_peak_not_lower() {
        assert!(compared(&[(1.0, 1.0), (2.0, 1.0), (0.9, 1.0)], 10, 11).missed().is_empty());
        assert_eq!(compared(&[(1.01, 1.0), (2.0, 1.0), (0.9, 1.0)], 10, 11).missed(), ["time"]);
        assert_eq!(compared(&[(2.0, 1.0)], 11, 11).missed(), ["time", "memory"]);
    }
}
