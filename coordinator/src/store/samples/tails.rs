//! The ends of all attempts' samples, as far as they are known: readers see what the writer has taken in.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_common::wire::v1;

use super::SamplesError;
use super::tail::Tail;
use super::writer::Key;

/// Ends that are remembered: far above the slots of a fleet. Another is found by reading its file.
const MOST: usize = 16_384;

/// The name of an attempt's chunk file without its extension: no other attempt has it.
pub(super) fn name((trial, attempt): &Key) -> String {
    format!("{}-{attempt}", trial.file_stem())
}

/// The ends of all attempts' samples in a folder.
#[derive(Debug)]
pub(super) struct Tails {
    /// The folder.
    pub(super) dir: PathBuf,
    known: Mutex<HashMap<Key, Tail>>,
}

impl Tails {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), known: Mutex::default() }
    }

    /// An attempt's chunk file.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.file(&name(key))
    }

    /// The chunk file of this name.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        let folder: String = name.chars().take(2).collect();
        self.dir.join(folder).join(format!("{name}.chunks"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Tail>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with an attempt's end, which is looked for in its file if it is not known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn with<T>(&self, key: &Key, what: impl FnOnce(&mut Tail) -> T) -> Result<T, SamplesError> {
        let mut known = self.lock();
        if let Some(tail) = known.get_mut(key) {
            return Ok(what(tail));
        }
        if known.len() >= MOST {
            known.retain(|_, tail| !tail.is_flushed());
        }
        let tail = Tail::open(self.path(key), &key.0, key.1)?;
        Ok(what(known.entry(key.clone()).or_insert(tail)))
    }

    /// How far an attempt's file is whole and what comes behind it, if anything is known of it.
    pub(super) fn snapshot(&self, key: &Key) -> Option<(u64, Vec<v1::SampleBatch>)> {
        self.lock().get(key).map(Tail::snapshot)
    }

    /// Whether some of an attempt's samples are not in its file yet.
    pub(super) fn is_unfinished(&self, key: &Key) -> bool {
        self.lock().get(key).is_some_and(|tail| !tail.is_flushed())
    }

    /// Writes everything that is pending to the chunk files.
    ///
    /// # Errors
    /// The disk refused; what could be written is written.
    pub(super) fn flush_all(&self) -> Result<(), SamplesError> {
        let mut known = self.lock();
        known.values_mut().map(Tail::flush).fold(Ok(()), Result::and)
    }

    /// Chunk files that do not have all of their attempts' samples yet.
    pub(super) fn unfinished(&self) -> HashSet<PathBuf> {
        self.lock().values().filter(|tail| !tail.is_flushed()).map(|tail| tail.path().to_owned()).collect()
    }

    /// Removes a chunk file, unless samples of its attempt have just come. Says whether it is gone.
    ///
    /// # Errors
    /// The system refused.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, SamplesError> {
        let mut known = self.lock();
        if known.values().any(|tail| tail.path() == path && !tail.is_flushed()) {
            return Ok(false);
        }
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(SamplesError::Io { path: path.to_owned(), doing: "removed", source });
            }
            _ => {}
        }
        known.retain(|_, tail| tail.path() != path);
        Ok(true)
    }

    /// Forgets an attempt that is over, if all of it is in its file.
    pub(super) fn forget(&self, key: &Key) {
        let mut known = self.lock();
        if known.get(key).is_some_and(Tail::is_flushed) {
            known.remove(key);
        }
    }
}
