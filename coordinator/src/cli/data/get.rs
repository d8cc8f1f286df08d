//! `fleet data get`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use fleet_dataset::Dataset;
use fleet_download::fetch::{Patience, fetch};
use fleet_download::set_aside;
use fleet_download::unpack::{Limits, unpack};

use super::set::{Found, Public, Set};
use crate::cli::Failure;
use crate::cli::transfer::{self, Show};

/// `fleet data get`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// Which
    #[arg(value_name = "DATA SET")]
    name: Public,
    /// Folder of the data sets, which is made if need be
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Fetch the archive from this address instead of its publisher's; it must be the same file
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let set = self.name.set();
        transfer::run(move || {
            let found = get(&set, &self.data, self.from.as_deref(), &Patience::default())?;
            found.say(&set);
            Ok(())
        })
        .await
    }
}

/// Makes sure that the set is in `data`.
pub(super) fn get(set: &Set, data: &Path, from: Option<&str>, patience: &Patience) -> Result<Found, Failure> {
    let mut show = Show::new(set.name.label());
    if set.is_there(data) {
        match set.check(data) {
            Ok(found) => {
                show.line("already there");
                return Ok(found);
            }
            Err(why) => show.line(&format!("what is there is not it: {why}")),
        }
    }
    let failed = |what: &Path, e: std::io::Error| Failure::failed(format!("{}: {e}", what.display()));
    fs::create_dir_all(data).map_err(|e| failed(data, e))?;
    let archive = set.archive(data);
    let had = matches!(set.source.content.compare(&archive), Ok(Ok(())));
    if had {
        show.line(&format!("{} is already there", archive.display()));
    } else {
        let url = from.unwrap_or(set.source.url);
        show.line(&format!("fetching {url}"));
        let aside = fetch(url, &archive, &set.source.content, patience, &mut |event| show.event(event))?;
        renamed(&show, aside);
    }
    if set.unpacked {
        let folder = unpack_to(set, &archive, data, &mut show)?;
        renamed(&show, set_aside(&data.join(set.folder))?);
        fs::rename(folder.join(set.folder), data.join(set.folder)).map_err(|e| failed(&folder, e))?;
        fs::remove_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        if !had {
            // It was only on its way; who brought it along may want it again.
            fs::remove_file(&archive).map_err(|e| failed(&archive, e))?;
        }
    } else {
        // A folder would be read instead of the archive, and is not right, or this would not have been fetched.
        renamed(&show, set_aside(&data.join(set.folder))?);
    }
    set.check(data).map_err(Failure::usage)
}

/// Unpacks beside the place, and looks at what came out before anybody can use it.
fn unpack_to(set: &Set, archive: &Path, data: &Path, show: &mut Show) -> Result<PathBuf, Failure> {
    let folder = data.join(format!(".{}.partial", set.folder));
    // What an interrupted command left.
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::failed(format!("{}: cannot remove it: {e}", folder.display())));
        }
        _ => {}
    }
    show.line("unpacking");
    unpack(archive, set.folder, &folder, Limits::DTD, &mut |bytes| show.amount("unpacked ", bytes, None))?;
    let dataset = Dataset::open(&set.name, &folder).map_err(|e| Failure::usage(e.to_string()))?;
    set.is_whole(&dataset).map_err(Failure::usage)?;
    Ok(folder)
}

fn renamed(show: &Show, aside: Option<PathBuf>) {
    if let Some(aside) = aside {
        show.line(&format!("what was there is now {}", aside.display()));
    }
}
