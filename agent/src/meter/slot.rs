//! Which meters belong to a slot, and what they cover.

use std::path::PathBuf;
use std::sync::Arc;

use fleet_common::energy::{Gauge, PowerSource, default_term};
use fleet_common::record::{self, EnergyDomain, Reading};
use fleet_common::telemetry::{Channel, Series};

use super::character::{Cache, Character};
use super::hwmon::Hwmon;
use super::nvml::NvmlMeter;
use super::rapl::Rapl;
use super::wall::{WallMeter, WallSource};
use super::{HWMON, Meter, POWERCAP};
use crate::device::{GpuSlot, Nvidia, Slot};

/// Where meters are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The kernel's powercap.
    pub powercap: PathBuf,
    /// The kernel's hwmon.
    pub hwmon: PathBuf,
    /// A meter at the wall.
    pub wall: Option<WallSource>,
}

impl Default for Places {
    fn default() -> Self {
        Self { powercap: POWERCAP.into(), hwmon: HWMON.into(), wall: None }
    }
}

/// The meters of a slot, to be read while a trial runs, and what they cover.
pub struct SlotMeters {
    /// The meters.
    pub meters: Vec<Box<dyn Meter>>,
    /// What they cover.
    pub covered: Covered,
}

/// What meters cover.
#[derive(Debug, Clone, PartialEq)]
pub struct Covered {
    /// The slot's device: what its trials are charged with, or why its energy cannot be told.
    pub device: Result<Metered, String>,
    /// Other parts of the machine.
    pub others: Vec<Metered>,
}

/// One domain's meter, and what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Metered {
    /// Under which it is known from one day to the next.
    pub key: String,
    /// How its readings are to be taken.
    pub gauge: Gauge,
    /// What was found out about it.
    pub character: Character,
}

impl Metered {
    /// For the record.
    pub fn describe(&self) -> record::Meter {
        let Gauge { counter, powers, domain, sensor, idle_watts, .. } = &self.gauge;
        let counter = counter.iter().map(|(_, name)| name.clone());
        record::Meter {
            domain: *domain,
            sources: counter.chain(powers.iter().map(|p| p.name.clone())).collect(),
            response: self.character.response,
            idle: match (&self.character.idle, idle_watts) {
                (Some(idle), _) => Reading::Measured(idle.clone()),
                (None, Reading::Unavailable(why)) => Reading::Unavailable(why.clone()),
                (None, Reading::Measured(_)) => Reading::Unavailable(NOT_MEASURED.to_owned()),
            },
            sensor: sensor.clone(),
        }
    }
}

impl Covered {
    /// All that there are, the device first.
    pub fn all(&self) -> impl Iterator<Item = &Metered> {
        self.device.iter().chain(&self.others)
    }
}

/// Why idle power is not known.
const NOT_MEASURED: &str = "idle power was not measured; `fleet-agent calibrate` measures it";
/// NVML's sensors are updated every 20 to 100 ms, RAPL's counters every millisecond, plugs once a second.
const NVML_UPDATE: f64 = 0.1;
const RAPL_UPDATE: f64 = 0.001;
const HWMON_UPDATE: f64 = 0.1;
const WALL_UPDATE: f64 = 1.0;

/// A domain's meter before anything is known about it.
struct Plain<'a> {
    domain: EnergyDomain,
    /// What its driver calls the device.
    device: &'a str,
    key: String,
    counter: Option<(Channel, String)>,
    /// Channel, name, and seconds that its maker says it averages over.
    powers: Vec<(Channel, String, f64)>,
    update: f64,
}

impl Plain<'_> {
    fn known(self, cache: &Cache) -> Metered {
        let character = cache.character(&self.key);
        let update = character.response.map_or(self.update, |r| r.update_seconds);
        // What was found is about the best source; the others are as their maker says.
        let mut found = character.response.map(|r| r.averaging_seconds);
        let power = |(channel, name, stated): (Channel, String, f64)| PowerSource {
            channel,
            name,
            lag_seconds: (found.take().unwrap_or(stated) + update) / 2.0,
        };
        Metered {
            gauge: Gauge {
                domain: self.domain,
                counter: self.counter,
                powers: self.powers.into_iter().map(power).collect(),
                update_seconds: update,
                idle_watts: match &character.idle {
                    Some(idle) => Reading::Measured(idle.watts),
                    None => Reading::Unavailable(NOT_MEASURED.to_owned()),
                },
                sensor: cache.calibration(&self.key).unwrap_or_else(|| default_term(self.domain, self.device)),
            },
            key: self.key,
            character,
        }
    }
}

/// The meters of `slot` on the machine `host`; `worker` is the process of the trial that runs there, if one does.
pub fn of(
    slot: &Slot,
    host: &str,
    nvidia: Option<&Arc<Nvidia>>,
    places: &Places,
    worker: Option<u32>,
    cache: &Cache,
) -> SlotMeters {
    let mut meters: Vec<Box<dyn Meter>> = Vec::new();
    let mut others = Vec::new();
    let mut packages = match Rapl::open(&places.powercap) {
        Ok(rapl) => {
            others.extend(rapl.has_dram().then(|| dram(host).known(cache)));
            meters.push(Box::new(rapl));
            Ok(cpu_packages(host).known(cache))
        }
        Err(error) => Err(error.to_string()),
    };
    if let Some(hwmon) = Hwmon::open(&places.hwmon) {
        others.extend(hwmon.sources().map(|(channel, name)| sensor(host, channel, name).known(cache)));
        meters.push(Box::new(hwmon));
    }
    let mut at_the_wall = places.wall.clone().map(|source| {
        let metered = wall(host).known(cache);
        meters.push(Box::new(WallMeter::new(source)));
        metered
    });
    let device = match (&slot.gpu, nvidia) {
        (Some(gpu), Some(nvidia)) => {
            let meter = NvmlMeter::new(nvidia.clone(), gpu.index, worker);
            let tells = meter.energy();
            // Memory and temperature are worth having without energy, too. Its own readings come first.
            meters.insert(0, Box::new(meter));
            others.extend(packages.ok());
            tells.map(|tells| board(gpu, tells).known(cache))
        }
        (Some(_), None) => Err("the NVIDIA driver does not answer".to_owned()),
        // A machine whose CPU has no counters, but which has a meter at the wall, is charged with all of itself.
        (None, _) => match (&mut packages, at_the_wall.take()) {
            (Err(_), Some(wall)) => Ok(wall),
            (_, wall) => {
                at_the_wall = wall;
                packages
            }
        },
    };
    others.extend(at_the_wall);
    SlotMeters { meters, covered: Covered { device, others } }
}

fn board(gpu: &GpuSlot, tells: super::nvml::Tells) -> Plain<'_> {
    let power = |series: Series, name: &str, averaging| (series.into(), name.to_owned(), averaging);
    let averaging = stated_averaging(&gpu.gpu.compute_capability);
    let instant = tells.instant.then(|| power(Series::GpuPowerInstantMilliwatts, "NVML instant power", 0.0));
    let usual = tells.power.then(|| power(Series::GpuPowerMilliwatts, "NVML power", averaging));
    Plain {
        domain: EnergyDomain::Gpu,
        device: &gpu.gpu.name,
        key: format!("gpu {} driver {}", gpu.gpu.uuid_hash, gpu.gpu.driver),
        counter: tells.counter.then(|| (Series::GpuEnergyMillijoules.into(), "NVML energy counter".to_owned())),
        // A mean misses nothing between two readings; power of the moment does. So where the usual power is a mean, it
        // comes first.
        powers: match averaging > 0.0 {
            true => usual.into_iter().chain(instant).collect(),
            false => instant.into_iter().chain(usual).collect(),
        },
        update: NVML_UPDATE,
    }
}

/// What NVML's default power averages over, seconds, by its documentation: 1 s on Ampere except GA100 (compute
/// capability 8.0) and newer, nothing before.
fn stated_averaging(capability: &str) -> f64 {
    match capability.parse::<f64>() {
        Ok(version) if version > 8.0 => 1.0,
        _ => 0.0,
    }
}

fn cpu_packages(host: &str) -> Plain<'static> {
    Plain {
        domain: EnergyDomain::CpuPackages,
        device: "",
        key: format!("cpu packages of {host}"),
        counter: Some((Series::CpuPackageEnergyMicrojoules.into(), "RAPL package counters".to_owned())),
        powers: Vec::new(),
        update: RAPL_UPDATE,
    }
}

fn dram(host: &str) -> Plain<'static> {
    Plain {
        domain: EnergyDomain::Dram,
        device: "",
        key: format!("memory of {host}"),
        counter: Some((Series::CpuDramEnergyMicrojoules.into(), "RAPL memory counters".to_owned())),
        powers: Vec::new(),
        update: RAPL_UPDATE,
    }
}

fn sensor(host: &str, channel: Channel, name: &str) -> Plain<'static> {
    let counts = channel.series == Series::SensorEnergyMicrojoules;
    let source = (channel, format!("hwmon {name}"));
    let power = (!counts).then(|| (source.0, source.1.clone(), 0.0));
    Plain {
        domain: EnergyDomain::Sensor,
        device: "",
        key: format!("sensor {name} of {host}"),
        counter: counts.then_some(source),
        powers: power.into_iter().collect(),
        update: HWMON_UPDATE,
    }
}

fn wall(host: &str) -> Plain<'static> {
    Plain {
        domain: EnergyDomain::Wall,
        device: "",
        key: format!("wall of {host}"),
        counter: None,
        powers: vec![(Series::WallPowerMilliwatts.into(), "wall meter".to_owned(), 0.0)],
        update: WALL_UPDATE,
    }
}
