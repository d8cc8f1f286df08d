//! What a window of a trial took in energy, how that was measured, and how far it may be off.

use serde::{Deserialize, Serialize};

use super::Reading;
use crate::energy::SensorTerm;

/// Energy over a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Joules in all, idle power included.
    pub joules: f64,
    /// What was measured.
    pub domain: EnergyDomain,
    /// How: "NVML energy counter", "NVML power, integrated", "RAPL package counters".
    pub source: String,
    /// Readings inside the window.
    pub readings: u64,
    /// Joules beyond what the idle device would have taken in the same time. Negative where idle power was measured
    /// higher than the trial's.
    #[serde(default = "unknown_idle")]
    pub above_idle: Reading<f64>,
    /// How far the joules may be off; absent in records of versions that did not ask.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uncertainty: Option<Uncertainty>,
    /// What the device's other source says of the same window, where it has two.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cross_check: Option<CrossCheck>,
    /// Longest time within the window without a reading, seconds.
    #[serde(default)]
    pub longest_gap_seconds: f64,
}

fn unknown_idle() -> Reading<f64> {
    Reading::Unavailable("idle power was not measured when this was recorded".to_owned())
}

/// What an energy figure covers. Figures of different domains are never ranked together without saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergyDomain {
    /// One GPU board.
    Gpu,
    /// All CPU packages of the machine, whatever else ran on them.
    CpuPackages,
    /// The memory beside the CPU packages, as their counters tell it.
    Dram,
    /// What a hwmon sensor covers; the source names it.
    Sensor,
    /// The whole machine at the wall.
    Wall,
}

impl EnergyDomain {
    /// The name in tables for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::CpuPackages => "cpu_packages",
            Self::Dram => "dram",
            Self::Sensor => "sensor",
            Self::Wall => "wall",
        }
    }
}

/// How far joules may be off. The parts are independent; both are half widths relative to the joules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Uncertainty {
    /// Of the sensor: the same for all trials on one device, so it does not touch ratios between them.
    pub sensor: f64,
    /// Where that comes from.
    pub basis: String,
    /// Of the window's edges, which are known as well as the sensor is updated and read.
    pub timing: f64,
}

impl Uncertainty {
    /// Both together.
    pub fn relative(&self) -> f64 {
        self.sensor.hypot(self.timing)
    }
}

/// The other source of a device's energy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossCheck {
    /// Which.
    pub source: String,
    /// What it says, joules.
    pub joules: f64,
}

impl Energy {
    /// What the other source says, as a multiple of this one.
    pub fn ratio(&self) -> Option<f64> {
        let ratio = self.cross_check.as_ref()?.joules / self.joules;
        ratio.is_finite().then_some(ratio)
    }

    /// Two stretches of one phase as one.
    ///
    /// # Errors
    /// They were measured in different ways; in words for a reader.
    pub fn plus(self, other: Self) -> Result<Self, String> {
        if (self.domain, &self.source) != (other.domain, &other.source) {
            return Err("it was measured in different ways before and after an interruption".to_owned());
        }
        let joules = self.joules + other.joules;
        let uncertainty = match (self.uncertainty, other.uncertainty) {
            // Sensors err alike in both; edges independently.
            (Some(a), Some(b)) if joules > 0.0 => Some(Uncertainty {
                sensor: a.sensor.max(b.sensor),
                timing: (a.timing * self.joules).hypot(b.timing * other.joules) / joules,
                basis: b.basis,
            }),
            _ => None,
        };
        let cross_check = match (self.cross_check, other.cross_check) {
            (Some(a), Some(b)) if a.source == b.source => Some(CrossCheck { joules: a.joules + b.joules, ..b }),
            _ => None,
        };
        Ok(Self {
            joules,
            domain: other.domain,
            source: other.source,
            readings: self.readings + other.readings,
            above_idle: match (self.above_idle, other.above_idle) {
                (Reading::Measured(a), Reading::Measured(b)) => Reading::Measured(a + b),
                (Reading::Unavailable(why), _) | (_, Reading::Unavailable(why)) => Reading::Unavailable(why),
            },
            uncertainty,
            cross_check,
            longest_gap_seconds: self.longest_gap_seconds.max(other.longest_gap_seconds),
        })
    }
}

/// How a trial was metered: what an energy figure needs beside it to be believed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Metering {
    /// Seconds between two readings of the fast meters.
    pub every_seconds: f64,
    /// The meters, each of one domain.
    pub meters: Vec<Meter>,
    /// Temperature of the device when the trial began, degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_celsius: Option<f64>,
    /// CPU seconds that reading meters and keeping samples took in this attempt.
    #[serde(default)]
    pub cpu_seconds: f64,
}

/// One meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    /// What it covers.
    pub domain: EnergyDomain,
    /// Its sources, the best first.
    pub sources: Vec<String>,
    /// Seconds between two updates of its sensor, and what it averages over, where a load has shown them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub response: Option<SensorResponse>,
    /// Idle power, or why it is not known.
    pub idle: Reading<IdlePower>,
    /// Error of its sensor.
    pub sensor: SensorTerm,
}

/// How a sensor follows its device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SensorResponse {
    /// Seconds between two updates.
    pub update_seconds: f64,
    /// Seconds that it averages over.
    pub averaging_seconds: f64,
}

/// Power of an idle device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdlePower {
    /// Mean, watts.
    pub watts: f64,
    /// Standard deviation of the means over a second, watts.
    pub deviation: f64,
    /// How long it was measured, seconds.
    pub seconds: f64,
    /// When, milliseconds since 1970.
    pub measured_unix_ms: u64,
    /// Temperature at that, degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub celsius: Option<f64>,
    /// Share of the machine's CPU time that was in use meanwhile, 0 to 1: it was not quite idle.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_busy: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn energy(joules: f64, idle: Reading<f64>, timing: f64) -> Energy {
        Energy {
            joules,
            domain: EnergyDomain::Gpu,
            source: "counter".into(),
            readings: 10,
            above_idle: idle,
            uncertainty: Some(Uncertainty { sensor: 0.05, basis: "sheet".into(), timing }),
            cross_check: Some(CrossCheck { source: "power".into(), joules: joules * 1.1 }),
            longest_gap_seconds: timing,
        }
    }

    #[test]
    fn stretches_add_up_with_what_is_known_of_both() {
        let sum = energy(300.0, Reading::Measured(200.0), 0.03).plus(energy(100.0, Reading::Measured(50.0), 0.12));
        let sum = sum.expect("of one kind");
        assert_eq!((sum.joules, sum.readings, sum.above_idle.clone()), (400.0, 20, Reading::Measured(250.0)));
        let uncertainty = sum.uncertainty.clone().expect("both had one");
        assert_eq!(uncertainty.sensor, 0.05);
        assert!((uncertainty.timing - 9.0f64.hypot(12.0) / 400.0).abs() < 1e-12);
        assert!((sum.ratio().expect("both had one") - 1.1).abs() < 1e-12);
        let unknown = energy(1.0, Reading::Unavailable("no".into()), 0.0);
        let sum = sum.plus(unknown).expect("of one kind");
        assert_eq!(sum.above_idle, Reading::Unavailable("no".into()));
        let other = Energy { source: "another".into(), ..sum.clone() };
        assert!(sum.plus(other).expect_err("not of one kind").contains("different ways"));
    }

    #[test]
    fn what_earlier_versions_recorded_still_reads() {
        let old = r#"{"joules":1.5,"domain":"gpu","source":"NVML energy counter","readings":3}"#;
        let energy: Energy = serde_json::from_str(old).expect("reads");
        assert!(matches!(energy.above_idle, Reading::Unavailable(_)));
        assert_eq!((energy.uncertainty, energy.cross_check), (None, None));
    }
}
