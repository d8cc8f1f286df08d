//! `fleet store`: a coordinator's state folder, while no coordinator holds it.

pub(super) mod verify;

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleet_common::units::Bytes;

use super::backup::NOT_INCLUDED;
use super::files::Replacement;
use super::transfer::Show;
use super::{Failure, Json, print_json};
use crate::store::{self, ArchiveError, Rebuilt, StoreError};

/// `fleet store`.
#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Checks all that is kept: checksums, numbers, and whether what is derived agrees with the journal. Changes nothing.
    #[command(after_help = "Example: fleet store verify /var/lib/fleet\n\
        Exit code 1: something is lost, or wrong in a way that does not heal by itself.")]
    Verify(verify::Verify),
    /// Makes the index and a snapshot again from the journal.
    #[command(after_help = "Example: fleet store rebuild /var/lib/fleet")]
    Rebuild(Rebuild),
    /// Writes the whole state to one file, for another machine or another version of fleet.
    #[command(after_help = "Example: fleet store export /var/lib/fleet fleet.tar.zst\n\
        A coordinator that runs is copied by `fleet backup`.")]
    Export(Export),
    /// Makes a new state folder of what `fleet store export` wrote.
    #[command(after_help = "Example: fleet store import fleet.tar.zst /var/lib/fleet")]
    Import(Import),
}

/// A state folder.
#[derive(Debug, Args)]
struct Folder {
    /// The coordinator's state folder, as `fleet serve --state` has it
    #[arg(value_name = "STATE")]
    state: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    folder: Folder,
    /// The file; compressed if its name ends in .zst
    #[arg(value_name = "OUT.tar")]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// What `fleet store export` wrote
    #[arg(value_name = "FILE.tar")]
    file: PathBuf,
    /// The state folder, which must be new
    #[arg(value_name = "STATE")]
    state: PathBuf,
    #[command(flatten)]
    json: Json,
}

impl Store {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let work = move || match self {
            Self::Verify(verify) => verify.run(),
            Self::Rebuild(rebuild) => rebuild.run(),
            Self::Export(export) => export.run(),
            Self::Import(import) => import.run(),
        };
        tokio::select! {
            done = tokio::task::spawn_blocking(work) => {
                done.unwrap_or_else(|e| Err(Failure::failed(format!("the work ended unexpectedly: {e}"))))
            }
            _ = tokio::signal::ctrl_c() => {
                Err(Failure::Interrupted("interrupted; what is kept is as it was, and the same command starts over".into()))
            }
        }
    }
}

/// What was asked for, while nobody may hold the folder.
fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::InUse { path } => Failure::failed(format!(
            "a coordinator has {} open; stop it first, or copy it while it runs: `fleet backup DEST`",
            path.display()
        )),
        StoreError::NoState { .. } => Failure::usage(error.to_string()),
        error => Failure::failed(error.to_string()),
    }
}

fn archive_failure(error: ArchiveError) -> Failure {
    match error {
        ArchiveError::Store(error) => failure(error),
        ArchiveError::Exists { .. } | ArchiveError::Unusable { .. } => Failure::usage(error.to_string()),
        error @ ArchiveError::Io { .. } => Failure::failed(error.to_string()),
    }
}

impl Rebuild {
    fn run(self) -> Result<(), Failure> {
        eprintln!("Reading all of the journal; a gigabyte takes some seconds.");
        let Rebuilt { events, trials, bytes, misfits } = store::rebuild(&self.folder.state).map_err(failure)?;
        if self.json.json {
            print_json(&serde_json::json!({
                "schema": "fleet.rebuilt/1", "events": events, "trials": trials, "snapshot_bytes": bytes,
                "misfits": misfits,
            }));
        } else {
            say!("The index and a snapshot of {} were made from {events} events ({trials} trials).", Bytes(bytes));
        }
        for misfit in &misfits {
            eprintln!("the journal has a hole: {misfit}");
        }
        if !misfits.is_empty() {
            eprintln!("The snapshots that were there are kept: they may have what followed from the lost events.");
        }
        Ok(())
    }
}

impl Export {
    fn run(self) -> Result<(), Failure> {
        let mut show = Show::new("export");
        let mut file = Replacement::begin(&self.out, "the export")?;
        let mut tell = |bytes| show.amount("", bytes, None);
        let cannot = |e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", self.out.display()));
        let moved = if self.out.extension().is_some_and(|e| e == "zst") {
            let mut packed = zstd::stream::Encoder::new(&mut file, 3).map_err(cannot)?;
            let moved = store::export(&self.folder.state, &mut packed, &mut tell).map_err(archive_failure)?;
            packed.finish().map_err(cannot)?;
            moved
        } else {
            store::export(&self.folder.state, &mut file, &mut tell).map_err(archive_failure)?
        };
        file.flush().map_err(cannot)?;
        file.finish()?;
        self.json.moved(&moved, &format!("{} holds", self.out.display()));
        if !self.json.json {
            say!("{NOT_INCLUDED}");
        }
        Ok(())
    }
}

impl Import {
    fn run(self) -> Result<(), Failure> {
        let mut show = Show::new("import");
        let mut tell = |bytes| show.amount("", bytes, None);
        let moved = store::import(&self.file, &self.state, &mut tell).map_err(archive_failure)?;
        self.json.moved(&moved, &format!("{} holds", self.state.display()));
        if !self.json.json {
            say!("Serve it with `fleet serve --state {}`.", self.state.display());
        }
        Ok(())
    }
}

impl Json {
    fn moved(&self, moved: &store::Moved, start: &str) {
        let (files, bytes) = (moved.files, moved.bytes);
        if self.json {
            print_json(&serde_json::json!({"schema": "fleet.moved/1", "sample_files": files, "bytes": bytes}));
        } else {
            say!("{start} the journal and {files} files of samples, {}.", Bytes(bytes));
        }
    }
}
