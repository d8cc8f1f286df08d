//! Records → a file: one document per line, or a table of trials or of answers.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use fleet_common::id::CampaignName;
use fleet_common::record_set::on_one_line;

use super::records::{Held, held};
use super::{Coordinator, Failure, client, files};
use crate::report;

/// `fleet export`.
#[derive(Debug, Args)]
#[group(id = "form", required = true, multiple = false, args = ["jsonl", "csv", "answers"])]
pub(super) struct Export {
    /// A campaign or an imported set, by name
    #[arg(value_name = "NAME")]
    name: CampaignName,
    /// Write one fleet.record/1 document per line; `fleet import` reads it. "-" is standard output
    #[arg(long, value_name = "OUT.jsonl")]
    jsonl: Option<PathBuf>,
    /// Write a table with one row per trial (coordinator/README.md describes the columns). "-" is standard output
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    /// Write a table of what models that answer in words have said: one row per trial and different answer, with the
    /// class that it was taken for, how often it was given and how often it was right. "-" is standard output
    #[arg(long, value_name = "OUT.csv")]
    answers: Option<PathBuf>,
    #[command(flatten)]
    coordinator: Coordinator,
}

impl Export {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let held = held(&mut client, self.name.as_str()).await?;
        let no_table = |e| Failure::failed(format!("cannot make the table: {e}"));
        let (path, bytes) = match (self.jsonl, self.csv, self.answers) {
            (Some(path), ..) => (path, lines(&held)),
            (_, Some(path), _) => (path, report::csv(&held.records).map_err(no_table)?),
            (.., Some(path)) => {
                if held.records.iter().all(|r| report::answers(r).is_empty()) {
                    eprintln!("{}: no trial has answered in words; the table has its head alone", self.name);
                }
                (path, report::answers_csv(&held.records).map_err(no_table)?)
            }
            (None, None, None) => return Err(Failure::usage("expected --jsonl OUT, --csv OUT or --answers OUT")),
        };
        if path == Path::new("-") {
            // A reader that has seen enough closes the pipe, which is no failure.
            let mut out = std::io::stdout().lock();
            match out.write_all(&bytes).and_then(|()| out.flush()) {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    return Err(Failure::failed(format!("cannot write to standard output: {e}")));
                }
                _ => {}
            }
        } else {
            files::write(&path, "the records", &bytes)?;
        }
        let n = held.records.len();
        eprintln!("{}: {n} record{} exported", self.name, if n == 1 { "" } else { "s" });
        if held.superseded > 0 {
            eprintln!("{} late reports are outside the statistics and were left out", held.superseded);
        }
        Ok(())
    }
}

fn lines(held: &Held) -> Vec<u8> {
    let mut out = Vec::new();
    for document in &held.documents {
        out.extend(on_one_line(document));
        out.push(b'\n');
    }
    out
}
