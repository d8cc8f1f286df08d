//! No faster than so many bytes per second: what is sent beside a measurement should not be much of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A limit that several transfers may share.
#[derive(Debug, Clone, Default)]
pub struct Pace(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    bytes_per_second: f64,
    /// When the next byte may go.
    next: Mutex<Instant>,
    lifted: AtomicBool,
}

impl Pace {
    /// As fast as it goes.
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// No faster than this, 0 being no limit.
    pub fn bytes_per_second(limit: u64) -> Self {
        let limit = (limit > 0).then(|| {
            Arc::new(Limit {
                bytes_per_second: limit as f64,
                next: Mutex::new(Instant::now()),
                lifted: AtomicBool::new(false),
            })
        });
        Self(limit)
    }

    /// From now on there is no limit, for all who share this.
    pub fn lift(&self) {
        if let Some(limit) = &self.0 {
            limit.lifted.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until `bytes` more may go.
    pub async fn wait(&self, bytes: usize) {
        let Some(limit) = self.0.as_ref().filter(|limit| !limit.lifted.load(Ordering::Relaxed)) else { return };
        let until = {
            let mut next = limit.next.lock().unwrap_or_else(PoisonError::into_inner);
            let from = (*next).max(Instant::now());
            *next = from + Duration::from_secs_f64(bytes as f64 / limit.bytes_per_second);
            from
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_the_pace_that_was_set_however_many_share_it() {
        let pace = Pace::bytes_per_second(1000);
        let begun = Instant::now();
        let send = |pace: Pace| async move {
            for _ in 0..10 {
                pace.wait(500).await;
            }
        };
        tokio::join!(send(pace.clone()), send(pace.clone()));
        // Twenty times 500 bytes; the last of them may go once those before it have had their time.
        let took = begun.elapsed().as_secs_f64();
        assert!((took - 9.5).abs() < 0.1, "{took}");
        pace.lift();
        pace.wait(usize::MAX).await;
        Pace::unlimited().wait(usize::MAX).await;
        Pace::bytes_per_second(0).wait(usize::MAX).await;
    }
}
