//! A copy of a running coordinator's state, in a folder here.

use std::fs::File;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use fleet_common::units::Bytes;
use fleet_common::wire::v1;

use super::store::verify;
use super::transfer::Show;
use super::{Coordinator, Failure, Json, client, print_json};
use crate::store::beside_name;

/// Said of copies of a state folder.
pub(super) const NOT_INCLUDED: &str = "Data sets and weights that were shared (STATE/content) are not in it: whoever has them shares them again, with \
     `fleet submit` or `fleet data share`. Nor is the artifact store (STATE/artifacts/store, or where --artifacts says): \
     trained weights that campaigns keep are only there, so copy that folder, too; without it, interrupted trials start \
     over.";
/// Files that the coordinator is told of: their names take less than half of a message.
const MOST_THERE: usize = 60_000;

/// `fleet backup`.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The folder to make, which must be new; `fleet serve --state DEST` serves from it
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Backup {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.dest.exists() {
            let words = format!("{} exists; name a new folder, such as one with today's date", self.dest.display());
            return Err(Failure::usage(words));
        }
        let partial = beside_name(&self.dest);
        let plan = tokio::select! {
            plan = self.fetch(&partial) => plan?,
            () = super::serve::interrupted() => {
                let words = "interrupted; what has come is kept, and the same command goes on".to_owned();
                return Err(Failure::Interrupted(words));
            }
        };
        let folder = partial.clone();
        let verified = tokio::task::spawn_blocking(move || verify::looked_at(&folder));
        let verified = verified.await.map_err(|e| Failure::failed(e.to_string()))??;
        if !verified.is_whole() || verified.latest != plan.sequence {
            verify::print(&verified);
            return Err(Failure::failed(format!(
                "the copy in {} is not right, as told above. If `fleet store verify` says the same of the coordinator's \
                 own folder, that is what to repair; otherwise remove the copy and start over",
                partial.display()
            )));
        }
        std::fs::rename(&partial, &self.dest)
            .map_err(|e| Failure::failed(format!("cannot give {} its name: {e}", self.dest.display())))?;
        if self.json.json {
            print_json(&serde_json::json!({
                "schema": "fleet.backup/1", "latest_event": plan.sequence, "files": plan.files, "bytes": plan.bytes,
                "skipped_bytes": plan.skipped_bytes, "trials": verified.trials, "records": verified.records,
            }));
        } else {
            let (bytes, records) = (Bytes(plan.bytes), verified.records);
            say!("{}: {bytes} in {} files, {records} records, checked", self.dest.display(), plan.files);
            say!("Serve from it with `fleet serve --state {}`.", self.dest.display());
            say!("{NOT_INCLUDED}");
        }
        Ok(())
    }

    /// Gets everything into the folder `to`, going on with what is there.
    async fn fetch(&self, to: &Path) -> Result<v1::BackupPlan, Failure> {
        let cannot = |path: &Path, e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", path.display()));
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        std::fs::create_dir_all(to).map_err(|e| cannot(to, e))?;
        let have = there(to).map_err(|e| cannot(to, e))?;
        let mut stream = client.backup(v1::BackupRequest { have }).await?.into_inner();
        let plan = stream.message().await?.and_then(|part| part.plan);
        let plan = plan.ok_or_else(|| Failure::failed("the coordinator sent no plan of the backup"))?;
        let mut show = Show::new("backup");
        if plan.skipped_bytes > 0 {
            show.line(&format!("{} are here; going on with the rest", Bytes(plan.skipped_bytes)));
        }
        let mut done = plan.skipped_bytes;
        let mut open: Option<(String, File, u64)> = None;
        while let Some(part) = stream.message().await? {
            let path = below(to, &part.name)?;
            let (name, mut file, at) = match open.take().filter(|(name, ..)| *name == part.name) {
                Some(open) => open,
                None => {
                    std::fs::create_dir_all(path.parent().unwrap_or(to)).map_err(|e| cannot(&path, e))?;
                    (part.name.clone(), File::create(&path).map_err(|e| cannot(&path, e))?, 0)
                }
            };
            if at != part.offset {
                return Err(Failure::failed(format!("a piece of {name} is missing; the same command goes on")));
            }
            file.write_all(&part.data).map_err(|e| cannot(&path, e))?;
            done += part.data.len() as u64;
            show.amount("", done, Some(plan.bytes));
            if part.is_last {
                file.sync_all().map_err(|e| cannot(&path, e))?;
            } else {
                open = Some((name, file, at + part.data.len() as u64));
            }
        }
        Ok(plan)
    }
}

/// Where a file of that name goes. A coordinator that is not ours must not write elsewhere.
fn below(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let name = Path::new(name);
    if name.components().next().is_some() && name.components().all(|c| matches!(c, Component::Normal(_))) {
        Ok(folder.join(name))
    } else {
        Err(Failure::failed(format!("the coordinator sent a file of the name {:?}", name)))
    }
}

/// The files that an earlier try left. Snapshots and the intake of then are not those of now.
fn there(folder: &Path) -> std::io::Result<Vec<v1::BackupFile>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "snapshot") || at.ends_with("samples/intake") {
                std::fs::remove_file(path)?;
            } else if let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
                found.push(v1::BackupFile { name: name.to_owned(), bytes: entry.metadata()?.len() });
            }
        }
    }
    // The list must fit into a message: the large files first, and what is left out comes once more.
    found.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    found.truncate(MOST_THERE);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let folder = Path::new("here");
        assert_eq!(below(folder, "journal/1.log").expect("fine"), Path::new("here/journal/1.log"));
        for name in ["", "/etc/passwd", "../x", "samples/../../x", "."] {
            assert!(below(folder, name).is_err(), "{name}");
        }
    }
}
