//! The machine's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_common::telemetry::MonoNanos;
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock, which workers read too.
pub(super) fn monotonic() -> MonoNanos {
    let time = clock_gettime(ClockId::Monotonic);
    MonoNanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The wall clock, milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Wall clock minus monotonic clock, nanoseconds.
pub(super) fn wall_offset_nanos() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
    wall - monotonic().0 as i64
}

/// Names this boot of the machine.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
