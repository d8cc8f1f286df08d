//! Energy in all, in a line per domain.

use fleet_common::compare::{Total, totals};
use fleet_common::record::{Record, Waste};

use super::blocks::domain_in_words;
use super::numbers::{plural, significant};

/// What trials and attempts took together; nothing where nothing was measured.
pub fn energy_in_all(records: &[Record], wasted: &[Waste], grams_per_kwh: Option<f64>) -> Vec<String> {
    totals(records, wasted).iter().map(|total| in_words(total, grams_per_kwh)).collect()
}

/// One domain's.
pub(super) fn in_words(total: &Total, grams_per_kwh: Option<f64>) -> String {
    let waste = match total.wasted_attempts {
        0 => "; no attempt was wasted".to_owned(),
        n => format!("; wasted in {}: {}", plural(n as u64, "attempt"), joules(total.wasted_joules)),
    };
    let carbon =
        grams_per_kwh.map(|g| format!("; together {} g CO2e at {g} g/kWh, as given", significant(total.grams(g), 3)));
    format!(
        "Energy of {}, all phases of {}: {}{waste}{}.",
        domain_in_words(total.domain),
        plural(total.trials as u64, "trial"),
        joules(total.useful_joules),
        carbon.unwrap_or_default()
    )
}

/// Joules with a prefix that keeps them short.
pub(super) fn joules(joules: f64) -> String {
    match joules.abs() {
        j if j >= 1e6 => format!("{} MJ", significant(joules / 1e6, 3)),
        j if j >= 1e4 => format!("{} kJ", significant(joules / 1e3, 3)),
        _ => format!("{} J", significant(joules, 3)),
    }
}
