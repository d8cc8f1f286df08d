//! What a comparison ran on.

use std::fmt;
use std::fs;
use std::thread;

/// The facts that times depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Linux's version.
    pub kernel: String,
    /// Threads of either side.
    pub threads: u32,
}

impl Machine {
    /// This one.
    pub fn here(threads: u32) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let value = |text: &str, key: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal").and_then(|v| v.strip_suffix(" kB")?.parse::<u64>().ok());
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "an unnamed CPU".to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory: memory.unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            threads,
        }
    }

    /// Runnable processes besides this one, averaged over the last minute: on a machine at rest about 0.
    pub fn load() -> f64 {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
    }

    /// The machine, whatever ran on it.
    pub fn hardware(&self) -> String {
        let Self { cpu, cores, memory, kernel, .. } = self;
        format!("{cpu}, {cores} cores, {:.1} GiB, Linux {kernel}", *memory as f64 / f64::from(1 << 30))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {} threads on either side", self.hardware(), self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        let here = Machine::here(1);
        assert!(!here.cpu.is_empty() && here.cores > 0 && here.memory > 1 << 28 && !here.kernel.is_empty(), "{here:?}");
    }
}
