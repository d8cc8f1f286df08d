//! What a lease needs, from wherever it is nearest.

use std::path::PathBuf;
use std::time::Duration;

use fleet_common::plan::CellSettings;
use fleet_common::spec::DatasetName;
use fleet_content::Item;

use super::{Cache, CacheError, Kept, Source, Watch};
use crate::files::Files;

/// How often it is tried again whether running trials have left room.
const AGAIN: Duration = Duration::from_secs(5);

/// Where a worker finds what it needs.
#[derive(Debug)]
pub struct Ready {
    /// The data folder.
    pub data_dir: PathBuf,
    /// What the data set is called there.
    pub dataset: DatasetName,
    /// The file of weights or the folder of a published model, where the settings name one.
    pub weights: Option<PathBuf>,
    /// Keeps what is in the cache there.
    _kept: Vec<Kept>,
}

/// Why a trial cannot begin.
enum Lack {
    /// Not yet: running trials use the room.
    Room(String),
    /// Not here.
    Final(String),
    /// Nobody waits for it any more.
    Stopped,
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
    let mut told = false;
    loop {
        match look(files, cache, sources, settings, dataset, watch) {
            Ok(ready) => return Ok(ready),
            Err(Lack::Final(why)) => return Err(Some(why)),
            Err(Lack::Stopped) => return Err(None),
            // Nothing is held meanwhile: two that wait for each other's room would wait for ever.
            Err(Lack::Room(why)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(why, "waiting until trials that use the cache end");
                }
                watch.pause(AGAIN).map_err(|_| None)?;
            }
        }
    }
}

fn look(
    files: &Files,
    cache: &Cache,
    sources: &mut [Box<dyn Source>],
    settings: &CellSettings,
    dataset: &DatasetName,
    watch: &Watch,
) -> Result<Ready, Lack> {
    let mut kept: Vec<Kept> = Vec::new();
    let (mut data_dir, mut opened_as) = (files.data_dir().to_owned(), dataset.clone());
    let mut fetch = |item: Result<Item, String>, here: String, kept: &[Kept]| {
        let item = item.map_err(Lack::Final)?;
        cache.get(&item, sources, watch).map_err(|error| {
            let own: u64 = kept.iter().map(|kept| kept.bytes).sum();
            match error {
                CacheError::Stopped => Lack::Stopped,
                CacheError::NoSpace { needs, space, .. } if needs.0.saturating_add(own) <= space.0 => {
                    Lack::Room(error.to_string())
                }
                error => Lack::Final(format!("{here}; and {error}")),
            }
        })
    };
    if let Err(here) = files.check_dataset(settings, dataset) {
        let item = settings.dataset.fingerprint.parse().map(Item::Dataset);
        let set = fetch(item, here, &kept)?;
        if let Some(name) = &set.dataset {
            (data_dir, opened_as) = (set.place.clone(), name.clone());
        }
        kept.push(set);
    }
    let weights = match files.find_weights(settings) {
        Ok(found) => found,
        Err(here) => {
            let item = Item::wanted(settings).and_then(|wanted| {
                wanted
                    .into_iter()
                    .find(|i| !matches!(i, Item::Dataset(_)))
                    .ok_or_else(|| "no weights are wanted".into())
            });
            let weights = fetch(item, here, &kept)?;
            let place = weights.place.clone();
            kept.push(weights);
            Some(place)
        }
    };
    Ok(Ready { data_dir, dataset: opened_as, weights, _kept: kept })
}
