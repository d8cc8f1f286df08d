//! The levels of one factor side by side, over one or more campaigns and imported sets.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use fleet_common::contrast::{Contrast, Factor, contrast};
use fleet_common::id::CampaignName;
use fleet_common::record::Record;
use fleet_common::score::Exponents;
use serde::Serialize;

use super::records::held;
use super::report::Counting;
use super::{Coordinator, Failure, Json, client, files, print_json, terminal_width};
use crate::report::{self, ContrastInput};

/// `fleet compare`.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// Campaigns or imported sets, by name; a record that stands in several counts once
    #[arg(value_name = "NAME", required = true)]
    names: Vec<CampaignName>,
    /// What to compare; everything else must be the same
    #[arg(long, value_name = "FACTOR", value_parser = factor())]
    by: Factor,
    /// Also write a self-contained HTML page
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    #[command(flatten)]
    counting: Counting,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

fn factor() -> impl clap::builder::TypedValueParser<Value = Factor> {
    PossibleValuesParser::new(Factor::ALL.map(Factor::name))
        .map(|name| Factor::ALL.into_iter().find(|f| f.name() == name).unwrap_or(Factor::Hardware))
}

/// The `--json` form.
#[derive(Serialize)]
struct Document {
    /// What was compared.
    sets: Vec<Set>,
    #[serde(flatten)]
    contrast: Contrast,
}

#[derive(Serialize)]
struct Set {
    name: CampaignName,
    records: usize,
}

impl Compare {
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        // The same name twice is the same records once.
        let mut seen = std::collections::BTreeSet::new();
        self.names.retain(|name| seen.insert(name.clone()));
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let mut sets = Vec::new();
        let mut records = Vec::new();
        for name in self.names {
            let held = held(&mut client, name.as_str()).await?;
            sets.push(Set { name, records: held.records.len() });
            records.extend(held.records);
        }
        let contrast = contrast(&records, self.by, &Exponents::default(), self.counting.preparation());
        if let Some(path) = &self.html {
            files::write(path, "the comparison", page(&sets, &contrast, &records).as_bytes())?;
        }
        let document = Document { sets, contrast };
        if self.json.json {
            print_json(&document);
        } else {
            for set in &document.sets {
                say!("{}: {} record{}", set.name, set.records, if set.records == 1 { "" } else { "s" });
            }
            if document.contrast.repeated > 0 {
                say!("{} of them stand in more than one and count once", document.contrast.repeated);
            }
            say!("{}", report::contrast(&document.contrast, terminal_width()));
            if let Some(path) = &self.html {
                say!("Comparison: {}", path.display());
            }
        }
        Ok(())
    }
}

fn page(sets: &[Set], contrast: &Contrast, records: &[Record]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let sets: Vec<(String, usize)> = sets.iter().map(|s| (s.name.to_string(), s.records)).collect();
    report::contrast_html(&ContrastInput {
        generated_unix_ms: now.as_millis() as u64,
        version: env!("CARGO_PKG_VERSION"),
        sets: &sets,
        contrast,
        records,
    })
}
