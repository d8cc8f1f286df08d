//! Records → a page and a table for people. Pure: no file, no clock; the time is an argument.
//!
//! | module | what it holds |
//! |---|---|
//! | [`table`](fn@table) | the comparison in a terminal |
//! | [`contrast`](fn@contrast), [`contrast_html`] | the levels of one factor side by side, in a terminal and as a page |
//! | [`csv`](fn@csv) | one row per trial, for spreadsheets |
//! | [`answers_csv`] | one row per different answer of a model that answers in words |
//! | [`html`] | the report: one file that opens offline |
//! | `blocks` | what may be compared with what |
//! | `summary` | how far the campaign is |
//! | `findings` | the sentences at the top, and what they may claim |
//! | `settings`, `notes` | settings and missing values in words; [`fleet_chart::numbers`] has the quantities |
//! | `steps` | memory over a step: which trials show it, and what the strategies did, in words |
//! | `grid` | a plain table of text |
//! | `chart` | records → SVG |
//! | `page` | everything → HTML |

mod answers;
mod blocks;
mod chart;
mod contrast;
mod csv;
mod energy;
mod findings;
mod grid;
mod notes;
mod page;
mod settings;
mod steps;
mod summary;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use fleet_chart::numbers;
use fleet_common::compare::Comparison;
use fleet_common::id::TrialId;
use fleet_common::plan::Excluded;
use fleet_common::record::{Record, Waste};
use fleet_common::telemetry::Sample;

pub(crate) use answers::answers;
pub use answers::answers_csv;
pub use contrast::contrast;
pub use csv::csv;
pub use energy::energy_in_all;
pub(crate) use grid::{Align, grid};
pub use page::{ContrastInput, contrast_html, html};
pub use table::table;

/// Everything that a report tells.
#[derive(Debug, Clone, Copy)]
pub struct ReportInput<'a> {
    /// Name of the campaign.
    pub campaign: &'a str,
    /// Now, milliseconds since 1970.
    pub generated_unix_ms: u64,
    /// Version of this program.
    pub version: &'a str,
    /// The campaign file.
    pub toml: &'a str,
    /// Trials that the campaign asks for.
    pub asked: u64,
    /// Of them, those that nobody has leased.
    pub waiting: u64,
    /// Those that are leased.
    pub running: u64,
    /// Those that were stopped on request.
    pub cancelled: u64,
    /// Combinations that the plan left out.
    pub excluded: &'a [Excluded],
    /// What the plan warned of.
    pub warnings: &'a [String],
    /// The records, compared.
    pub comparison: &'a Comparison,
    /// The records of this campaign's finished trials.
    pub records: &'a [Record],
    /// Samples of finished trials; a trial may be absent.
    pub samples: &'a BTreeMap<TrialId, Vec<Sample>>,
    /// Trials that were given up because they lost their agents too often, in words, with the latest reason.
    pub given_up: &'a [(String, String)],
    /// Energy of attempts that is in no record.
    pub wasted: &'a [Waste],
    /// Grams of CO₂-equivalent per kilowatt-hour, where the reader has said what their electricity is.
    pub grams_per_kwh: Option<f64>,
    /// Reports outside the statistics: of trials that had an accepted report already.
    pub superseded: usize,
}
