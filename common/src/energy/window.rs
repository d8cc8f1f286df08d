//! The energy of a window, from whichever source is best, checked against the other.

use super::curve::{counter_difference, first_fall, integrate, longest_gap};
use super::gauge::{Gauge, PowerSource};
use super::readings::Readings;
use crate::record::{CrossCheck, Energy, Reading, Uncertainty};
use crate::telemetry::MonoNanos;

/// How far beyond the outermost readings a window may reach: two and a half sampling intervals at 10 Hz, or one and a
/// half updates of a slow sensor. How far that may be wrong is part of the uncertainty.
const SLACK_SECONDS: f64 = 0.25;
const SLACK_UPDATES: f64 = 1.5;
/// Two sources that differ by more do not measure the same thing. At idle they are known to (ml-energy/zeus issue 181
/// has 187 J against 327 J); over a training run a board's counter and its power agree to a few percent.
const DISAGREEMENT: f64 = 0.10;
/// Power may do anything where nobody looked; beyond ten sampling intervals the reader should know.
const LONG_GAP_SECONDS: f64 = 1.0;

/// Joules of `gauge`'s domain between two moments, and what a careful reader must know about them.
pub fn energy_of(readings: &Readings, gauge: &Gauge, from: MonoNanos, to: MonoNanos) -> (Reading<Energy>, Vec<String>) {
    let slack = SLACK_SECONDS.max(SLACK_UPDATES * gauge.update_seconds);
    let window = Window { readings, gauge, from, seconds: to.seconds_since(from), to, slack };
    let mut remarks = Vec::new();
    let counted = window.counted(&mut remarks);
    let integrated = window.integrated();
    let (best, other) = match (counted, integrated) {
        (Some(counted), integrated) => (counted, integrated),
        (None, Some(integrated)) => (integrated, None),
        (None, None) => {
            let why = remarks.pop().unwrap_or_else(|| "the meter's readings do not cover the window".to_owned());
            return (Reading::Unavailable(why), remarks);
        }
    };
    if let Some(other) = &other
        && ((other.joules / best.joules - 1.0).abs() > DISAGREEMENT || best.joules <= 0.0)
    {
        remarks.push(format!(
            "sources disagree: {} says {:.1} J, {} {:.1} J",
            best.source, best.joules, other.source, other.joules
        ));
    }
    if best.gap > LONG_GAP_SECONDS && best.is_power {
        remarks.push(format!("gap: no power reading for {:.1} s; what was between is interpolated", best.gap));
    }
    (Reading::Measured(window.conclude(best, other)), remarks)
}

struct Window<'a> {
    readings: &'a Readings,
    gauge: &'a Gauge,
    from: MonoNanos,
    to: MonoNanos,
    seconds: f64,
    slack: f64,
}

/// What one source says, before any factor.
struct Said {
    joules: f64,
    source: String,
    readings: u64,
    gap: f64,
    is_power: bool,
}

impl Window<'_> {
    fn counted(&self, remarks: &mut Vec<String>) -> Option<Said> {
        let (channel, name) = self.gauge.counter.as_ref()?;
        let points = self.readings.points(*channel, self.from, 0.0);
        let joules = counter_difference(&points, 0.0, self.seconds, self.slack)?;
        if let Some((before, after)) = first_fall(&points, 0.0, self.seconds) {
            remarks.push(format!("the {name} went backwards, from {before:.1} J to {after:.1} J, and was not used"));
            return None;
        }
        Some(Said {
            joules,
            source: name.clone(),
            readings: self.readings.within(*channel, self.from, self.to).count() as u64,
            gap: longest_gap(&points, 0.0, self.seconds),
            is_power: false,
        })
    }

    fn integrated(&self) -> Option<Said> {
        let PowerSource { channel, name, lag_seconds } =
            self.gauge.powers.iter().find(|power| self.readings.has(power.channel))?;
        let points = self.readings.points(*channel, self.from, *lag_seconds);
        Some(Said {
            joules: integrate(&points, 0.0, self.seconds, self.slack)?,
            source: format!("{name}, integrated"),
            readings: self.readings.within(*channel, self.from, self.to).count() as u64,
            gap: longest_gap(&points, 0.0, self.seconds),
            is_power: true,
        })
    }

    fn conclude(&self, best: Said, other: Option<Said>) -> Energy {
        let Gauge { sensor, idle_watts, update_seconds, domain, .. } = self.gauge;
        let joules = best.joules * sensor.factor;
        // An edge is known to half of what lies between two readings and half of what lies between two updates; at
        // most all power changes there. There are two edges.
        let between = self.seconds / (best.readings.max(1)) as f64;
        let timing = 2f64.sqrt() * (between + update_seconds) / 2.0 / self.seconds;
        Energy {
            joules,
            domain: *domain,
            source: match sensor.factor {
                1.0 => best.source,
                factor => format!("{} × {factor}", best.source),
            },
            readings: best.readings,
            above_idle: match idle_watts {
                Reading::Measured(watts) => Reading::Measured(joules - watts * sensor.factor * self.seconds),
                Reading::Unavailable(why) => Reading::Unavailable(why.clone()),
            },
            uncertainty: Some(Uncertainty {
                sensor: sensor.relative,
                basis: sensor.basis.clone(),
                timing: if timing.is_finite() { timing } else { 0.0 },
            }),
            cross_check: other.map(|o| CrossCheck { source: o.source, joules: o.joules * sensor.factor }),
            longest_gap_seconds: best.gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::energy::SensorTerm;
    use crate::record::EnergyDomain;
    use crate::telemetry::{Channel, Series};

    const S: f64 = 1e9;

    fn gauge(lag_seconds: f64) -> Gauge {
        let power = |series: Series| PowerSource { channel: series.into(), name: "power".into(), lag_seconds };
        Gauge {
            domain: EnergyDomain::Gpu,
            counter: Some((Series::GpuEnergyMillijoules.into(), "counter".into())),
            powers: vec![power(Series::GpuPowerInstantMilliwatts), power(Series::GpuPowerMilliwatts)],
            update_seconds: 0.1,
            idle_watts: Reading::Measured(20.0),
            sensor: SensorTerm { factor: 1.0, relative: 0.05, basis: "test".into() },
        }
    }

    /// Readings at 10 Hz from -2 s to 70 s of `watts` at a time and `joules` up to then.
    fn readings(watts: Option<&dyn Fn(f64) -> f64>, joules: Option<&dyn Fn(f64) -> f64>) -> Readings {
        let mut readings = Readings::default();
        for tick in -20..=700 {
            let t = f64::from(tick) / 10.0;
            let at = MonoNanos(((t + 100.0) * S) as u64);
            if let Some(watts) = watts {
                readings.push(at, Series::GpuPowerMilliwatts.into(), (watts(t) * 1e3) as i64);
            }
            if let Some(joules) = joules {
                readings.push(at, Series::GpuEnergyMillijoules.into(), (joules(t) * 1e3) as i64);
            }
        }
        readings
    }

    fn window(readings: &Readings, gauge: &Gauge, from: f64, to: f64) -> (Reading<Energy>, Vec<String>) {
        energy_of(readings, gauge, MonoNanos(((from + 100.0) * S) as u64), MonoNanos(((to + 100.0) * S) as u64))
    }

    #[test]
    fn both_sources_are_used_and_idle_power_is_taken_off() {
        let readings = readings(Some(&|_| 150.0), Some(&|t| 150.0 * (t + 10.0)));
        let (energy, remarks) = window(&readings, &gauge(0.0), 1.0, 61.0);
        let energy = energy.value().expect("covered").clone();
        assert!((energy.joules - 9000.0).abs() < 0.1 && energy.source == "counter", "{energy:?}");
        assert!((energy.above_idle.value().expect("idle is known") - 7800.0).abs() < 0.1);
        assert!((energy.ratio().expect("two sources") - 1.0).abs() < 1e-4);
        let uncertainty = energy.uncertainty.expect("there is one");
        assert!(uncertainty.sensor == 0.05 && uncertainty.timing < 0.003 && uncertainty.relative() > 0.05);
        assert_eq!(remarks, Vec::<String>::new());
        let scaled = Gauge { sensor: SensorTerm { factor: 1.1, relative: 0.01, basis: "wall".into() }, ..gauge(0.0) };
        let scaled = window(&readings, &scaled, 1.0, 61.0).0.value().expect("covered").clone();
        assert!((scaled.joules - 9900.0).abs() < 0.1 && scaled.source == "counter × 1.1");
        assert!((scaled.above_idle.value().expect("known") - 8580.0).abs() < 0.1, "idle power is scaled as well");
    }

    #[test]
    fn a_counter_that_goes_backwards_is_replaced_by_power_and_said_so() {
        let falls = |t: f64| if t < 30.0 { 150.0 * (t + 10.0) } else { 150.0 * (t - 30.0) };
        let (energy, remarks) = window(&readings(Some(&|_| 150.0), Some(&falls)), &gauge(0.0), 1.0, 61.0);
        let energy = energy.value().expect("power covers it").clone();
        assert!((energy.joules - 9000.0).abs() < 0.1 && energy.source == "power, integrated");
        assert!(remarks[0].contains("went backwards"), "{remarks:?}");
        let (none, _) = window(&readings(None, Some(&falls)), &gauge(0.0), 1.0, 61.0);
        assert!(matches!(none, Reading::Unavailable(why) if why.contains("went backwards")));
        let (fine, remarks) = window(&readings(None, Some(&falls)), &gauge(0.0), 1.0, 21.0);
        assert!(fine.value().is_some() && remarks.is_empty(), "outside the window it does not matter");
    }

    #[test]
    fn sources_that_disagree_and_gaps_are_said() {
        let (_, remarks) = window(&readings(Some(&|_| 150.0), Some(&|t| 100.0 * (t + 10.0))), &gauge(0.0), 1.0, 61.0);
        assert!(remarks[0].starts_with("sources disagree"), "{remarks:?}");
        let mut gappy = Readings::default();
        for (tick, (at, value)) in
            readings(Some(&|_| 150.0), None).of(Series::GpuPowerMilliwatts.into()).iter().enumerate()
        {
            if !(300..340).contains(&tick) {
                gappy.push(*at, Series::GpuPowerMilliwatts.into(), *value);
            }
        }
        let (energy, remarks) = window(&gappy, &gauge(0.0), 1.0, 61.0);
        assert!(remarks[0].starts_with("gap: no power reading for 4.1 s"), "{remarks:?}");
        assert!((energy.value().expect("covered").longest_gap_seconds - 4.1).abs() < 1e-6);
        // A plug that tells watts once a second covers a window that begins between two of them; a fast sensor does not.
        let mut slow = Readings::default();
        for second in 0..20 {
            slow.push(MonoNanos(((f64::from(second) + 100.6) * S) as u64), Series::GpuPowerMilliwatts.into(), 100_000);
        }
        let plug = Gauge { update_seconds: 1.0, ..gauge(0.0) };
        let joules = window(&slow, &plug, 0.0, 10.0).0.value().expect("covered").joules;
        assert!((joules - 1000.0).abs() < 1e-6, "{joules}");
        assert!(window(&slow, &gauge(0.0), 0.0, 10.0).0.value().is_none());
        let (energy, _) = window(&Readings::default(), &gauge(0.0), 0.0, 1.0);
        assert!(matches!(energy, Reading::Unavailable(why) if why.contains("do not cover")));
    }

    #[test]
    fn a_sensor_that_averages_is_late_and_the_lag_is_taken_off() {
        // 50 W until the window begins, then 250 W: what averages over a second shows the rise a second long.
        let sensor = |t: f64| 50.0 + 200.0 * t.clamp(0.0, 1.0);
        let late = window(&readings(Some(&sensor), None), &gauge(0.0), 0.0, 5.0).0.value().expect("covered").joules;
        let right = window(&readings(Some(&sensor), None), &gauge(0.5), 0.0, 5.0).0.value().expect("covered").joules;
        assert!((late - 1150.0).abs() < 1.0, "{late}");
        assert!((right - 1225.0).abs() < 1.0, "within an eighth of the second: {right}");
    }

    proptest! {
        #[test]
        fn phases_that_follow_each_other_add_up(cut in 0.5f64..59.5, base in 20.0f64..300.0, swing in 0.0f64..200.0) {
            let watts = |t: f64| base + swing * (0.7 * t).sin().abs();
            let all = readings(Some(&watts), None);
            let part = |from, to| window(&all, &gauge(0.05), from, to).0.value().expect("covered").joules;
            let (whole, split) = (part(0.0, 60.0), part(0.0, cut) + part(cut, 60.0));
            prop_assert!((whole - split).abs() < 1e-6 * whole, "{whole} {split}");
        }

        #[test]
        fn samples_that_come_twice_or_in_disorder_change_nothing(seed in 0u64..1000) {
            let watts = |t: f64| 100.0 + 50.0 * t.sin();
            let tidy = readings(Some(&watts), None);
            let channel: Channel = Series::GpuPowerMilliwatts.into();
            let mut messy: Vec<_> = tidy.of(channel).to_vec();
            messy.extend(tidy.of(channel).iter().filter(|(at, _)| at.0 % 7 == seed % 7));
            messy.sort_by_key(|(at, _)| at.0.wrapping_mul(2 * seed + 1) >> 3);
            let mut again = Readings::default();
            messy.into_iter().for_each(|(at, value)| again.push(at, channel, value));
            let joules = |r| window(r, &gauge(0.0), 0.0, 60.0).0.value().expect("covered").joules;
            prop_assert!((joules(&tidy) - joules(&again)).abs() < 1e-9);
        }
    }
}
