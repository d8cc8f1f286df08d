//! What measures a part of a machine, and what is known about how well.

use super::sensor::SensorTerm;
use crate::record::{EnergyDomain, Reading};
use crate::telemetry::Channel;

/// The meters of one energy domain of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    /// What they cover.
    pub domain: EnergyDomain,
    /// A counter that rises with energy, and how records call it.
    pub counter: Option<(Channel, String)>,
    /// Sources of power readings, the best first; the first that has readings is used.
    pub powers: Vec<PowerSource>,
    /// Seconds between two updates of the sensor: an edge of a window is known no better.
    pub update_seconds: f64,
    /// Power of the idle device, watts, or why it is not known.
    pub idle_watts: Reading<f64>,
    /// Error of the sensor.
    pub sensor: SensorTerm,
}

/// Readings of power.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerSource {
    /// Where.
    pub channel: Channel,
    /// How records call it.
    pub name: String,
    /// Seconds by which a reading is late: half of what the sensor averages over, and half of what it takes to update.
    pub lag_seconds: f64,
}
