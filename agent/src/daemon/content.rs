//! Data sets and weights for leases: from this machine, or fetched.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_content::Item;
use fleet_secure::client::Link;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::Span;

use super::Options;
use super::trial::Lease;
use crate::cache::{Cache, Coordinator, Ready, Shelf, Source, Watch, ready};
use crate::files::Files;

/// The cache and where it is filled from.
pub(super) struct Content {
    cache: Arc<Cache>,
    link: Link,
    shelves: Vec<std::path::PathBuf>,
}

impl Content {
    /// Filled over `link`.
    pub(super) fn open(options: &Options, link: Link) -> anyhow::Result<Self> {
        Ok(Self {
            cache: Arc::new(Cache::open(&options.content_cache, options.content_space)?),
            link,
            shelves: options.content_from.clone(),
        })
    }

    /// What a lease needs, however long that takes; a download is told of. Dropped, it is called off.
    pub(super) async fn ready(
        &self,
        files: &Arc<Files>,
        lease: &Lease,
        tell: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<Ready, String> {
        // Closed when this is dropped, which is what stops the thread.
        let (_waiting, stop) = watch::channel(false);
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        sources.extend(self.shelves.iter().map(|shelf| Box::new(Shelf::new(shelf)) as Box<dyn Source>));
        sources.push(Box::new(Coordinator::new(self.link.clone(), Handle::current(), stop.clone())));
        let (files, cache, lease) = (files.clone(), self.cache.clone(), lease.clone());
        let span = Span::current();
        let looking = tokio::task::spawn_blocking(move || {
            let _within = span.entered();
            let watch = Watch { tell: Box::new(tell), stop };
            ready(&files, &cache, &mut sources, &lease.settings, &lease.dataset, &watch)
        });
        match looking.await {
            Ok(outcome) => outcome.map_err(|why| why.unwrap_or_else(|| "called off".to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is here.
    pub(super) fn here(&self, files: &Files) -> Vec<String> {
        let all: BTreeSet<Item> = self.cache.items().into_iter().chain(files.known()).collect();
        all.iter().map(Item::to_string).collect()
    }
}
