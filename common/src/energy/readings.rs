//! What meters have read, by channel and time.

use std::collections::BTreeMap;

use super::curve::Point;
use crate::telemetry::{Channel, MonoNanos, Sample};

/// Readings of a trial, kept for its end; about 16 bytes each.
#[derive(Debug, Default, Clone)]
pub struct Readings(BTreeMap<Channel, Vec<(MonoNanos, i64)>>);

impl Readings {
    /// Adds a reading.
    pub fn push(&mut self, at: MonoNanos, channel: Channel, value: i64) {
        self.0.entry(channel).or_default().push((at, value));
    }

    /// Whether there are any of a channel.
    pub fn has(&self, channel: Channel) -> bool {
        self.0.contains_key(&channel)
    }

    /// All readings of a channel, as they came.
    pub fn of(&self, channel: Channel) -> &[(MonoNanos, i64)] {
        self.0.get(&channel).map(Vec::as_slice).unwrap_or_default()
    }

    /// The values read between two moments.
    pub fn within(&self, channel: Channel, from: MonoNanos, to: MonoNanos) -> impl Iterator<Item = i64> {
        self.of(channel).iter().filter(move |(at, _)| (from..=to).contains(at)).map(|(_, value)| *value)
    }

    /// The latest value read at or before a moment.
    pub fn at(&self, channel: Channel, moment: MonoNanos) -> Option<i64> {
        self.of(channel).iter().filter(|(at, _)| *at <= moment).max_by_key(|(at, _)| *at).map(|(_, value)| *value)
    }

    /// Seconds since `origin`, `lag` subtracted, and values in the base unit of the series.
    pub fn points(&self, channel: Channel, origin: MonoNanos, lag: f64) -> Vec<Point> {
        let (_, scale) = channel.series.unit();
        let seconds = |at: &MonoNanos| at.seconds_since(origin) - origin.seconds_since(*at) - lag;
        self.of(channel).iter().map(|(at, value)| (seconds(at), *value as f64 * scale)).collect()
    }
}

impl Extend<Sample> for Readings {
    fn extend<T: IntoIterator<Item = Sample>>(&mut self, samples: T) {
        for sample in samples {
            self.push(sample.at, sample.channel, sample.value);
        }
    }
}
