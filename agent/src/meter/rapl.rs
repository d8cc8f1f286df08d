//! Energy counters of CPU packages and their memory (RAPL), as Linux' powercap shows them.

use std::fs;
use std::path::{Path, PathBuf};

use fleet_common::energy::{Growth, Unwrap};
use fleet_common::telemetry::{MonoNanos, Series};

use super::{Meter, Reading, Remarks};

/// Where Linux shows power capping, and with it the counters.
pub const POWERCAP: &str = "/sys/class/powercap";
/// No package draws more, in microjoules per second: 10 kW. What seems to is a counter that was set back.
const MOST_PER_SECOND: f64 = 1e10;

/// Why CPU energy cannot be measured here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaplError {
    /// The kernel shows no counters.
    #[error("no CPU energy counters: {path} has no RAPL package (virtual machines seldom show them)")]
    Absent {
        /// Where they would be.
        path: PathBuf,
    },
    /// They are there, for others.
    #[error(
        "no permission to read {path}; since Linux 5.10 it is root's alone. Allow it with: sudo chmod a+r \
         /sys/class/powercap/intel-rapl:*/energy_uj"
    )]
    Permission {
        /// Which counter.
        path: PathBuf,
    },
}

/// All packages of the machine, summed, and all memory beside them.
#[derive(Debug)]
pub struct Rapl {
    packages: Vec<Zone>,
    dram: Vec<Zone>,
    remarks: Remarks,
}

#[derive(Debug)]
struct Zone {
    name: String,
    counter: PathBuf,
    unwrap: Unwrap,
}

impl Zone {
    fn open(dir: &Path, name: &str) -> Result<Self, std::io::Error> {
        let counter = dir.join("energy_uj");
        fs::read_to_string(&counter)?;
        let range = read_number(&dir.join("max_energy_range_uj")).unwrap_or(u64::MAX);
        Ok(Self { name: name.to_owned(), counter, unwrap: Unwrap::new(range, MOST_PER_SECOND) })
    }
}

impl Rapl {
    /// Finds the packages under `root` ([`POWERCAP`]).
    ///
    /// # Errors
    /// There are none, or they may not be read.
    pub fn open(root: &Path) -> Result<Self, RaplError> {
        let (mut packages, mut dram) = (Vec::new(), Vec::new());
        let entries = fs::read_dir(root).map(|e| e.flatten().map(|e| e.path()).collect()).unwrap_or_default();
        let mut zones: Vec<PathBuf> = entries;
        zones.sort();
        for dir in zones {
            // Packages are the top-level zones, intel-rapl:N (AMD's too); those with two numbers are parts of them.
            let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(place) = id.strip_prefix("intel-rapl:") else { continue };
            let name = fs::read_to_string(dir.join("name")).unwrap_or_default().trim().to_owned();
            let top = place.parse::<u32>().is_ok();
            if top && name.starts_with("package") {
                match Zone::open(&dir, &name) {
                    Ok(zone) => packages.push(zone),
                    Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                        return Err(RaplError::Permission { path: dir.join("energy_uj") });
                    }
                    Err(_) => {}
                }
            } else if name == "dram" {
                dram.extend(Zone::open(&dir, &format!("dram {place}")).ok());
            }
        }
        if packages.is_empty() {
            return Err(RaplError::Absent { path: root.to_owned() });
        }
        Ok(Self { packages, dram, remarks: Remarks::default() })
    }

    /// Whether there are counters of memory beside those of packages.
    pub fn has_dram(&self) -> bool {
        !self.dram.is_empty()
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sum of what zones have grown. A sum without one of them would look like a fall in power, so then there is none.
fn sum(zones: &mut [Zone], now: MonoNanos, remarks: &mut Remarks) -> Option<i64> {
    let mut total = 0u64;
    for zone in zones {
        let Some(raw) = read_number(&zone.counter) else {
            remarks.make(format!("the counter of {} could not be read", zone.name));
            return None;
        };
        if let Growth::Jumped { from, to } = zone.unwrap.read(raw, now) {
            remarks.make(format!(
                "the counter of {} went from {from} to {to} µJ, which is no wrap; what it counted meanwhile is unknown",
                zone.name
            ));
        }
        total = total.checked_add(zone.unwrap.total())?;
    }
    i64::try_from(total).ok()
}

impl Meter for Rapl {
    fn name(&self) -> String {
        let names: Vec<&str> = self.packages.iter().chain(&self.dram).map(|z| z.name.as_str()).collect();
        format!("RAPL: {}", names.join(", "))
    }

    fn read(&mut self, now: MonoNanos) -> Vec<Reading> {
        let reading = |series: Series| move |value| Reading { at: now, channel: series.into(), value };
        let packages = sum(&mut self.packages, now, &mut self.remarks);
        let dram = if self.dram.is_empty() { None } else { sum(&mut self.dram, now, &mut self.remarks) };
        packages
            .map(reading(Series::CpuPackageEnergyMicrojoules))
            .into_iter()
            .chain(dram.map(reading(Series::CpuDramEnergyMicrojoules)))
            .collect()
    }

    fn remarks(&mut self) -> Vec<String> {
        self.remarks.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, id: &str, name: &str, energy: &str, range: &str) {
        let dir = root.join(id);
        fs::create_dir_all(&dir).expect("makes");
        fs::write(dir.join("name"), name).expect("writes");
        fs::write(dir.join("energy_uj"), energy).expect("writes");
        fs::write(dir.join("max_energy_range_uj"), range).expect("writes");
    }

    fn values(rapl: &mut Rapl, seconds: u64) -> Vec<(Series, i64)> {
        let readings = rapl.read(MonoNanos(seconds * 1_000_000_000));
        readings.iter().map(|r| (r.channel.series, r.value)).collect()
    }

    #[test]
    fn packages_are_summed_memory_is_apart_and_wraps_are_undone() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        zone(root, "intel-rapl:0", "package-0\n", "900\n", "999\n");
        zone(root, "intel-rapl:0:0", "core\n", "5\n", "999\n");
        zone(root, "intel-rapl:0:1", "dram\n", "50\n", "999\n");
        zone(root, "intel-rapl:1", "package-1\n", "10\n", "999\n");
        zone(root, "intel-rapl:2", "psys\n", "77\n", "999\n");
        let mut rapl = Rapl::open(root).expect("two packages");
        let (packages, dram) = (Series::CpuPackageEnergyMicrojoules, Series::CpuDramEnergyMicrojoules);
        assert_eq!(values(&mut rapl, 0), [(packages, 0), (dram, 0)]);
        fs::write(root.join("intel-rapl:0/energy_uj"), "100\n").expect("writes");
        fs::write(root.join("intel-rapl:1/energy_uj"), "30\n").expect("writes");
        fs::write(root.join("intel-rapl:0:1/energy_uj"), "57\n").expect("writes");
        assert_eq!(values(&mut rapl, 1), [(packages, 199 + 20), (dram, 7)]);
        assert_eq!(rapl.remarks(), Vec::<String>::new());
        fs::remove_file(root.join("intel-rapl:1/energy_uj")).expect("removes");
        assert_eq!(values(&mut rapl, 2), [(dram, 7)], "half a sum is no reading");
        assert_eq!(rapl.remarks(), ["the counter of package-1 could not be read"]);
    }

    #[test]
    fn a_counter_that_was_set_back_is_named_and_adds_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let range = "262143328850\n";
        zone(dir.path(), "intel-rapl:0", "package-0\n", "200000000000\n", range);
        let mut rapl = Rapl::open(dir.path()).expect("a package");
        values(&mut rapl, 0);
        fs::write(dir.path().join("intel-rapl:0/energy_uj"), "3\n").expect("writes");
        assert_eq!(values(&mut rapl, 1), [(Series::CpuPackageEnergyMicrojoules, 0)]);
        assert!(rapl.remarks()[0].contains("which is no wrap"));
        assert!(rapl.remarks().is_empty(), "it is said once");
    }

    #[test]
    fn a_machine_without_counters_says_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = Rapl::open(&dir.path().join("powercap")).expect_err("none").to_string();
        assert!(error.contains("virtual machines"), "{error}");
    }
}
