//! What a lease needs, from wherever it is nearest.

use std::path::PathBuf;

use fleet_common::plan::CellSettings;
use fleet_common::spec::DatasetName;
use fleet_content::Item;

use super::{Cache, CacheError, Kept, Source, Watch};
use crate::files::Files;

/// Where a worker finds what it needs.
#[derive(Debug)]
pub struct Ready {
    /// The data folder.
    pub data_dir: PathBuf,
    /// What the data set is called there.
    pub dataset: DatasetName,
    /// The file of weights, where the settings name one.
    pub weights: Option<PathBuf>,
    /// Keeps what is in the cache there.
    _kept: Vec<Kept>,
}

/// Looks into the local folders first, then into the cache, then asks the sources. Blocks.
///
/// # Errors
/// Something cannot be had; in words for the record. `Err(None)`: nobody waits for it any more.
pub fn ready(
    files: &Files,
    cache: &Cache,
    sources: &mut [Box<dyn Source>],
    settings: &CellSettings,
    dataset: &DatasetName,
    watch: &Watch,
) -> Result<Ready, Option<String>> {
    let mut kept = Vec::new();
    let (mut data_dir, mut opened_as) = (files.data_dir().to_owned(), dataset.clone());
    let mut fetch = |item: Result<Item, String>, here: String| {
        let item = item.map_err(Some)?;
        cache.get(&item, sources, watch).map_err(|error| match error {
            CacheError::Stopped => None,
            error => Some(format!("{here}; and {error}")),
        })
    };
    if let Err(here) = files.check_dataset(settings, dataset) {
        let item = settings.dataset.fingerprint.parse().map(Item::Dataset);
        let set = fetch(item, here)?;
        if let Some(name) = &set.dataset {
            (data_dir, opened_as) = (set.root.clone(), name.clone());
        }
        kept.push(set);
    }
    let weights = match files.find_weights(settings) {
        Ok(found) => found,
        Err(here) => {
            let item = Item::wanted(settings).and_then(|wanted| {
                wanted.into_iter().find(|i| matches!(i, Item::Weights(_))).ok_or_else(|| "no weights are wanted".into())
            });
            let file = fetch(item, here)?;
            let place = file.file.clone();
            kept.push(file);
            Some(place)
        }
    };
    Ok(Ready { data_dir, dataset: opened_as, weights, _kept: kept })
}
