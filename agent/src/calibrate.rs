//! A close look at the meters of some slots, or a comparison with a better meter entered: `fleet-agent calibrate`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_common::energy::SensorTerm;
use fleet_common::record;
use serde::Serialize;

use crate::device::{DeviceLock, Host, LockError, Nvidia, Slot};
use crate::meter::{self, Cache, Places, SquareLoad};

/// Name and version of the `--json` form.
pub const SCHEMA: &str = "fleet.calibration/1";

/// Where to look, and what to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where meters are.
    pub places: Places,
    /// Where what is known about them is kept.
    pub cache: PathBuf,
    /// Where device locks are.
    pub lock_dir: PathBuf,
    /// The worker program, which puts the load on.
    pub worker: PathBuf,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Measure idle power and how sensors follow a load.
    Measure {
        /// For how long idle power is measured.
        idle_seconds: f64,
    },
    /// Note a comparison with a better meter.
    Compare(SensorTerm),
    /// Forget it.
    Forget,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibrated {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Per slot.
    pub slots: Vec<SlotCalibrated>,
}

/// What came out for one slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotCalibrated {
    /// The slot.
    pub slot: String,
    /// Its meters as they are known now, by their keys; the device's first. Or why there is nothing.
    pub meters: Result<Vec<(String, record::Meter)>, String>,
    /// What a careful reader must know.
    pub remarks: Vec<String>,
}

impl Calibrated {
    /// Whether all slots could be looked at.
    pub fn is_whole(&self) -> bool {
        self.slots.iter().all(|s| s.meters.is_ok())
    }

    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for slot in &self.slots {
            out.push_str(&format!("{}\n", slot.slot));
            match &slot.meters {
                Err(why) => out.push_str(&format!("  {why}\n")),
                Ok(meters) => meters.iter().for_each(|(key, meter)| out.push_str(&line(key, meter))),
            }
            slot.remarks.iter().for_each(|remark| out.push_str(&format!("  ! {remark}\n")));
        }
        out
    }
}

fn line(key: &str, meter: &record::Meter) -> String {
    let idle = match &meter.idle {
        record::Reading::Measured(i) => format!("{:.2} ± {:.2} W", i.watts, i.deviation),
        record::Reading::Unavailable(why) => why.clone(),
    };
    let response = meter.response.map_or("not known".to_owned(), |r| {
        format!("updated every {:.0} ms, a mean over {:.0} ms", r.update_seconds * 1e3, r.averaging_seconds * 1e3)
    });
    let SensorTerm { factor, relative, basis } = &meter.sensor;
    format!(
        "  {key}\n    idle    {idle}\n    sensor  {response}\n    error   × {factor} ± {:.1} % ({basis})\n",
        relative * 100.0
    )
}

/// Does it for each of `slots`; `say` is told what is at work.
pub fn calibrate(
    options: &Options,
    slots: &[Slot],
    host: &Host,
    nvidia: Option<&Arc<Nvidia>>,
    mut say: impl FnMut(&str),
) -> Calibrated {
    let slots = slots.iter().map(|slot| {
        let mut cache = Cache::open(&options.cache);
        let mut remarks = Vec::new();
        let done = one(options, slot, host, nvidia, &mut cache, &mut remarks, &mut say);
        let now = || meter::of(slot, &host.name, nvidia, &options.places, None, &cache).covered;
        let meters = done.map(|()| now().all().map(|m| (m.key.clone(), m.describe())).collect());
        SlotCalibrated { slot: slot.id.to_string(), meters, remarks }
    });
    Calibrated { schema: SCHEMA, slots: slots.collect() }
}

fn one(
    options: &Options,
    slot: &Slot,
    host: &Host,
    nvidia: Option<&Arc<Nvidia>>,
    cache: &mut Cache,
    remarks: &mut Vec<String>,
    say: &mut impl FnMut(&str),
) -> Result<(), String> {
    let mut meters = meter::of(slot, &host.name, nvidia, &options.places, None, cache);
    let key = meters.covered.device.as_ref().map_err(|why| format!("no energy meter: {why}"))?.key.clone();
    match &options.task {
        Task::Compare(term) => cache.calibrate(&key, Some(term.clone())).map_err(|e| e.to_string()),
        Task::Forget => cache.calibrate(&key, None).map_err(|e| e.to_string()),
        Task::Measure { idle_seconds } => {
            let owner = format!("fleet-agent calibrate, process {}", std::process::id());
            let _lock = DeviceLock::take(&options.lock_dir, &slot.id, &owner).map_err(|e| match e {
                LockError::Taken { slot, owner } => {
                    format!("{slot} is in use by {owner}: it is not idle. Stop that, or name another --device")
                }
                other => other.to_string(),
            })?;
            say(&format!(
                "{}: idle power for {idle_seconds:.0} s, then a load for {:.0} s; leave the machine alone",
                slot.id,
                SquareLoad::SECONDS
            ));
            let load = SquareLoad { worker: &options.worker, slot, threads: host.cpus };
            let found = meter::characterise(
                &mut meters,
                &load,
                *idle_seconds,
                Duration::from_secs_f64(1.0 / meter::DEFAULT_HERTZ),
            )?;
            remarks.extend(found.remarks);
            for (key, character) in found.characters {
                cache.found(&key, character).map_err(|e| e.to_string())?;
            }
            Ok(())
        }
    }
}
