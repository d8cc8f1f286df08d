//! Retention at work: what is there, and away with what may go.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::keep::{Held, Keep, leaving};
use super::removed::{Removal, Removed};
use super::tails::Tails;
use super::writer::{Command, Key};
use super::{Samples, SamplesError};

impl Samples {
    /// Removes the chunk files that need not be kept; `running` are the attempts that run. Returns what was removed.
    ///
    /// # Errors
    /// The disk refused: what is left goes the next time.
    pub async fn sweep(&self, running: &[Key], keep: Keep, now: SystemTime) -> Result<Vec<Removal>, SamplesError> {
        let now_unix_ms = unix_ms(now);
        let tails = self.tails.clone();
        let running: HashSet<PathBuf> = running.iter().map(|key| tails.path(key)).collect();
        let there = tokio::task::spawn_blocking(move || there(&tails, &running));
        let leaving = leaving(there.await.map_err(|_| SamplesError::Stopped)??, &keep, now_unix_ms);
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        // What the intake holds would come back after a crash.
        self.ask(Command::Empty).await??;
        let (tails, removed) = (self.tails.clone(), self.removed.clone());
        let removal = move |(file, rule): (Held, String)| Removal {
            name: file.name,
            unix_ms: now_unix_ms,
            bytes: file.bytes,
            rule,
        };
        let removals = leaving.into_iter().map(removal).collect();
        let work = tokio::task::spawn_blocking(move || remove(&tails, &removed, removals));
        work.await.map_err(|_| SamplesError::Stopped)?
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// All chunk files.
fn there(tails: &Tails, running: &HashSet<PathBuf>) -> Result<Vec<Held>, SamplesError> {
    let unfinished = tails.unfinished();
    let mut held = Vec::new();
    // Folders by the first digits of a cell's id: the intake is none of them.
    for folder in entries(&tails.dir)?.into_iter().filter(|f| f.file_name().is_some_and(|n| n.len() == 2)) {
        for path in entries(&folder)? {
            let name = path.file_stem().and_then(|n| n.to_str()).map(str::to_owned);
            let Some(name) = name.filter(|_| path.extension().is_some_and(|e| e == "chunks")) else { continue };
            let error = |source| SamplesError::Io { path: path.clone(), doing: "read", source };
            let file = std::fs::metadata(&path).map_err(error)?;
            held.push(Held {
                written_unix_ms: unix_ms(file.modified().map_err(error)?),
                name,
                bytes: file.len(),
                open: running.contains(&path) || unfinished.contains(&path),
            });
        }
    }
    Ok(held)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SamplesError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    entries.map_err(|source| SamplesError::Io { path: folder.to_owned(), doing: "read", source })
}

/// Notes first, then removes: a crash between the two leaves files that are there, and go the next time.
fn remove(tails: &Tails, removed: &Arc<Removed>, removals: Vec<Removal>) -> Result<Vec<Removal>, SamplesError> {
    removed.note(&removals)?;
    let mut gone = Vec::new();
    for removal in removals {
        if tails.remove(&tails.file(&removal.name))? {
            gone.push(removal);
        }
    }
    Ok(gone)
}
