//! What each meter of this machine is and reads, for people: `fleet-agent doctor --meters`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_common::energy::{Gauge, Readings, energy_of};
use fleet_common::record::{self, Reading};
use fleet_common::telemetry::MonoNanos;
use serde::Serialize;

use super::{Cache, Covered, Meter, Metered, Places, of};
use crate::clock;
use crate::device::{Nvidia, Slot};

/// Name and version of the `--json` form.
const SCHEMA: &str = "fleet.meters/1";
/// Long enough to see a second's mean, and a plug that updates once a second.
const LOOK: Duration = Duration::from_millis(3200);
/// As fast as any sensor is updated that is worth telling apart.
const EVERY: Duration = Duration::from_millis(5);

/// All meters of a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Survey {
    /// "fleet.meters/1".
    pub schema: &'static str,
    /// Per slot.
    pub slots: Vec<SlotSurvey>,
}

/// Meters of one slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotSurvey {
    /// The slot.
    pub slot: String,
    /// What its trials are charged with, or why they have no energy.
    pub device: Reading<Seen>,
    /// Other parts of the machine.
    pub others: Vec<Seen>,
    /// What went wrong while they were read.
    pub remarks: Vec<String>,
}

/// One meter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// Under which it is known, and calibrated.
    pub key: String,
    /// What it is.
    pub meter: record::Meter,
    /// Mean power over the last seconds, watts, or why there is none.
    pub watts: Reading<f64>,
    /// Seconds between two changes of what its best source shows, as seen just now.
    pub seen_update_seconds: Option<f64>,
}

/// Reads the meters of `slots` for a few seconds.
pub fn look(slots: &[Slot], host: &str, nvidia: Option<&Arc<Nvidia>>, places: &Places, cache: &Cache) -> Survey {
    let slots = slots.iter().map(|slot| {
        let mut found = of(slot, host, nvidia, places, None, cache);
        let (readings, remarks, span) = read_for(&mut found.meters, LOOK);
        let seen = |metered: &Metered| see(metered, &readings, span);
        let Covered { device, others } = &found.covered;
        SlotSurvey {
            slot: slot.id.to_string(),
            device: match device {
                Ok(metered) => Reading::Measured(seen(metered)),
                Err(why) => Reading::Unavailable(why.clone()),
            },
            others: others.iter().map(seen).collect(),
            remarks,
        }
    });
    Survey { schema: SCHEMA, slots: slots.collect() }
}

fn read_for(meters: &mut [Box<dyn Meter>], time: Duration) -> (Readings, Vec<String>, (MonoNanos, MonoNanos)) {
    let (mut readings, mut remarks) = (Readings::default(), Vec::new());
    let from = clock::monotonic();
    while clock::monotonic().seconds_since(from) < time.as_secs_f64() {
        for meter in meters.iter_mut() {
            meter.read(clock::monotonic()).iter().for_each(|r| readings.push(r.at, r.channel, r.value));
            remarks.extend(meter.remarks());
        }
        std::thread::sleep(EVERY);
    }
    (readings, remarks, (from, clock::monotonic()))
}

fn see(metered: &Metered, readings: &Readings, (from, to): (MonoNanos, MonoNanos)) -> Seen {
    let gauge = &metered.gauge;
    // A plug's first answer comes late and its last one early; a sensor that averages lags behind.
    let (from, to) = (MonoNanos(from.0 + 1_100_000_000), MonoNanos(to.0 - 1_000_000_000));
    let seconds = to.seconds_since(from);
    // Over a second a counter's edges show; over a trial they do not.
    let has_power = gauge.powers.iter().any(|p| readings.has(p.channel));
    let counter = gauge.counter.clone().filter(|_| !has_power);
    let watts = match energy_of(readings, &Gauge { counter, ..gauge.clone() }, from, to).0 {
        Reading::Measured(energy) => Reading::Measured(energy.joules / seconds),
        Reading::Unavailable(why) => Reading::Unavailable(why),
    };
    let best = gauge.powers.iter().map(|p| p.channel).chain(gauge.counter.iter().map(|(c, _)| *c));
    let best = best.into_iter().find(|c| readings.has(*c));
    Seen {
        key: metered.key.clone(),
        meter: metered.describe(),
        watts,
        seen_update_seconds: best.and_then(|channel| update_seconds(readings.of(channel))),
    }
}

/// The commonest time between two changes, seconds; `None` with fewer than three of them.
fn update_seconds(readings: &[(MonoNanos, i64)]) -> Option<f64> {
    let changes: Vec<MonoNanos> = readings.windows(2).filter(|w| w[1].1 != w[0].1).map(|w| w[1].0).collect();
    let mut counts = BTreeMap::new();
    for pair in changes.windows(2) {
        *counts.entry((pair[1].seconds_since(pair[0]) * 1e3).round() as u64).or_insert(0u32) += 1;
    }
    let (milliseconds, _) = counts.iter().max_by_key(|(ms, n)| (**n, std::cmp::Reverse(**ms)))?;
    (changes.len() >= 3).then_some(*milliseconds as f64 * 1e-3)
}

impl Survey {
    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for slot in &self.slots {
            out.push_str(&format!("{}\n", slot.slot));
            match &slot.device {
                Reading::Measured(seen) => out.push_str(&seen.text("charged to trials")),
                Reading::Unavailable(why) => out.push_str(&format!(
                    "  no energy meter: {why}\n    trials run; their energy, NS-E and NS# will be n/a\n"
                )),
            }
            slot.others.iter().for_each(|seen| out.push_str(&seen.text("beside it")));
            slot.remarks.iter().for_each(|remark| out.push_str(&format!("  ! {remark}\n")));
        }
        out
    }
}

impl Seen {
    fn text(&self, role: &str) -> String {
        let name = self.meter.domain.name().replace('_', " ");
        let watts = match &self.watts {
            Reading::Measured(watts) => format!("{watts:.1} W now"),
            Reading::Unavailable(why) => format!("no reading: {why}"),
        };
        let update = match (self.meter.response, self.seen_update_seconds) {
            (Some(r), _) => format!(
                "updated every {:.0} ms, a mean over {:.0} ms (under a load)",
                r.update_seconds * 1e3,
                r.averaging_seconds * 1e3
            ),
            (None, Some(seconds)) => format!("updated every {:.0} ms", seconds * 1e3),
            (None, None) => "did not change".to_owned(),
        };
        let idle = match &self.meter.idle {
            Reading::Measured(idle) => format!("{:.1} ± {:.1} W", idle.watts, idle.deviation),
            Reading::Unavailable(why) => why.clone(),
        };
        let sensor = &self.meter.sensor;
        let factor = if sensor.factor == 1.0 { String::new() } else { format!("× {}, ", sensor.factor) };
        format!(
            "  {name} ({role}): {watts}; {update}\n    sources: {}\n    idle: {idle}\n    error: {factor}± {:.1} % ({})\n    \
             known as: {}\n",
            self.meter.sources.join(", "),
            sensor.relative * 100.0,
            sensor.basis,
            self.key
        )
    }
}
