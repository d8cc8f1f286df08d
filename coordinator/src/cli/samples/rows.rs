//! Batches → rows, and the numbers that are missing between them.

use fleet_common::id::TrialId;
use fleet_common::telemetry::{Sample, Unit};
use fleet_common::wire::{self, v1};
use serde::Serialize;

use crate::cli::Failure;

/// One sample and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row<'a> {
    pub trial: &'a str,
    pub cell: &'a str,
    pub attempt: u32,
    pub number: u64,
    /// The agent's monotonic clock.
    pub monotonic_ns: u64,
    /// Wall clock, microseconds since 1970.
    pub unix_us: i64,
    /// Name of the series.
    pub series: &'static str,
    pub channel: u16,
    /// In the series' base unit.
    pub value: f64,
    /// As it was read, in the unit that the series names.
    pub raw: i64,
}

/// Numbers of an attempt that never arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    pub trial: String,
    pub attempt: u32,
    pub first: u64,
    pub last: u64,
}

/// An attempt whose samples were removed by retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gone {
    pub trial: String,
    pub attempt: u32,
    pub unix_ms: u64,
    pub rule: String,
}

/// What is not among the rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub gaps: Vec<Gap>,
    pub removed: Vec<Gone>,
}

/// Makes the rows of one attempt.
pub(super) struct Rows {
    trial: String,
    cell: String,
    attempt: u32,
    /// The number that should come next.
    next: u64,
    gaps: Vec<Gap>,
    unknown: u64,
}

impl Rows {
    pub(super) fn of(trial: &TrialId, attempt: u32) -> Self {
        let (trial, cell) = (trial.to_string(), trial.cell.to_string());
        Self { trial, cell, attempt, next: 0, gaps: Vec::new(), unknown: 0 }
    }

    /// The rows of the batch that follows.
    pub(super) fn take(&mut self, batch: &v1::SampleBatch) -> Result<impl Iterator<Item = Row<'_>>, Failure> {
        let samples = wire::samples(batch).map_err(|e| Failure::failed(e.to_string()))?;
        self.skip_to(batch.first_number);
        self.next = batch.first_number + batch.at_nanos.len() as u64;
        self.unknown += (batch.at_nanos.len() - samples.len()) as u64;
        let offset = batch.wall_offset_nanos;
        let this = &*self;
        Ok(samples.into_iter().map(move |sample| this.row(sample, offset)))
    }

    fn row(&self, Sample { number, at, channel, value }: Sample, wall_offset_nanos: i64) -> Row<'_> {
        let unix_us = (i128::from(at.0) + i128::from(wall_offset_nanos)).div_euclid(1000);
        Row {
            trial: &self.trial,
            cell: &self.cell,
            attempt: self.attempt,
            number,
            monotonic_ns: at.0,
            unix_us: i64::try_from(unix_us).unwrap_or(i64::MAX),
            series: channel.series.name(),
            channel: channel.number,
            value: in_base_unit(value, channel.series.unit().1),
            raw: value,
        }
    }

    fn skip_to(&mut self, number: u64) {
        if number > self.next {
            let (trial, attempt) = (self.trial.clone(), self.attempt);
            self.gaps.push(Gap { trial, attempt, first: self.next, last: number - 1 });
        }
    }

    /// The gaps, and how many samples are of a series that this version does not know. `taken` is how many the agent
    /// numbered, where that is known.
    pub(super) fn end(mut self, taken: Option<u64>) -> (Vec<Gap>, u64) {
        self.skip_to(taken.unwrap_or(0));
        (self.gaps, self.unknown)
    }
}

/// A reading in its base unit. Thousandths are divided by a thousand, which is exact where 0.001 is not: 169343 mW are
/// 169.343 W to the last digit.
fn in_base_unit(value: i64, scale: f64) -> f64 {
    if scale < 1.0 { value as f64 / scale.recip().round() } else { value as f64 * scale }
}

/// A base unit's name.
pub(super) fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Watts => "watts",
        Unit::Joules => "joules",
        Unit::Celsius => "degrees Celsius",
        Unit::Hertz => "hertz",
        Unit::Ratio => "ratio",
        Unit::Seconds => "seconds",
        Unit::Count => "count",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_units_are_exact() {
        for series in fleet_common::telemetry::Series::ALL {
            let (_, scale) = series.unit();
            let power = scale.log10().round() as i32;
            let text = format!("169343e{power}");
            assert_eq!(Ok(in_base_unit(169_343, scale)), text.parse(), "{}", series.name());
        }
    }

    #[test]
    fn rows_have_base_units_and_wall_time_and_missing_numbers_are_gaps() {
        let trial: TrialId = "0123456789abcdef0123456789abcdef/0/X".parse().expect("an id");
        let batch = |first_number, series: &[u32]| v1::SampleBatch {
            trial: Some((&trial).into()),
            attempt: 2,
            first_number,
            at_nanos: vec![5_000_001_999; series.len()],
            series: series.to_vec(),
            value: vec![-1500; series.len()],
            wall_offset_nanos: 1_000_000_000_000,
            boot_id: String::new(),
        };
        let mut rows = Rows::of(&trial, 2);
        let row = Row {
            trial: "0123456789abcdef0123456789abcdef/0/X",
            cell: "0123456789abcdef0123456789abcdef",
            attempt: 2,
            number: 2,
            monotonic_ns: 5_000_001_999,
            unix_us: 1_005_000_001,
            series: "gpu_power_milliwatts",
            channel: 7,
            value: -1.5,
            raw: -1500,
        };
        // Series 9999 is not known.
        let taken = batch(2, &[3 | 7 << 16, 9999]);
        assert_eq!(rows.take(&taken).expect("a batch").collect::<Vec<_>>(), [row]);
        assert_eq!(rows.take(&batch(4, &[1])).expect("a batch").count(), 1);
        assert_eq!(rows.take(&batch(6, &[1])).expect("a batch").count(), 1);
        let gap = |first, last| Gap { trial: trial.to_string(), attempt: 2, first, last };
        assert_eq!(rows.end(Some(10)), (vec![gap(0, 1), gap(5, 5), gap(7, 9)], 1));
        assert_eq!(Rows::of(&trial, 1).end(None), (vec![], 0));
    }
}
