//! What of events is counted.

use fleet_common::lease::Release;
use fleet_common::record::{EnergyDomain, Waste};

use crate::core::Event;

/// What of some events is counted, once they are durable.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) events: u64,
    pub(super) granted: u64,
    pub(super) resumed: u64,
    pub(super) given_up: u64,
    pub(super) released: Vec<Release>,
    pub(super) wasted: Vec<(EnergyDomain, f64)>,
}

impl Tally {
    /// Of these events.
    pub fn of<'e>(events: impl Iterator<Item = &'e Event>) -> Self {
        events.fold(Self::default(), |mut tally, event| {
            tally.events += 1;
            match event {
                Event::LeaseGranted { .. } => tally.granted += 1,
                Event::LeaseResumed { .. } => tally.resumed += 1,
                Event::LeaseReleased { cause, .. } => tally.released.push(*cause),
                Event::TrialGivenUp { .. } => tally.given_up += 1,
                Event::EnergyWasted { waste, .. } => {
                    let energy = Waste::from_json(waste).ok().map(|waste| waste.energy);
                    tally.wasted.extend(energy.map(|energy| (energy.domain, energy.joules)));
                }
                // Of the others, only their number.
                _ => {}
            }
            tally
        })
    }
}
