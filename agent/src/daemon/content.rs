//! Data sets and weights for leases: from this machine, or fetched.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fleet_artifacts::{Store, StoreError};
use fleet_content::Item;
use fleet_secure::client::Link;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tracing::Span;

use super::Options;
use super::trial::Lease;
use crate::cache::{Bucket, Cache, Coordinator, Patience, Ready, Shelf, Source, Watch, ready};
use crate::files::Files;

/// How often it is looked what is here, at least.
const LOOK: Duration = Duration::from_secs(10);

/// A folder of content that somebody else fills.
#[derive(Debug, Clone)]
pub enum ContentPlace {
    /// On a disk, which may be away for a while.
    Disk(PathBuf),
    /// In an object store.
    Bucket(Store),
}

impl FromStr for ContentPlace {
    type Err = StoreError;
    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text.contains("://") {
            true => Store::open(text).map(Self::Bucket),
            false => Ok(Self::Disk(text.into())),
        }
    }
}

impl ContentPlace {
    fn source(&self, patience: &Patience) -> Box<dyn Source> {
        match self {
            Self::Disk(path) => Box::new(Shelf::new(path)),
            Self::Bucket(store) => Box::new(Bucket::new(store.clone(), patience.clone())),
        }
    }
}

/// The cache and where it is filled from.
pub(super) struct Content {
    cache: Arc<Cache>,
    link: Link,
    places: Vec<ContentPlace>,
    /// Somebody has looked for something: more may be here, or less.
    looked: Notify,
    here: watch::Sender<BTreeSet<Item>>,
}

/// What is here, whenever it changes.
pub(super) struct Watching(watch::Receiver<BTreeSet<Item>>);

impl Watching {
    /// Waits for the next change; what is here then. Never returns once nobody looks any more.
    pub(super) async fn changed(&mut self) -> BTreeSet<Item> {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Content {
    /// Filled over `link`.
    pub(super) fn open(options: &Options, link: Link) -> anyhow::Result<Self> {
        Ok(Self {
            cache: Arc::new(Cache::open(&options.content_cache, options.content_space)?),
            link,
            places: options.content_from.clone(),
            looked: Notify::new(),
            here: watch::Sender::default(),
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
        let patience = Patience::new(Handle::current(), stop.clone());
        let mut sources: Vec<Box<dyn Source>> = self.places.iter().map(|place| place.source(&patience)).collect();
        sources.push(Box::new(Coordinator::new(self.link.clone(), patience)));
        let (files, cache, lease) = (files.clone(), self.cache.clone(), lease.clone());
        let span = Span::current();
        let looking = tokio::task::spawn_blocking(move || {
            let _within = span.entered();
            let watch = Watch { tell: Box::new(tell), stop };
            ready(&files, &cache, &mut sources, &lease.settings, &lease.dataset, &watch)
        });
        let looked = looking.await;
        self.looked.notify_one();
        match looked {
            Ok(outcome) => outcome.map_err(|why| why.unwrap_or_else(|| "called off".to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What was here when it was last looked.
    pub(super) fn here(&self) -> BTreeSet<Item> {
        self.here.borrow().clone()
    }

    /// What is here, and changes from now on.
    pub(super) fn watch(&self) -> Watching {
        let mut receiver = self.here.subscribe();
        receiver.mark_changed();
        Watching(receiver)
    }

    /// Looks what is here: at once, after every trial's look, and once in a while, because other agents may share the
    /// cache. Aside, because a disk may take its time.
    pub(super) async fn keep_looking(&self, files: &Arc<Files>) {
        loop {
            self.look(files).await;
            let _ = tokio::time::timeout(LOOK, self.looked.notified()).await;
        }
    }

    /// Looks what is here.
    pub(super) async fn look(&self, files: &Arc<Files>) {
        let (files, cache) = (files.clone(), self.cache.clone());
        let looking = tokio::task::spawn_blocking(move || cache.items().into_iter().chain(files.known()).collect());
        if let Ok(found) = looking.await {
            self.here.send_if_modified(|here: &mut BTreeSet<Item>| {
                let changed = *here != found;
                *here = found;
                changed
            });
        }
    }
}
