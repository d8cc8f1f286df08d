//! An object store as a source: a folder of content, copied there as it is.

use std::time::Duration;

use fleet_artifacts::{Name, Store, StoreError};
use fleet_content::folder::{Missing, blob_folder, manifest_place};
use fleet_content::manifest::MOST_BYTES;
use fleet_content::{Item, Manifest};
use tokio_stream::StreamExt as _;

use super::source::{Patience, Source, Take, Trouble};

/// Longer than the store's own patience with an answer, so that its words are heard.
const SILENCE: Duration = Duration::from_secs(150);

/// A folder of content in an S3-compatible store.
#[derive(Debug)]
pub struct Bucket {
    store: Store,
    patience: Patience,
}

impl Bucket {
    /// The one that begins at `store`'s address.
    pub fn new(store: Store, patience: Patience) -> Self {
        Self { store, patience }
    }

    fn answer<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
        self.patience.wait(SILENCE, call)?.map_err(trouble)
    }
}

impl Source for Bucket {
    fn name(&self) -> String {
        self.store.to_string()
    }

    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble> {
        let place = manifest_place(item);
        let document = self.answer(self.store.document(&place, MOST_BYTES as u64))?;
        let manifest = document.map(|bytes| Manifest::parse(&bytes)).transpose();
        manifest.map_err(|e| Trouble::Final(format!("{place}: {e}")))
    }

    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble> {
        for (at, blob) in blobs.iter().enumerate() {
            let name: Result<Name, _> = format!("{}/{}", blob_folder(&blob.sha256), blob.sha256).parse();
            let name = name.map_err(|e| Trouble::Final(e.to_string()))?;
            let mut bytes = self.answer(self.store.read(&name, blob.have))?;
            let mut left = blob.bytes - blob.have;
            while left > 0 {
                let Some(chunk) = self.patience.wait(SILENCE, bytes.next())?.transpose().map_err(trouble)? else {
                    return Err(Trouble::Passing(format!("{name} ends {left} bytes before its end")));
                };
                // A store that sends more than it has is cut off; the hash has the last word.
                let chunk = &chunk[..chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                take(at, chunk)?;
                left -= chunk.len() as u64;
            }
        }
        Ok(())
    }
}

fn trouble(error: StoreError) -> Trouble {
    match error.is_temporary() {
        true => Trouble::Passing(error.to_string()),
        false => Trouble::Final(error.to_string()),
    }
}
