//! What a meter is like: idle power of its device, how its sensor follows a load, and how wrong it is. Found out once a
//! day per device and driver, and kept between runs.
//!
//! ```text
//! DIR/meters.json    characters by key (a day old at most), calibrations by key (until replaced)
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_common::energy::{self, Gauge, Readings, SensorTerm, SquareWave};
use fleet_common::record::{IdlePower, SensorResponse};
use fleet_common::telemetry::{MonoNanos, Series};
use serde::{Deserialize, Serialize};

use super::{Covered, Meter};
use crate::clock;

/// Name and version of the file's form.
const SCHEMA: &str = "fleet.meters/1";
/// After so long a device is looked at again: rooms warm up, drivers and fans change their minds.
const OLDEST_MS: u64 = 24 * 60 * 60 * 1000;

/// What was found out about a meter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Character {
    /// How its sensor follows a load.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub response: Option<SensorResponse>,
    /// Idle power.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idle: Option<IdlePower>,
}

/// A comparison with a better meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What the sensor's joules are multiplied by, and how far off the product may be.
    pub term: SensorTerm,
    /// When it was entered, milliseconds since 1970.
    pub entered_unix_ms: u64,
}

/// Why what is known cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("what was found out about meters cannot be kept in {path}: {source}; name another folder with --meter-cache")]
pub struct CacheError {
    path: PathBuf,
    source: std::io::Error,
}

/// What is known about meters.
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    path: PathBuf,
    file: CacheFile,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CacheFile {
    schema: String,
    #[serde(default)]
    characters: BTreeMap<String, Found>,
    #[serde(default)]
    calibrations: BTreeMap<String, Calibration>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Found {
    #[serde(flatten)]
    character: Character,
    found_unix_ms: u64,
}

/// Where it is kept unless somebody says otherwise: the user's folder for such things.
pub fn default_cache_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("netscore-fleet")
}

impl Cache {
    /// What is kept in the folder `dir`. A file that cannot be read, or of another version, counts as nothing known.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("meters.json");
        let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<CacheFile>(&text).ok());
        let empty =
            || CacheFile { schema: SCHEMA.to_owned(), characters: BTreeMap::new(), calibrations: BTreeMap::new() };
        Self { path, file: read.filter(|f| f.schema == SCHEMA).unwrap_or_else(empty) }
    }

    /// What was found out about the meter `key` within the last day.
    pub fn character(&self, key: &str) -> Character {
        let young = |found: &&Found| clock::unix_ms().saturating_sub(found.found_unix_ms) < OLDEST_MS;
        self.file.characters.get(key).filter(young).map(|f| f.character.clone()).unwrap_or_default()
    }

    /// What the meter `key` was compared with a better one for.
    pub fn calibration(&self, key: &str) -> Option<SensorTerm> {
        self.file.calibrations.get(key).map(|c| c.term.clone())
    }

    /// Keeps what was found out.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn found(&mut self, key: &str, character: Character) -> Result<(), CacheError> {
        let found = Found { character, found_unix_ms: clock::unix_ms() };
        self.file.characters.insert(key.to_owned(), found);
        self.write()
    }

    /// Keeps a comparison with a better meter, or forgets it.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn calibrate(&mut self, key: &str, term: Option<SensorTerm>) -> Result<(), CacheError> {
        match term {
            Some(term) => {
                let calibration = Calibration { term, entered_unix_ms: clock::unix_ms() };
                self.file.calibrations.insert(key.to_owned(), calibration);
            }
            None => {
                self.file.calibrations.remove(key);
            }
        }
        self.write()
    }

    fn write(&self) -> Result<(), CacheError> {
        let failed = |source| CacheError { path: self.path.clone(), source };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let text = serde_json::to_vec_pretty(&self.file).map_err(|e| failed(std::io::Error::other(e)))?;
        // Renamed into place: another agent of this machine reads the old one or the new one.
        let partial = dir.join(format!("meters.json.{}", std::process::id()));
        std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &self.path)).map_err(failed)
    }
}

/// Reads meters for a while and says what each of `covered` takes, by key; a domain that cannot be told is left out.
/// Nothing should be at work.
pub(super) fn idle_power(
    meters: &mut [Box<dyn Meter>],
    covered: &Covered,
    seconds: f64,
    every: Duration,
) -> Vec<(String, IdlePower)> {
    let (mut readings, busy) = (Readings::default(), CpuTime::read());
    let from = clock::monotonic();
    // A source that lags behind needs readings from behind the end.
    let end = MonoNanos(from.0 + (seconds * 1e9) as u64);
    let behind = MonoNanos(end.0 + 1_200_000_000);
    while clock::monotonic() <= behind {
        collect(meters, &mut readings);
        std::thread::sleep(every);
    }
    let cpu_busy = CpuTime::read().zip(busy).and_then(|(now, then)| now.busy_since(then));
    let celsius = readings.at(Series::GpuTemperatureCelsius.into(), end).map(|c| c as f64);
    let tell = |metered: &super::Metered| {
        let idle = energy::idle(&readings, &metered.gauge, from, end).ok()?;
        let celsius = celsius.filter(|_| metered.gauge.domain == fleet_common::record::EnergyDomain::Gpu);
        let power = IdlePower {
            watts: idle.watts,
            deviation: idle.deviation,
            seconds: idle.seconds,
            measured_unix_ms: clock::unix_ms(),
            celsius,
            cpu_busy,
        };
        Some((metered.key.clone(), power))
    };
    covered.all().filter_map(tell).collect()
}

/// Reads meters as fast as they answer while `wave` puts load on the device, and says how the device's sensor follows.
///
/// # Errors
/// The load failed, or the sensor does not follow it; in words.
pub(super) fn square_wave(
    meters: &mut [Box<dyn Meter>],
    gauge: &Gauge,
    wave: impl FnOnce() -> Result<Vec<(MonoNanos, MonoNanos)>, String> + Send,
) -> Result<SensorResponse, String> {
    let mut readings = Readings::default();
    let begun = clock::monotonic();
    let on = std::thread::scope(|scope| {
        let load = scope.spawn(wave);
        while !load.is_finished() {
            collect(meters, &mut readings);
            std::thread::sleep(FAST);
        }
        load.join().unwrap_or_else(|_| Err("the load crashed".to_owned()))
    })?;
    let seconds = |at: MonoNanos| at.seconds_since(begun);
    let wave = SquareWave { on: on.iter().map(|(from, to)| (seconds(*from), seconds(*to))).collect() };
    match gauge.powers.iter().find(|p| readings.has(p.channel)) {
        Some(power) => {
            let found = energy::response(&readings.points(power.channel, begun, 0.0), &wave)?;
            let energy::Response { update_seconds, averaging_seconds, .. } = found;
            Ok(SensorResponse { update_seconds, averaging_seconds })
        }
        // A counter averages over nothing; how often it is updated shows in how often it changes.
        None => {
            let (channel, name) = gauge.counter.as_ref().ok_or("there is nothing to read")?;
            let points = readings.points(*channel, begun, 0.0);
            let changes: Vec<f64> = points.windows(2).filter(|w| w[1].1 != w[0].1).map(|w| w[1].0).collect();
            let mut between: Vec<f64> = changes.windows(2).map(|w| w[1] - w[0]).collect();
            between.sort_by(f64::total_cmp);
            let update_seconds = *between.get(between.len() / 2).ok_or(format!("the {name} does not move"))?;
            Ok(SensorResponse { update_seconds, averaging_seconds: 0.0 })
        }
    }
}

/// Fast enough for the fastest sensor of a board, slow enough not to be the load itself.
const FAST: Duration = Duration::from_millis(5);

fn collect(meters: &mut [Box<dyn Meter>], readings: &mut Readings) {
    for meter in meters.iter_mut() {
        for reading in meter.read(clock::monotonic()) {
            readings.push(reading.at, reading.channel, reading.value);
        }
    }
}

/// CPU time of the machine since it started, in ticks.
#[derive(Debug, Clone, Copy)]
struct CpuTime {
    busy: u64,
    all: u64,
}

impl CpuTime {
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|t| t.parse().ok()).take(8).collect();
        // user nice system idle iowait irq softirq steal
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all: u64 = ticks.iter().sum();
        Some(Self { busy: all.saturating_sub(idle), all })
    }

    fn busy_since(self, then: Self) -> Option<f64> {
        let all = self.all.saturating_sub(then.all);
        (all > 0).then(|| self.busy.saturating_sub(then.busy) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(watts: f64) -> IdlePower {
        IdlePower {
            watts,
            deviation: 0.1,
            seconds: 30.0,
            measured_unix_ms: 7,
            celsius: Some(40.0),
            cpu_busy: Some(0.01),
        }
    }

    #[test]
    fn what_is_found_is_kept_for_a_day_and_calibrations_for_longer() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut cache = Cache::open(dir.path());
        assert_eq!(cache.character("gpu a"), Character::default());
        let character = Character { response: None, idle: Some(idle(20.0)) };
        cache.found("gpu a", character.clone()).expect("writes");
        let term = SensorTerm { factor: 1.04, relative: 0.01, basis: "a plug".into() };
        cache.calibrate("gpu a", Some(term.clone())).expect("writes");
        let mut again = Cache::open(dir.path());
        assert_eq!((again.character("gpu a"), again.calibration("gpu a")), (character, Some(term.clone())));
        again.file.characters.get_mut("gpu a").expect("kept").found_unix_ms -= OLDEST_MS;
        assert_eq!(again.character("gpu a"), Character::default(), "a day later it is looked at again");
        assert_eq!(again.calibration("gpu a"), Some(term));
        again.calibrate("gpu a", None).expect("writes");
        assert_eq!(Cache::open(dir.path()).calibration("gpu a"), None);
        std::fs::write(dir.path().join("meters.json"), "{").expect("writes");
        assert_eq!(Cache::open(dir.path()).character("gpu a"), Character::default());
        std::fs::write(dir.path().join("file"), "").expect("writes");
        let error = Cache::open(&dir.path().join("file")).calibrate("x", None).expect_err("not a folder").to_string();
        assert!(error.contains("--meter-cache"), "{error}");
    }

    #[test]
    fn how_busy_the_machine_was_is_read_from_the_kernel() {
        let time = |text| CpuTime::parse(text).expect("a line");
        let (then, now) = (time("cpu  10 0 10 80 0 0 0 0 0 0\n"), time("cpu  20 5 15 150 10 0 0 0 0 0\ncpu0 1\n"));
        assert_eq!(now.busy_since(then), Some(0.2));
        assert!(CpuTime::parse("intr 5").is_none());
        assert!(CpuTime::read().is_some());
    }
}
