//! `fleet store verify`.

use clap::Args;
use fleet_common::units::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Failure, Folder, Json, failure, print_json};
use crate::store::{self, Finding, Verified};

#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    json: Json,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let verified = looked_at(&self.folder.state)?;
        if self.json.json {
            print_json(&document(&verified));
        } else {
            print(&verified);
        }
        if verified.is_whole() { Ok(()) } else { Err(Failure::FailedTrials) }
    }
}

/// Checks a folder and shows how far it is.
pub(in crate::cli) fn looked_at(dir: &std::path::Path) -> Result<Verified, Failure> {
    // Nothing is drawn where standard error is no terminal.
    let style = ProgressStyle::with_template("checking {prefix} {bar:30} {percent} %, {eta} left");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let verified = store::verify(dir, &mut |what, done, of| {
        if bar.prefix() != what {
            bar.set_prefix(what.to_owned());
        }
        bar.set_length(of.unwrap_or(done));
        bar.set_position(done);
    });
    bar.finish_and_clear();
    verified.map_err(failure)
}

/// The `--json` form.
fn document(v: &Verified) -> serde_json::Value {
    let finding = |f: &Finding| json!({"is_loss": f.is_loss, "place": f.place, "wrong": f.wrong, "cost": f.cost, "remedy": f.remedy});
    json!({
        "schema": "fleet.store/1", "layout": v.layout, "segments": v.segments, "journal_bytes": v.journal_bytes,
        "events": v.events, "latest_event": v.latest, "trials": v.trials, "records": v.records,
        "snapshots": v.snapshots, "sample_files": v.sample_files, "samples": v.samples,
        "is_whole": v.is_whole(), "findings": v.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// What was found, for people.
pub(in crate::cli) fn print(v: &Verified) {
    say!("journal    {} events in {} segments, {}", v.events, v.segments, Bytes(v.journal_bytes));
    say!("trials     {}, of which {} have a record", v.trials, v.records);
    say!("snapshots  {}", v.snapshots);
    say!("samples    {} in {} files", v.samples, v.sample_files);
    for f in &v.findings {
        say!(
            "\n{} {}\n  found:   {}\n  costs:   {}\n  to do:   {}",
            if f.is_loss { "WRONG" } else { "note " },
            f.place,
            f.wrong,
            f.cost,
            f.remedy
        );
    }
    let loss = v.findings.iter().filter(|f| f.is_loss).count();
    match (loss, v.findings.len()) {
        (0, 0) => say!("\nEverything is as it should be."),
        (0, _) => say!("\nNothing is lost."),
        (n, _) => say!("\n{n} places are wrong."),
    }
}
