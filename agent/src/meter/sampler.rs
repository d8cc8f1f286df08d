//! Reads meters at a steady pace, on a thread of their own: a driver may take its time to answer.

use std::time::{Duration, Instant};

use fleet_common::telemetry::MonoNanos;
use tokio::sync::mpsc;

use super::{Meter, Reading};
use crate::clock;

/// Readings per second: what sensors of boards are updated at, and the least that a window of a minute should rest on.
pub const DEFAULT_HERTZ: f64 = 10.0;
/// Rounds that may wait to be taken.
const WAITING: usize = 64;

/// What one round of reading brought.
#[derive(Debug, Clone)]
pub struct Batch {
    /// When it began.
    pub at: MonoNanos,
    /// What was read.
    pub readings: Vec<Reading>,
    /// What went wrong, in words.
    pub remarks: Vec<String>,
}

/// Reads `meters` every `every` until nobody listens.
pub fn sample(mut meters: Vec<Box<dyn Meter>>, every: Duration) -> mpsc::Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let span = tracing::Span::current();
    std::thread::spawn(move || {
        let _within = span.entered();
        let mut next = Instant::now();
        loop {
            let at = clock::monotonic();
            let readings = meters.iter_mut().flat_map(|m| m.read(clock::monotonic())).collect();
            let remarks = meters.iter_mut().flat_map(|m| m.remarks()).collect();
            if sender.blocking_send(Batch { at, readings, remarks }).is_err() {
                return;
            }
            // A round that took too long is not made up for: readings that follow each other at once say nothing new.
            next = (next + every).max(Instant::now());
            std::thread::sleep(next - Instant::now());
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use fleet_common::telemetry::Series;

    use super::*;

    struct Counting(i64);

    impl Meter for Counting {
        fn name(&self) -> String {
            "counting".into()
        }

        fn read(&mut self, now: MonoNanos) -> Vec<Reading> {
            self.0 += 1;
            // Reading takes most of the interval; the pace must not suffer.
            std::thread::sleep(Duration::from_millis(12));
            vec![Reading { at: now, channel: Series::GpuPowerMilliwatts.into(), value: self.0 }]
        }
    }

    #[test]
    fn the_pace_does_not_depend_on_how_long_reading_takes() {
        let mut batches = sample(vec![Box::new(Counting(0))], Duration::from_millis(20));
        let times: Vec<MonoNanos> = (0..26).map(|_| batches.blocking_recv().expect("reads").at).collect();
        let seconds = times[25].seconds_since(times[0]);
        // 25 intervals of 20 ms; with what reading takes added they would be 0.8 s.
        assert!((0.49..0.75).contains(&seconds), "{seconds}");
    }
}
