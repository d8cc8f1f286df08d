//! What a device takes when it does nothing.

use super::gauge::Gauge;
use super::readings::Readings;
use super::window::energy_of;
use crate::record::Reading;
use crate::telemetry::MonoNanos;

/// Idle power over a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Idle {
    /// Mean, watts; before the sensor's factor.
    pub watts: f64,
    /// Standard deviation of the means over a second each, watts.
    pub deviation: f64,
    /// How long, seconds.
    pub seconds: f64,
}

/// Idle power between two moments.
///
/// # Errors
/// Why it cannot be told, in words.
pub fn idle(readings: &Readings, gauge: &Gauge, from: MonoNanos, to: MonoNanos) -> Result<Idle, String> {
    let seconds = to.seconds_since(from);
    let raw = Gauge { sensor: super::SensorTerm { factor: 1.0, ..gauge.sensor.clone() }, ..gauge.clone() };
    let joules = |from, to| match energy_of(readings, &raw, from, to).0 {
        Reading::Measured(energy) => Ok(energy.joules),
        Reading::Unavailable(why) => Err(why),
    };
    let watts = joules(from, to)? / seconds;
    let whole = seconds.floor().max(1.0) as u64;
    let at = |second: u64| MonoNanos(from.0 + second * 1_000_000_000);
    let means: Vec<f64> = (0..whole).filter_map(|s| joules(at(s), at(s + 1)).ok()).collect();
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n.max(1.0);
    let deviation =
        if n > 1.0 { (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt() } else { 0.0 };
    if watts.is_finite() && watts >= 0.0 {
        Ok(Idle { watts, deviation, seconds })
    } else {
        Err(format!("idle power came out as {watts} W"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::{PowerSource, SensorTerm};
    use crate::record::EnergyDomain;
    use crate::telemetry::Series;

    #[test]
    fn idle_power_and_how_steady_it_was() {
        let gauge = Gauge {
            domain: EnergyDomain::Gpu,
            counter: None,
            powers: vec![PowerSource {
                channel: Series::GpuPowerMilliwatts.into(),
                name: "power".into(),
                lag_seconds: 0.0,
            }],
            update_seconds: 0.1,
            idle_watts: Reading::Unavailable("not yet".into()),
            sensor: SensorTerm { factor: 1.2, relative: 0.0, basis: String::new() },
        };
        let mut readings = Readings::default();
        for tick in 0..=300u64 {
            // Steps of a second between 10 and 14 W.
            let watts = if (tick / 10) % 2 == 0 { 10_000 } else { 14_000 };
            readings.push(MonoNanos(tick * 100_000_000), Series::GpuPowerMilliwatts.into(), watts);
        }
        let end = MonoNanos(30_000_000_000);
        let idle = idle(&readings, &gauge, MonoNanos(0), end).expect("covered");
        assert!((idle.watts - 12.0).abs() < 0.1 && (idle.deviation - 2.0).abs() < 0.25, "{idle:?}");
        let late = MonoNanos(60_000_000_000);
        assert!(super::idle(&readings, &gauge, end, late).expect_err("not covered").contains("do not cover"));
    }
}
