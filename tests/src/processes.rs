//! Looking at, and ending, processes.

use std::fs;

/// Ends a process as `kill -9` does.
pub fn kill(pid: u32) {
    // SAFETY: sends a signal; a pid that is gone is no error here.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
}

/// Pids of processes called `name` whose environment holds `marker`.
pub fn with_marker(name: &str, marker: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
    processes
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let file = |f: &str| fs::read(format!("/proc/{pid}/{f}")).unwrap_or_default();
            // A zombie has no environment, so it is not counted: it holds nothing any more.
            file("comm").starts_with(name.as_bytes())
                && file("environ").windows(marker.len()).any(|w| w == marker.as_bytes())
        })
        .collect()
}
