//! Sensors that Linux shows under hwmon: AMD GPUs, some CPUs, power supplies and boards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fleet_common::energy::{Growth, Unwrap};
use fleet_common::telemetry::{Channel, MonoNanos, Series};

use super::{Meter, Reading, Remarks};

/// Where Linux shows sensors.
pub const HWMON: &str = "/sys/class/hwmon";
/// See `rapl`: microjoules per second of 10 kW.
const MOST_PER_SECOND: f64 = 1e10;

/// All sensors of power and energy of the machine, and temperatures of the chips that have them.
#[derive(Debug)]
pub struct Hwmon {
    sensors: Vec<Sensor>,
    remarks: Remarks,
}

/// One file.
#[derive(Debug)]
struct Sensor {
    channel: Channel,
    name: String,
    file: PathBuf,
    /// For counters.
    unwrap: Option<Unwrap>,
}

impl Hwmon {
    /// Finds the sensors under `root` ([`HWMON`]); `None` where there are none that tell power or energy.
    pub fn open(root: &Path) -> Option<Self> {
        let mut chips: Vec<PathBuf> = fs::read_dir(root).ok()?.flatten().map(|e| e.path()).collect();
        // hwmon10 behind hwmon9, so that a sensor keeps its channel when one is added behind it.
        chips.sort_by_key(|p| (p.as_os_str().len(), p.clone()));
        let mut sensors = Vec::new();
        for chip in chips {
            sensors.extend(sensors_of(&chip));
        }
        number(&mut sensors);
        (!sensors.is_empty()).then(|| Self { sensors, remarks: Remarks::default() })
    }

    /// Counters and powers with their names, to be integrated or subtracted.
    pub fn sources(&self) -> impl Iterator<Item = (Channel, &str)> {
        let energetic = |s: &&Sensor| s.channel.series != Series::SensorTemperatureMillicelsius;
        self.sensors.iter().filter(energetic).map(|s| (s.channel, s.name.as_str()))
    }

    /// The names of all, for people.
    pub fn names(&self) -> BTreeMap<Channel, String> {
        self.sensors.iter().map(|s| (s.channel, s.name.clone())).collect()
    }
}

/// Sensors of one chip; empty where it tells neither power nor energy.
fn sensors_of(chip: &Path) -> Vec<Sensor> {
    let read = |file: &str| fs::read_to_string(chip.join(file)).ok().map(|t| t.trim().to_owned());
    let chip_name = read("name").unwrap_or_else(|| "unnamed".to_owned());
    // The device behind a chip tells two of a kind apart: amdgpu at 0000:03:00.0.
    let place = fs::read_link(chip.join("device")).ok();
    let place = place.and_then(|p| Some(format!(" at {}", p.file_name()?.to_string_lossy()))).unwrap_or_default();
    let mut sensors = Vec::new();
    for n in 1..=32 {
        let label = |kind: &str| match read(&format!("{kind}{n}_label")) {
            Some(label) => format!("{chip_name}{place}, {label}"),
            None => format!("{chip_name}{place}, {kind}{n}"),
        };
        let mut add = |series: Series, kind: &str, suffix: &str| {
            let file = chip.join(format!("{kind}{n}_{suffix}"));
            let readable = read_number(&file).is_some();
            if readable {
                let unwrap =
                    (series == Series::SensorEnergyMicrojoules).then(|| Unwrap::new(u64::MAX, MOST_PER_SECOND));
                sensors.push(Sensor { channel: series.into(), name: label(kind), file, unwrap });
            }
            readable
        };
        add(Series::SensorEnergyMicrojoules, "energy", "input");
        // A chip may tell a mean and the moment's power of the same thing: one of them is enough.
        let _ = add(Series::SensorPowerMicrowatts, "power", "average")
            || add(Series::SensorPowerMicrowatts, "power", "input");
    }
    if !sensors.is_empty() {
        let file = chip.join("temp1_input");
        if read_number(&file).is_some() {
            let channel = Series::SensorTemperatureMillicelsius.into();
            sensors.push(Sensor { channel, name: format!("{chip_name}{place}, temp1"), file, unwrap: None });
        }
    }
    sensors
}

/// Numbers the sensors of each series.
fn number(sensors: &mut [Sensor]) {
    let mut next = BTreeMap::<Series, u16>::new();
    for sensor in sensors {
        let n = next.entry(sensor.channel.series).or_default();
        sensor.channel.number = *n;
        *n += 1;
    }
}

fn read_number(path: &Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Meter for Hwmon {
    fn name(&self) -> String {
        let names: Vec<&str> = self.sensors.iter().map(|s| s.name.as_str()).collect();
        format!("hwmon: {}", names.join("; "))
    }

    fn read(&mut self, now: MonoNanos) -> Vec<Reading> {
        let mut readings = Vec::new();
        for sensor in &mut self.sensors {
            let Some(mut value) = read_number(&sensor.file) else {
                self.remarks.make(format!("the sensor {} could not be read", sensor.name));
                continue;
            };
            if let Some(unwrap) = &mut sensor.unwrap {
                let Ok(raw) = u64::try_from(value) else { continue };
                if let Growth::Jumped { from, to } = unwrap.read(raw, now) {
                    self.remarks.make(format!(
                        "the counter {} went from {from} to {to} µJ; what it counted meanwhile is unknown",
                        sensor.name
                    ));
                }
                value = i64::try_from(unwrap.total()).unwrap_or(i64::MAX);
            }
            readings.push(Reading { at: now, channel: sensor.channel, value });
        }
        readings
    }

    fn remarks(&mut self) -> Vec<String> {
        self.remarks.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        fs::write(path, text).expect("writes");
    }

    #[test]
    fn power_energy_and_temperature_are_found_and_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        for (file, text) in [
            ("hwmon0/name", "acpitz\n"),
            ("hwmon0/temp1_input", "30000\n"),
            ("hwmon2/name", "amdgpu\n"),
            ("hwmon2/power1_average", "87000000\n"),
            ("hwmon2/power1_input", "90000000\n"),
            ("hwmon2/power1_label", "PPT\n"),
            ("hwmon2/temp1_input", "54000\n"),
            ("hwmon10/name", "amd_energy\n"),
            ("hwmon10/energy1_input", "5000\n"),
            ("hwmon10/energy1_label", "Esocket0\n"),
        ] {
            write(root, file, text);
        }
        let mut hwmon = Hwmon::open(root).expect("two chips tell power or energy");
        let names: Vec<(u32, &str)> = hwmon.sources().map(|(c, name)| (c.code(), name)).collect();
        assert_eq!(names, [(20, "amdgpu, PPT"), (21, "amd_energy, Esocket0")]);
        let mut values = |s: u64| -> Vec<(Series, i64)> {
            hwmon.read(MonoNanos(s * 1_000_000_000)).iter().map(|r| (r.channel.series, r.value)).collect()
        };
        values(0);
        write(root, "hwmon10/energy1_input", "7500\n");
        assert_eq!(
            values(1),
            [
                (Series::SensorPowerMicrowatts, 87_000_000),
                (Series::SensorTemperatureMillicelsius, 54_000),
                (Series::SensorEnergyMicrojoules, 2_500)
            ]
        );
        fs::remove_file(root.join("hwmon2/power1_average")).expect("removes");
        assert_eq!(values(2).len(), 2);
        assert_eq!(hwmon.remarks(), ["the sensor amdgpu, PPT could not be read"]);
    }

    #[test]
    fn machines_without_power_sensors_have_no_meter() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), "hwmon0/temp1_input", "30000\n");
        assert!(Hwmon::open(dir.path()).is_none());
        assert!(Hwmon::open(&dir.path().join("none")).is_none());
    }
}
