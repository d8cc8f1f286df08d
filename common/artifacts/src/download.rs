//! From a store into a file: in parts if need be, and only what is right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::content::sha256_of;
use crate::error::StoreError;
use crate::name::Name;
use crate::store::Store;

/// So many breaks in a row without much progress are the end.
const TRIES: u32 = 5;
/// That much is progress.
const PROGRESS: u64 = 1 << 20;
/// The first pause; each is twice as long.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn to_file(store: &Store, name: &Name, target: &Path) -> Result<u64, StoreError> {
    let partial = partial_of(target);
    // What an earlier call has left may be of a store that had something else there.
    let mut fresh = length(&partial).await == 0;
    loop {
        let bytes = fill(store, name, &partial).await?;
        let path = partial.clone();
        let hashing = tokio::task::spawn_blocking(move || sha256_of(&path));
        let hash = hashing.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let found = hash.map_err(StoreError::file(&partial))?;
        if found == *name.sha256() {
            tokio::fs::rename(&partial, target).await.map_err(StoreError::file(target))?;
            return Ok(bytes);
        }
        tokio::fs::remove_file(&partial).await.map_err(StoreError::file(&partial))?;
        if fresh {
            return Err(StoreError::Damaged { name: name.clone(), found, bytes });
        }
        fresh = true;
    }
}

/// `TARGET.partial`.
fn partial_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |m| m.len())
}

/// Appends to `partial` what it lacks.
async fn fill(store: &Store, name: &Name, partial: &Path) -> Result<u64, StoreError> {
    let whole =
        store.size(name).await?.ok_or_else(|| StoreError::Absent { name: name.clone(), store: store.to_string() })?;
    let mut file = tokio::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(partial)
        .await
        .map_err(StoreError::file(partial))?;
    if length(partial).await > whole {
        file.set_len(0).await.map_err(StoreError::file(partial))?;
    }
    let (mut tries, mut pause) = (0, PAUSE);
    loop {
        let before = length(partial).await;
        let outcome = append(store, name, before, whole, &mut file, partial).await;
        let now = length(partial).await;
        if now >= whole {
            file.sync_all().await.map_err(StoreError::file(partial))?;
            return Ok(whole);
        }
        if now - before >= PROGRESS {
            (tries, pause) = (0, PAUSE);
        }
        tries += 1;
        match outcome {
            Err(error) if !error.is_temporary() || tries >= TRIES => return Err(error),
            Ok(()) if tries >= TRIES => {
                let why = format!("{name} has {whole} bytes, and it ends after {now}");
                return Err(StoreError::Unavailable { store: store.to_string(), why });
            }
            _ => tracing::debug!(%name, from = now, "a download broke; going on"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn append(
    store: &Store,
    name: &Name,
    from: u64,
    whole: u64,
    file: &mut tokio::fs::File,
    path: &Path,
) -> Result<(), StoreError> {
    if from >= whole {
        return Ok(());
    }
    let mut bytes = store.read(name, from).await?;
    let mut left = whole - from;
    let outcome = loop {
        match bytes.try_next().await {
            // A store that sends more than it said is cut off; the hash has the last word.
            Ok(Some(chunk)) => {
                let chunk = &chunk[..chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                file.write_all(chunk).await.map_err(StoreError::file(path))?;
                left -= chunk.len() as u64;
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if left == 0 {
            break Ok(());
        }
    };
    file.flush().await.map_err(StoreError::file(path))?;
    outcome
}
