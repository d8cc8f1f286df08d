//! Memory of a process, as the kernel sees it.

use fleet_common::telemetry::{MonoNanos, Series};

use super::{Meter, Reading};

/// The resident memory of one process.
pub struct ProcessMeter {
    pid: u32,
}

impl ProcessMeter {
    /// Of process `pid`.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }
}

impl Meter for ProcessMeter {
    fn name(&self) -> String {
        format!("memory of process {}", self.pid)
    }

    fn read(&mut self, now: MonoNanos) -> Vec<Reading> {
        let bytes = resident_bytes(self.pid).and_then(|b| i64::try_from(b).ok());
        let reading = |value| Reading { at: now, channel: Series::ProcessResidentBytes.into(), value };
        bytes.map(reading).into_iter().collect()
    }
}

/// Resident bytes of a process; `None` once it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_nobody_has_this_pid() {
        assert!(resident_bytes(std::process::id()).is_some_and(|b| b > 1 << 20));
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
