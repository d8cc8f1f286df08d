//! Counters that wrap, and counters that were set back.

use crate::telemetry::MonoNanos;

/// Turns a counter that wraps into one that only rises.
///
/// RAPL's `energy_uj` starts again at 0 after `max_energy_range_uj`. Readings must come at least once per wrap. A counter
/// that was set back looks like one that wrapped, except that what it seems to have grown is more than anything can
/// grow in that time; then what it really grew is unknown, and nothing is added.
#[derive(Debug, Clone)]
pub struct Unwrap {
    range: u64,
    most_per_second: f64,
    latest: Option<(u64, MonoNanos)>,
    total: u64,
}

/// What a reading says about a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Nothing yet: it is the first.
    First,
    /// It grew by so much.
    Rose(u64),
    /// It grew by so much, beyond its end.
    Wrapped(u64),
    /// It changed in a way that no device can: from this value to that. It was set back, or misread.
    Jumped {
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
}

impl Unwrap {
    /// For a counter that takes the values 0 to `range` and grows by at most `most_per_second`.
    pub fn new(range: u64, most_per_second: f64) -> Self {
        Self { range, most_per_second, latest: None, total: 0 }
    }

    /// Takes a reading.
    pub fn read(&mut self, raw: u64, at: MonoNanos) -> Growth {
        let before = self.latest.replace((raw, at));
        let Some((latest, then)) = before else { return Growth::First };
        let grown = if raw >= latest { raw - latest } else { (self.range - latest.min(self.range)) + raw };
        // What was read may be a few milliseconds older than its time says.
        let seconds = at.seconds_since(then) + 0.1;
        if grown as f64 > self.most_per_second * seconds {
            return Growth::Jumped { from: latest, to: raw };
        }
        self.total += grown;
        if raw >= latest { Growth::Rose(grown) } else { Growth::Wrapped(grown) }
    }

    /// What it grew since the first reading.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrapping_counter_rises() {
        let mut unwrap = Unwrap::new(999, 1e4);
        let totals = [900, 950, 20, 20, 500].map(|raw| {
            unwrap.read(raw, MonoNanos(0));
            unwrap.total()
        });
        assert_eq!(totals, [0, 50, 119, 119, 599]);
    }

    #[test]
    fn a_counter_that_was_set_back_or_jumps_adds_nothing() {
        let second = |s: u64| MonoNanos(s * 1_000_000_000);
        // 262 kJ in microjoules, at most 10 kW.
        let mut unwrap = Unwrap::new(262_143_328_850, 1e10);
        assert_eq!(unwrap.read(200_000_000_000, second(1)), Growth::First);
        assert_eq!(unwrap.read(200_000_000_050, second(2)), Growth::Rose(50));
        assert_eq!(unwrap.read(7, second(3)), Growth::Jumped { from: 200_000_000_050, to: 7 });
        assert_eq!(unwrap.read(107, second(4)), Growth::Rose(100));
        assert_eq!(unwrap.read(150_000_000_000, second(5)), Growth::Jumped { from: 107, to: 150_000_000_000 });
        assert_eq!(unwrap.total(), 150);
        let mut endless = Unwrap::new(u64::MAX, 1e10);
        endless.read(500, second(1));
        assert!(matches!(endless.read(499, second(2)), Growth::Jumped { .. }), "without a range, a fall is no wrap");
    }

    proptest! {
        #[test]
        fn wraps_lose_and_invent_nothing(steps in prop::collection::vec(0u64..900, 1..200), start in 0u64..1000) {
            let mut unwrap = Unwrap::new(999, 1e9);
            let mut truth = start;
            unwrap.read(truth % 1000, MonoNanos(0));
            for (i, step) in steps.iter().enumerate() {
                truth += step;
                // A counter of the range 0 to 999 wraps at 1000; growth at a wrap is counted from 999, as the kernel
                // defines the range: off by one unit per wrap, which is a microjoule.
                unwrap.read(truth % 1000, MonoNanos(i as u64 * 1_000_000));
            }
            let wraps = (truth / 1000) - (start / 1000);
            prop_assert_eq!(unwrap.total() + wraps, truth - start);
        }
    }
}
