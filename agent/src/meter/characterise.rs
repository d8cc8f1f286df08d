//! Idle power of a slot's meters, then how its device's sensor follows a load.

use std::time::Duration;

use fleet_common::record::{IdlePower, SensorResponse};

use super::character::{idle_power, square_wave};
use super::{Character, SlotMeters, SquareLoad};

/// Idle power is a mean over so long.
pub const IDLE_SECONDS: f64 = 30.0;
/// Beyond this share of the machine's CPU time it was not idle.
const BUSY: f64 = 0.10;

/// What was found out about a slot's meters.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// By the meters' keys, the device's first.
    pub characters: Vec<(String, Character)>,
    /// What a careful reader must know.
    pub remarks: Vec<String>,
}

/// Looks at the meters of a slot on which nothing runs. Takes a minute.
///
/// # Errors
/// The device has no energy meter, or its idle power cannot be told; in words.
pub fn characterise(
    meters: &mut SlotMeters,
    load: &SquareLoad<'_>,
    idle_seconds: f64,
    every: Duration,
) -> Result<Found, String> {
    let device = meters.covered.device.as_ref().map_err(Clone::clone)?;
    let (key, gauge) = (device.key.clone(), device.gauge.clone());
    let idle = idle_power(&mut meters.meters, &meters.covered, idle_seconds, every);
    if !idle.iter().any(|(k, _)| *k == key) {
        return Err(format!("idle power of {key} cannot be told: its readings do not cover {idle_seconds:.0} s"));
    }
    let response = square_wave(&mut meters.meters, &gauge, || load.run().map_err(|e| e.to_string()));
    let mut remarks = Vec::new();
    if let Some(busy) = idle.iter().find_map(|(_, i)| i.cpu_busy).filter(|busy| *busy > BUSY) {
        remarks.push(format!("the machine was not idle: its CPUs were at work {:.0} % of the time", busy * 100.0));
    }
    if let Err(why) = &response {
        remarks.push(format!("how the sensor of {key} follows a load is not known: {why}"));
    }
    let of_device = |k: &str| response.as_ref().ok().filter(|_| k == key).copied();
    let character = |(k, idle): (String, IdlePower)| {
        let response: Option<SensorResponse> = of_device(&k);
        (k, Character { response, idle: Some(idle) })
    };
    Ok(Found { characters: idle.into_iter().map(character).collect(), remarks })
}
