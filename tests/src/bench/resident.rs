//! What a process holds, as the kernel counts it.

use std::io;

/// Most bytes that the process `pid` had resident so far; `None` once it has ended.
pub fn most(pid: u32) -> Option<u64> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Waits for the child `pid`; whether it succeeded, and the most bytes that it had resident.
///
/// # Errors
/// It is no child of this process, or was waited for already.
pub(super) fn of_ended(pid: u32) -> io::Result<(bool, u64)> {
    let mut status = 0;
    // SAFETY: plain numbers, for which all bits zero are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: fills the two values that it is given.
    let waited = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    let ok = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    Ok((ok, usage.ru_maxrss as u64 * 1024))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_kernels_figures_are_read_and_a_process_that_ended_has_none() {
        assert_eq!(
            parse("Name:\tfleet-worker\nVmPeak:\t  900 kB\nVmHWM:\t  1234 kB\nVmRSS:\t12 kB\n"),
            Some(1234 << 10)
        );
        assert_eq!(parse("Name:\tfleet-worker\nState:\tZ (zombie)\n"), None);
        assert!(most(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn a_child_that_ended_has_said_how_much_it_held_and_whether_it_succeeded() {
        let ended = |command: &str| of_ended(Command::new(command).spawn().expect("it starts").id()).expect("a child");
        let (ok, bytes) = ended("true");
        assert!(ok && bytes > 100 << 10, "{bytes}");
        assert!(!ended("false").0);
        assert!(of_ended(std::process::id()).is_err(), "nobody is a child of itself");
    }
}
