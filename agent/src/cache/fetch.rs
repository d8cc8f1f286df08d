//! The download: gone on with after breaks, blob by blob checked, and as a whole before anybody can use it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fleet_common::units::Bytes;
use fleet_content::folder::Missing;
use fleet_content::{ContentError, Digest, Finished, Item, Manifest, Partial};

use super::source::{Source, Trouble};
use super::{Cache, CacheError, Watch};

/// Pauses after breaks, the first and the longest; each is twice the one before while nothing comes.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a blob may come damaged.
const MOST_DAMAGED: u32 = 3;
/// A download that takes longer than the first is told of in the log, then every so often.
const QUIET: Duration = Duration::from_secs(2);
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often the log says why nothing comes, once it has not for a while.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl Cache {
    /// Fetches an item that this process has alone.
    pub(super) fn fetch(&self, item: &Item, sources: &mut [Box<dyn Source>], watch: &Watch) -> Result<(), CacheError> {
        // Whoever had it alone just now may have brought it.
        if self.folder.holds(item) && matches!(self.folder.manifest(item), Ok(Some(_))) {
            return Ok(());
        }
        let mut pause = PAUSE;
        let mut warned: Option<Instant> = None;
        // What those said that will not give it; they are not asked again.
        let mut refused: Vec<Option<String>> = vec![None; sources.len()];
        loop {
            let (mut asked, mut passing) = (Vec::new(), false);
            for (source, refused) in sources.iter_mut().zip(&mut refused) {
                let why = match refused {
                    Some(why) => why.clone(),
                    None => match self.fetch_from(item, source.as_mut(), watch) {
                        Ok(true) => return Ok(()),
                        Ok(false) => "it does not have it".to_owned(),
                        Err(Trouble::Here(error)) => return Err(error),
                        Err(Trouble::Passing(why)) => {
                            passing = true;
                            why
                        }
                        Err(Trouble::Final(why)) => refused.insert(why).clone(),
                    },
                };
                asked.push(format!("{}: {why}", source.name()));
            }
            if !passing {
                let asked = if asked.is_empty() { "there is no source to ask".to_owned() } else { asked.join("; ") };
                self.discard(item);
                return Err(CacheError::Nowhere { item: item.clone(), asked });
            }
            if pause == LONGEST_PAUSE && warned.is_none_or(|then| then.elapsed() >= WARN_EVERY) {
                warned = Some(Instant::now());
                tracing::warn!(%item, asked = asked.join("; "), "cannot be fetched now; trying again");
            }
            watch.pause(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Removes what has come of an item, where that can be done.
    fn discard(&self, item: &Item) {
        let others = self.folder.items().unwrap_or_default().into_iter().filter(|other| other != item);
        let kept = others.filter_map(|other| self.folder.manifest(&other).ok().flatten()).flat_map(|m| m.blobs());
        if let Err(error) = self.folder.remove(item, &kept.map(|(sha256, _)| sha256).collect()) {
            tracing::warn!(%item, %error, "what has come of it could not be removed");
        }
    }

    /// Fetches an item from one source; `false` if it does not have it. Breaks are waited out for as long as something
    /// comes through.
    fn fetch_from(&self, item: &Item, source: &mut dyn Source, watch: &Watch) -> Result<bool, Trouble> {
        let Some(manifest) = source.manifest(item)? else { return Ok(false) };
        if manifest.item != *item {
            return Err(Trouble::Final(format!("it has the manifest of {} for it", manifest.item)));
        }
        self.make_room(&manifest, false)?;
        loop {
            match self.bring(&manifest, source, watch) {
                Err(Trouble::Here(error)) if self.is_full(&error) => {
                    let left = self.make_room(&manifest, true);
                    if matches!(left, Ok(true)) {
                        continue;
                    }
                    // Not left behind on a full disk: others need it, too.
                    self.discard(item);
                    return Err(match left {
                        Err(in_use @ CacheError::NoSpace { pinned: Bytes(1..), .. }) => in_use.into(),
                        _ => error.into(),
                    });
                }
                brought => return brought.map(|()| true),
            }
        }
    }

    /// Whether it is the cache's own disk that is full.
    fn is_full(&self, error: &CacheError) -> bool {
        matches!(error, CacheError::Content(ContentError::DiskFull { path }) if path.starts_with(self.folder.root()))
    }

    /// Brings what is missing of an item from one source, and puts it together.
    fn bring(&self, manifest: &Manifest, source: &mut dyn Source, watch: &Watch) -> Result<(), Trouble> {
        let mut download = Download::new(self, manifest, source.name(), watch);
        while let Some(missing) = download.missing()? {
            download.take_from(source, &missing)?;
        }
        let assembled = self.folder.assemble(manifest, &mut |_, _| ());
        if let Err(error @ ContentError::Differs { .. }) = assembled {
            self.discard(&manifest.item);
            // Another source may have the right one.
            return Err(Trouble::Final(error.to_string()));
        }
        assembled.map_err(CacheError::from)?;
        download.says_it_is_here();
        Ok(())
    }
}

/// One item on its way from one source.
struct Download<'a> {
    cache: &'a Cache,
    manifest: &'a Manifest,
    from: String,
    watch: &'a Watch,
    damaged: HashMap<Digest, (u32, String)>,
    here: u64,
    begun: Instant,
    told: Instant,
}

impl<'a> Download<'a> {
    fn new(cache: &'a Cache, manifest: &'a Manifest, from: String, watch: &'a Watch) -> Self {
        let now = Instant::now();
        let here = cache.here(manifest);
        Self { cache, manifest, from, watch, damaged: HashMap::new(), here, begun: now, told: now }
    }

    /// What is still to come; `None` once all is here.
    fn missing(&mut self) -> Result<Option<Vec<Missing>>, CacheError> {
        let mut missing = self.cache.folder.missing(self.manifest);
        // What has come to its last byte, or has none, needs no asking; a process may have ended just before it was put
        // in its place.
        let full: Vec<Missing> = missing.extract_if(.., |m| m.have == m.bytes).collect();
        for blob in full {
            if let Some(partial) = self.open(&blob)? {
                self.finish(&blob.sha256, partial)?;
            }
        }
        if missing.is_empty() {
            missing = self.cache.folder.missing(self.manifest)
        }
        self.here = self.cache.here(self.manifest);
        self.tell();
        Ok((!missing.is_empty()).then_some(missing))
    }

    fn open(&self, blob: &Missing) -> Result<Option<Partial>, CacheError> {
        let partial = self.cache.folder.partial(&blob.sha256, blob.bytes)?;
        // It may have grown or been thrown away since it was looked at.
        Ok(partial.filter(|p| p.len() == blob.have))
    }

    /// Takes what one question brings.
    fn take_from(&mut self, source: &mut dyn Source, missing: &[Missing]) -> Result<(), Trouble> {
        let before = self.here;
        let mut at_work: Option<(usize, Option<Partial>)> = None;
        let outcome = source.read(missing, &mut |at, bytes| {
            self.watch.check()?;
            if at_work.as_ref().is_none_or(|(now, _)| *now != at) {
                let blob = missing.get(at).ok_or_else(|| {
                    ContentError::Manifest(format!("blob {at} came, of {} that were asked for", missing.len()))
                })?;
                // What another download writes, it brings for us as well.
                at_work = Some((at, self.open(blob)?));
            }
            let Some((_, slot)) = &mut at_work else { return Ok(()) };
            let Some(partial) = slot.as_mut() else { return Ok(()) };
            partial.append(bytes)?;
            self.here += bytes.len() as u64;
            self.tell();
            if partial.lacks() == 0
                && let Some(whole) = slot.take()
            {
                self.finish(&missing[at].sha256, whole)?;
            }
            Ok(())
        });
        drop(at_work);
        match outcome {
            Ok(()) if self.here > before => Ok(()),
            Ok(()) => {
                // Somebody else writes all of it, or the source says nothing.
                self.watch.pause(PAUSE)?;
                Ok(())
            }
            Err(Trouble::Passing(why)) if self.here > before => {
                tracing::info!(item = %self.manifest.item, from = self.from, why, "the transfer broke; going on");
                self.watch.pause(PAUSE)?;
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn finish(&mut self, sha256: &Digest, partial: Partial) -> Result<(), CacheError> {
        let Finished::Wrong(found) = partial.finish()? else { return Ok(()) };
        tracing::warn!(blob = %sha256, from = self.from, found, "it came damaged; fetching it again");
        let (times, last) = self.damaged.entry(sha256.clone()).or_default();
        *times += 1;
        found.clone_into(last);
        if *times < MOST_DAMAGED {
            return Ok(());
        }
        let (sha256, item, from) = (sha256.clone(), self.manifest.item.clone(), self.from.clone());
        Err(CacheError::Damaged { sha256, item, from, times: *times, found })
    }

    fn tell(&mut self) {
        let total = self.manifest.bytes();
        (self.watch.tell)(self.here.min(total), total);
        if self.begun.elapsed() >= QUIET && self.told.elapsed() >= TELL_EVERY.min(self.begun.elapsed()) {
            self.told = Instant::now();
            let (name, from) = (&self.manifest.name, &self.from);
            tracing::info!(item = %self.manifest.item, name, from, "fetching: {} of {}", Bytes(self.here), Bytes(total));
        }
    }

    fn says_it_is_here(&self) {
        let (name, from, size) = (&self.manifest.name, &self.from, Bytes(self.manifest.bytes()));
        let seconds = self.begun.elapsed().as_secs_f64();
        tracing::info!(item = %self.manifest.item, name, from, %size, seconds, "is in the cache now");
    }
}
