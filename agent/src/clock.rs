//! The machine's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_common::telemetry::MonoNanos;
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock, which workers read too.
pub(crate) fn monotonic() -> MonoNanos {
    let time = clock_gettime(ClockId::Monotonic);
    MonoNanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The wall clock, milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Wall clock minus monotonic clock, nanoseconds.
pub(crate) fn wall_offset_nanos() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
    wall - monotonic().0 as i64
}

/// Names this boot of the machine.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The machine's clocks beside each other: where they move apart, one was set, or the machine slept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clocks {
    /// Wall clock minus monotonic clock, seconds.
    wall: f64,
    /// Time since the machine started, sleep included, minus monotonic clock, seconds.
    slept: f64,
}

/// Clocks that are kept right drift by less between two looks.
const STEP: f64 = 1.0;

impl Clocks {
    pub(crate) fn read() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        let boot = boot.tv_sec as f64 + boot.tv_nsec as f64 * 1e-9;
        Self { wall: wall_offset_nanos() as f64 * 1e-9, slept: boot - monotonic().0 as f64 * 1e-9 }
    }

    /// What happened since `then`, in words for a record. Readings are on the monotonic clock, which neither touches.
    pub(crate) fn since(&self, then: &Self) -> Vec<String> {
        let slept = self.slept - then.slept;
        // While a machine sleeps its wall clock goes on.
        let set = self.wall - then.wall - slept.max(0.0);
        let mut found = Vec::new();
        if slept > STEP {
            found.push(format!(
                "the machine slept for {slept:.0} s; what its meters counted meanwhile is in the joules"
            ));
        }
        if set.abs() > STEP {
            let way = if set > 0.0 { "forward" } else { "back" };
            let by = set.abs();
            found.push(format!("the wall clock was set {way} by {by:.0} s: times of day before and after disagree"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_and_a_machine_that_slept_are_told_apart() {
        let then = Clocks { wall: 1_000.0, slept: 5.0 };
        assert!(Clocks { wall: 1_000.4, slept: 5.0 }.since(&then).is_empty());
        let set = Clocks { wall: 1_000.0 - 3_600.0, slept: 5.0 }.since(&then);
        assert!(set.len() == 1 && set[0].contains("set back by 3600 s"), "{set:?}");
        let slept = Clocks { wall: 1_090.0, slept: 95.0 }.since(&then);
        assert!(slept.len() == 1 && slept[0].contains("slept for 90 s"), "{slept:?}");
        let (a, b) = (Clocks::read(), Clocks::read());
        assert!(b.since(&a).is_empty());
    }
}
