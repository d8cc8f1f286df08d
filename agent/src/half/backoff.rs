//! Waiting longer after each failure, and never in step with other agents.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// The first wait.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest wait: a coordinator that comes back is found within this.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::between(SHORTEST, LONGEST)
    }
}

impl Backoff {
    /// Waits from `shortest` to `longest`.
    pub fn between(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, next: shortest }
    }

    /// Something worked: start over.
    pub fn reset(&mut self) {
        self.next = self.shortest;
    }

    /// The next wait: between half and all of the current length, which then doubles.
    pub fn step_by(&mut self, random: &mut impl Rng) -> Duration {
        let wait = self.next.mul_f64(random.random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.longest);
        wait
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_over() {
        let mut backoff = Backoff::default();
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let waits: Vec<Duration> = (0..12).map(|_| backoff.step_by(&mut random)).collect();
        assert!(waits[0] <= SHORTEST && waits[0] >= SHORTEST / 2);
        assert!(waits.iter().all(|w| *w <= LONGEST));
        assert!(waits[11] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.step_by(&mut random) <= SHORTEST);
    }
}
