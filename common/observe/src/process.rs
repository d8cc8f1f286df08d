//! What every program tells of its own process, under the names that Prometheus' client libraries share.

use std::fs;
use std::path::Path;

use crate::page::{Metric, Page};

crate::metrics! {
    BUILD = Gauge "fleet_build_info", "The program and its version; always 1";
    CPU = Counter "process_cpu_seconds_total", "CPU time that the process has used, in seconds";
    RESIDENT = Gauge "process_resident_memory_bytes", "Resident memory of the process, in bytes";
    START = Gauge "process_start_time_seconds", "When the process was started, in seconds since 1970";
    FILES = Gauge "process_open_fds", "Files and sockets that the process has open";
    FREE = Gauge "fleet_state_free_bytes", "Space that is left where the state folder is, in bytes";
}

/// What [`put`] tells.
pub const METRICS: &[Metric] = ALL;

/// Puts this process on a page; `state` is its state folder.
pub fn put(page: &mut Page, program: &str, version: &str, state: &Path) {
    page.put(&BUILD, [("program", program), ("version", version)], 1.0);
    let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count() as f64).ok();
    let free = rustix::fs::statvfs(state).map(|s| s.f_bavail as f64 * s.f_frsize as f64).ok();
    let stat = Stat::read();
    let values = [
        (&CPU, stat.as_ref().map(|s| s.cpu_seconds)),
        (&RESIDENT, stat.as_ref().map(|s| s.resident_bytes)),
        (&START, stat.as_ref().and_then(Stat::started)),
        (&FILES, open),
        (&FREE, free),
    ];
    for (metric, value) in values {
        value.into_iter().for_each(|value| page.put(metric, [], value));
    }
}

/// What `/proc/self/stat` says, in seconds and bytes.
#[derive(Debug)]
struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
    after_boot: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name between brackets, and may hold spaces and brackets itself.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) / ticks,
            after_boot: number(19)? / ticks,
            resident_bytes: number(21)? * rustix::param::page_size() as f64,
        })
    }

    fn started(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(boot + self.after_boot)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::exposition;

    #[test]
    fn this_process_is_known_and_a_name_with_brackets_does_not_move_the_fields() {
        let mut page = Page::of(ALL);
        put(&mut page, "test", "1.2.3", Path::new("/"));
        let page = exposition::read(&page.text(&Registry::default())).expect("a page");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let started = page.value(START.name, &[]).expect("a start");
        assert!((now - 3600.0..now + 1.5).contains(&started), "{started} at {now}");
        assert!(page.value(RESIDENT.name, &[]).expect("memory") > 1e6);
        assert!(page.value(FILES.name, &[]).expect("files") >= 3.0);
        assert!(page.value(FREE.name, &[]).is_some() && page.value(CPU.name, &[]).is_some());
        assert_eq!(page.value(BUILD.name, &[("version", "1.2.3")]), Some(1.0));

        let fields: Vec<String> = (3..=52).map(|n: u32| n.to_string()).collect();
        let stat = Stat::parse(&format!("7 (a) b (c)) S {}\n", fields[1..].join(" "))).expect("read");
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, (14.0 + 15.0) / ticks);
        assert_eq!(stat.after_boot, 22.0 / ticks);
        assert_eq!(stat.resident_bytes, 24.0 * rustix::param::page_size() as f64);
        assert!(Stat::parse("7 (cut) S 1").is_none());
    }
}
