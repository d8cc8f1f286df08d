//! A token bucket: so many at once, so many per second in the long run.

use std::time::Instant;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// In the long run.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

impl Eq for Rate {}

/// What is left of a rate.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// What is left at a moment.
    fn level(&self, rate: Rate, now: Instant) -> f64 {
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second).min(rate.burst)
    }

    /// Takes one, if one is left.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let level = self.level(rate, now);
        let taken = level >= 1.0;
        *self = Self { left: if taken { level - 1.0 } else { level }, at: now };
        taken
    }

    /// Whether one is left.
    pub fn has(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= 1.0
    }

    /// Whether it is as good as new.
    pub fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= rate.burst
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the takes are spread, no window gives more than its length times the rate and one burst.
        #[test]
        fn no_more_than_the_rate(waits in proptest::collection::vec(0_u64..400, 1..300)) {
            let rate = Rate { per_second: 10.0, burst: 5.0 };
            let start = Instant::now();
            let (mut bucket, mut now, mut taken) = (Bucket::full(rate, start), start, 0.0);
            for wait in waits {
                now += Duration::from_millis(wait);
                taken += f64::from(u8::from(bucket.take(rate, now)));
                prop_assert!(taken <= 5.0 + (now - start).as_secs_f64() * 10.0 + 1e-6);
            }
        }
    }

    #[test]
    fn what_was_taken_comes_back() {
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        assert!((0..3).all(|_| bucket.take(rate, start)) && !bucket.take(rate, start) && !bucket.has(rate, start));
        let later = start + Duration::from_millis(500);
        assert!(bucket.take(rate, later) && !bucket.take(rate, later) && !bucket.is_full(rate, later));
        assert!(bucket.is_full(rate, later + Duration::from_secs(2)));
    }
}
