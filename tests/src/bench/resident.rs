//! What a process holds, as the kernel counts it.

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resident {
    /// Now.
    pub now: u64,
    /// At most, so far.
    pub most: u64,
    /// Whether its main thread waits for something other than a core.
    pub asleep: bool,
}

/// Of the process `pid`; `None` once it has ended.
pub(super) fn of(pid: u32) -> Option<Resident> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse(&status)
}

fn parse(status: &str) -> Option<Resident> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let kib = |name: &str| -> Option<u64> { field(name)?.strip_suffix(" kB")?.trim().parse().ok() };
    Some(Resident { now: kib("VmRSS")? * 1024, most: kib("VmHWM")? * 1024, asleep: field("State")?.starts_with('S') })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read_and_a_process_that_ended_has_none() {
        let status =
            "Name:\tfleet-worker\nState:\tS (sleeping)\nVmPeak:\t  900 kB\nVmHWM:\t  1234 kB\nVmRSS:\t    12 kB\n";
        assert_eq!(parse(status), Some(Resident { now: 12 << 10, most: 1234 << 10, asleep: true }));
        assert_eq!(parse("Name:\tfleet-worker\nState:\tZ (zombie)\n"), None);
        let own = of(std::process::id()).expect("a living process");
        assert!(own.now > 0 && own.most >= own.now, "{own:?}");
    }
}
