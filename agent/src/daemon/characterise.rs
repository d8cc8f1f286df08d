//! What a slot's meters are like, found out before its first trial and once a day: idle power first, then how the
//! sensor follows a load.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::device::Slot;
use crate::meter::{self, IDLE_SECONDS, SquareLoad};

/// Looks at the meters of `slot`, where they are not known yet. Nothing runs on it meanwhile.
pub(super) async fn characterise(shared: &Arc<Shared>, slot: &Slot) {
    if !shared.options.characterise {
        return;
    }
    let _preparing = shared.preparing.one();
    let (shared_too, slot) = (shared.clone(), slot.clone());
    let looking = tokio::task::spawn_blocking(move || look(&shared_too, &slot));
    tokio::select! {
        _ = looking => {}
        () = shared.stopped() => {}
    }
}

fn look(shared: &Shared, slot: &Slot) {
    let mut meters = shared.meters(slot, None);
    let Ok(device) = &meters.covered.device else { return };
    if device.character.idle.is_some() {
        return;
    }
    tracing::info!(
        slot = %slot.id,
        "measuring idle power for {IDLE_SECONDS:.0} s, then how the sensor follows a load for {:.0} s; once a day \
         (--characterise never leaves it out)",
        SquareLoad::SECONDS
    );
    let load = SquareLoad { worker: &shared.options.worker, slot, threads: shared.threads };
    let found = match meter::characterise(&mut meters, &load, IDLE_SECONDS, shared.options.meter_every) {
        Ok(found) => found,
        Err(why) => return tracing::warn!(slot = %slot.id, "{why}"),
    };
    found.remarks.iter().for_each(|remark| tracing::warn!(slot = %slot.id, "{remark}"));
    let mut cache = shared.cache_mut();
    for (key, character) in found.characters {
        if let Some(idle) = &character.idle {
            tracing::info!(slot = %slot.id, meter = key, "idle power: {:.1} ± {:.1} W", idle.watts, idle.deviation);
        }
        if let Err(error) = cache.found(&key, character) {
            tracing::warn!("{error}");
        }
    }
}

/// Where a device was when its idle power was measured, and somewhat above: a cooler device would never be reached.
const ABOVE_IDLE: f64 = 10.0;
/// It has cooled as far as it will if it has not become cooler for so long.
const STEADY: Duration = Duration::from_secs(20);
/// No wait is longer: a hot room is a hot room.
const LONGEST: Duration = Duration::from_secs(300);

/// Whether to go on waiting for a device to cool; a decision on what was seen so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cooling {
    target: f64,
    coolest: f64,
    since: Duration,
}

impl Cooling {
    /// A device that should be near the temperature `idle`, degrees Celsius.
    pub(super) fn towards(idle: f64) -> Self {
        Self { target: idle + ABOVE_IDLE, coolest: f64::INFINITY, since: Duration::ZERO }
    }

    /// Whether to begin, `waited` after the first look, at `celsius`.
    pub(super) fn is_over(&mut self, celsius: f64, waited: Duration) -> bool {
        if celsius < self.coolest {
            (self.coolest, self.since) = (celsius, waited);
        }
        celsius <= self.target || waited - self.since >= STEADY || waited >= LONGEST
    }

    /// What is to be said of a trial that began at `celsius`.
    pub(super) fn remark(&self, celsius: f64) -> Option<String> {
        let idle = self.target - ABOVE_IDLE;
        (celsius > self.target)
            .then(|| format!("began warm: at {celsius:.0} °C, idle power was measured at {idle:.0} °C"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cools_is_waited_for_and_one_that_does_not_is_not() {
        let seconds = Duration::from_secs;
        let mut cooling = Cooling::towards(40.0);
        assert!(!cooling.is_over(70.0, seconds(0)));
        assert!(!cooling.is_over(60.0, seconds(15)));
        assert!(!cooling.is_over(55.0, seconds(30)));
        assert!(cooling.is_over(50.0, seconds(45)));
        assert_eq!(cooling.remark(50.0), None);
        let mut stuck = Cooling::towards(40.0);
        assert!(!stuck.is_over(60.0, seconds(0)));
        assert!(!stuck.is_over(60.0, seconds(19)));
        assert!(stuck.is_over(60.0, seconds(20)));
        assert!(stuck.remark(60.0).is_some_and(|r| r.contains("at 60 °C")));
        let mut slow = Cooling::towards(0.0);
        assert!((0..300).all(|s| !slow.is_over(400.0 - s as f64, seconds(s))));
        assert!(slow.is_over(100.0, seconds(300)));
    }
}
