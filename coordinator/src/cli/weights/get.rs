//! `fleet weights get`.

use std::path::Path;

use clap::Args;
use fleet_common::spec::Backbone;
use fleet_download::fetch::{Patience, fetch};
use fleet_download::published::{Published, published};
use fleet_download::source::{self, Source, Unchecked};

use super::check::check;
use super::{Folder, backbone, place, there};
use crate::cli::Failure;
use crate::cli::transfer::{self, Show};

/// `fleet weights get`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// Of which backbone; without it, of all whose public weights can be checked
    #[arg(value_name = "BACKBONE", value_parser = backbone)]
    name: Option<Backbone>,
    #[command(flatten)]
    folder: Folder,
    /// Fetch the file from this address instead of its publisher's; it must be the same file
    #[arg(long, value_name = "URL", requires = "name")]
    from: Option<String>,
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let wanted = match self.name {
            Some(backbone) => vec![(backbone, source_of(backbone, &self.folder.weights)?)],
            None => source::WEIGHTS.iter().map(|(backbone, source)| (*backbone, source)).collect(),
        };
        transfer::run(move || {
            for (backbone, source) in wanted {
                get(backbone, source, &self.folder.weights, self.from.as_deref())?;
            }
            Ok(())
        })
        .await
    }
}

fn source_of(backbone: Backbone, dir: &Path) -> Result<&'static Source, Failure> {
    if let Some(model) = backbone.foundation() {
        let (name, Published { page, files, terms }) = (model.name(), published(model));
        return Err(Failure::usage(format!(
            "no hashes to check {name} against are known here, so it is not fetched. Its page is {page} (terms: {terms}). Put \
             these files into {}/: {files}. Then have a look at them with `fleet weights check {name}`",
            dir.join(name).display()
        )));
    }
    source::weights(backbone).ok_or_else(|| {
        let public: Vec<_> = source::WEIGHTS.iter().map(|(_, source)| source.name).collect();
        let why = match source::unchecked_weights(backbone) {
            Some(Unchecked { page, file, extension }) => format!(
                "no hash to check {} against is known here, so it is not fetched. Its public weights are {file} of {page}; \
                 put that file at {} and have a look at it with `fleet weights check {0}`",
                backbone.name(),
                dir.join(format!("{}.{extension}", backbone.name())).display()
            ),
            None => format!(
                "{} has no public weights. `fleet local … --keep-weights DIR` keeps those that it trained",
                backbone.name()
            ),
        };
        Failure::usage(format!("{why}. What can be fetched: {}", public.join(", ")))
    })
}

/// Makes sure that the published weights are in `dir`.
fn get(backbone: Backbone, source: &Source, dir: &Path, from: Option<&str>) -> Result<(), Failure> {
    let mut show = Show::new(source.name);
    let file = place(backbone, dir);
    let here = there(backbone, dir).map_err(Failure::usage)?;
    if let Some(other) = here.as_ref().filter(|here| **here != file) {
        return Err(Failure::usage(format!(
            "{} is there, and would be in doubt beside {}; move it away first",
            other.display(),
            file.display()
        )));
    }
    if here.is_some() {
        match check(backbone, dir) {
            Ok(found) => {
                show.line("already there");
                found.say(backbone);
                return Ok(());
            }
            Err(why) => show.line(&why),
        }
    }
    std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
    let url = from.unwrap_or(source.url);
    show.line(&format!("fetching {url}"));
    let aside = fetch(url, &file, &source.content, &Patience::default(), &mut |event| show.event(event))?;
    if let Some(aside) = aside {
        show.line(&format!("what was there is now {}", aside.display()));
    }
    check(backbone, dir).map_err(Failure::usage)?.say(backbone);
    Ok(())
}
