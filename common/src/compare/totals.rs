//! What a campaign took in energy altogether: what records tell of, and what is in none.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::record::{EnergyDomain, Reading, Record, Waste};

/// Energy of one domain. Domains overlap, so they are never added up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Total {
    /// What it covers.
    pub domain: EnergyDomain,
    /// Joules of all phases of trials that ended with a result: loading, training, evaluating, saving.
    pub useful_joules: f64,
    /// Of how many trials.
    pub trials: usize,
    /// Joules of attempts that are in no such record.
    pub wasted_joules: f64,
    /// Of how many attempts.
    pub wasted_attempts: usize,
}

impl Total {
    /// Grams of CO₂-equivalent of both, for electricity of so many grams per kilowatt-hour.
    pub fn grams(&self, grams_per_kwh: f64) -> f64 {
        (self.useful_joules + self.wasted_joules) / 3.6e6 * grams_per_kwh
    }
}

/// Totals of the devices' energy, per domain. Trials without a meter are in none.
pub fn totals<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    wasted: impl IntoIterator<Item = &'a Waste>,
) -> Vec<Total> {
    let mut totals: BTreeMap<EnergyDomain, Total> = BTreeMap::new();
    let empty = |domain| Total { domain, useful_joules: 0.0, trials: 0, wasted_joules: 0.0, wasted_attempts: 0 };
    for record in records.into_iter().filter(|r| r.outcome.kind().is_result()) {
        let mut counted = None;
        for phase in &record.phases {
            if let Reading::Measured(energy) = &phase.energy {
                let total = totals.entry(energy.domain).or_insert_with(|| empty(energy.domain));
                total.useful_joules += energy.joules;
                counted = Some(energy.domain);
            }
        }
        if let Some(total) = counted.and_then(|domain| totals.get_mut(&domain)) {
            total.trials += 1;
        }
    }
    for waste in wasted {
        let domain = waste.energy.domain;
        let total = totals.entry(domain).or_insert_with(|| empty(domain));
        total.wasted_joules += waste.energy.joules;
        total.wasted_attempts += 1;
    }
    totals.into_values().collect()
}
