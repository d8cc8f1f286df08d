//! The machine itself: CPU, memory, system.

use std::fs;

/// What the system says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Distribution and kernel.
    pub os: String,
    /// CPU model.
    pub cpu: String,
    /// Logical CPUs that this process may use; a container's limit counts.
    pub cpus: u32,
    /// Main memory, bytes; a container's limit counts.
    pub memory_bytes: u64,
}

impl Host {
    /// Reads `/proc`, `/sys` and `/etc/os-release`.
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let uname = rustix::system::uname();
        let release = read("/etc/os-release");
        let distribution = field(&release, "PRETTY_NAME", '=').unwrap_or("Linux");
        let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
            .iter()
            .find_map(|path| read(path).trim().parse::<u64>().ok());
        let total = memory_total(&read("/proc/meminfo"));
        Self {
            name: uname.nodename().to_string_lossy().into_owned(),
            os: format!("{distribution}, {} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory_bytes: limit.map_or(total, |limit| limit.min(total)),
        }
    }
}

/// The value behind `key` and `separator`, without quotes.
fn field<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(k, _)| k.trim() == key)
        .map(|(_, value)| value.trim().trim_matches('"'))
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let name = field(cpuinfo, "model name", ':').or_else(|| field(cpuinfo, "Model", ':'))?;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn memory_total(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal", ':').and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_files_are_understood() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD   EPYC 9354\nprocessor\t: 1\nmodel name\t: AMD EPYC 9354\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("AMD EPYC 9354"));
        assert_eq!(cpu_model("Model\t: Raspberry Pi 5\n").as_deref(), Some("Raspberry Pi 5"));
        assert_eq!(memory_total("MemTotal:       24684000 kB\nMemFree: 1 kB\n"), 24_684_000 * 1024);
        assert_eq!(memory_total(""), 0);
        let here = Host::read();
        assert!(here.cpus >= 1 && here.memory_bytes > 0 && !here.cpu.is_empty(), "{here:?}");
    }
}
