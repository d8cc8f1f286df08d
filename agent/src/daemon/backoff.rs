//! Waiting longer after each failure, and never in step with other agents.

use std::time::Duration;

/// The first wait.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest wait: a coordinator that comes back is found within this.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double, with jitter.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
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
    pub(super) fn between(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, next: shortest }
    }

    /// Something worked: start over.
    pub(super) fn reset(&mut self) {
        self.next = self.shortest;
    }

    /// The next wait: between half and all of the current length, which then doubles.
    pub(super) fn step(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.step()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.step()).collect();
        assert!(waits[0] <= SHORTEST && waits[0] >= SHORTEST / 2);
        assert!(waits.iter().all(|w| *w <= LONGEST));
        assert!(waits[11] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.step() <= SHORTEST);
    }
}
