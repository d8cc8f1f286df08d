//! The CPU packages' energy counters (RAPL), as Linux' powercap shows them.

use std::fs;
use std::path::{Path, PathBuf};

use fleet_common::energy::Unwrap;
use fleet_common::telemetry::Series;

use super::{Meter, Reading};

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

/// All packages of the machine, summed.
#[derive(Debug)]
pub struct Rapl {
    packages: Vec<(PathBuf, Unwrap)>,
}

impl Rapl {
    /// Finds the packages under `root` ([`super::POWERCAP`]).
    ///
    /// # Errors
    /// There are none, or they may not be read.
    pub fn open(root: &Path) -> Result<Self, RaplError> {
        let mut packages = Vec::new();
        let entries = fs::read_dir(root).map(|e| e.flatten().map(|e| e.path()).collect()).unwrap_or_default();
        let mut zones: Vec<PathBuf> = entries;
        zones.sort();
        for zone in zones {
            // Packages are the top-level zones, intel-rapl:N (AMD's too); those with two numbers are parts of them.
            let name = zone.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let top = name.strip_prefix("intel-rapl:").is_some_and(|n| n.parse::<u32>().is_ok());
            let is_package = fs::read_to_string(zone.join("name")).is_ok_and(|n| n.trim().starts_with("package"));
            if !(top && is_package) {
                continue;
            }
            let counter = zone.join("energy_uj");
            match fs::read_to_string(&counter) {
                Ok(_) => {
                    let range = read_number(&zone.join("max_energy_range_uj")).unwrap_or(u64::MAX);
                    packages.push((counter, Unwrap::new(range)));
                }
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(RaplError::Permission { path: counter });
                }
                Err(_) => {}
            }
        }
        if packages.is_empty() { Err(RaplError::Absent { path: root.to_owned() }) } else { Ok(Self { packages }) }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Meter for Rapl {
    fn read(&mut self) -> Vec<Reading> {
        let mut total = 0;
        for (path, unwrap) in &mut self.packages {
            // A sum without one of the packages would look like a fall in power.
            let Some(raw) = read_number(path) else { return Vec::new() };
            total += unwrap.read(raw);
        }
        i64::try_from(total).map(|uj| (Series::CpuPackageEnergyMicrojoules.into(), uj)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(root: &Path, zone: &str, name: &str, energy: &str, range: &str) {
        let dir = root.join(zone);
        fs::create_dir_all(&dir).expect("makes");
        fs::write(dir.join("name"), name).expect("writes");
        fs::write(dir.join("energy_uj"), energy).expect("writes");
        fs::write(dir.join("max_energy_range_uj"), range).expect("writes");
    }

    #[test]
    fn packages_are_summed_and_wraps_undone() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        package(root, "intel-rapl:0", "package-0\n", "900\n", "999\n");
        package(root, "intel-rapl:0:0", "core\n", "5\n", "999\n");
        package(root, "intel-rapl:1", "package-1\n", "10\n", "999\n");
        package(root, "intel-rapl:2", "psys\n", "77\n", "999\n");
        let mut rapl = Rapl::open(root).expect("two packages");
        assert_eq!(rapl.read(), [(Series::CpuPackageEnergyMicrojoules.into(), 0)]);
        fs::write(root.join("intel-rapl:0/energy_uj"), "100\n").expect("writes");
        fs::write(root.join("intel-rapl:1/energy_uj"), "30\n").expect("writes");
        assert_eq!(rapl.read(), [(Series::CpuPackageEnergyMicrojoules.into(), 199 + 20)]);
        fs::remove_file(root.join("intel-rapl:1/energy_uj")).expect("removes");
        assert_eq!(rapl.read(), [], "half a sum is no reading");
    }

    #[test]
    fn a_machine_without_counters_says_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = Rapl::open(&dir.path().join("powercap")).expect_err("none").to_string();
        assert!(error.contains("virtual machines"), "{error}");
    }
}
