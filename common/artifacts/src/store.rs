//! A store of files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;

use crate::download;
use crate::error::StoreError;
use crate::location::{self, Location};
use crate::name::{Name, Sha256};
use crate::pace::Pace;
use crate::staged;

/// A file is sent in parts of this size, one at a time: the least that S3 takes, because a part has a minute to get
/// through, and all that is held in memory.
const PART: usize = 5 << 20;
/// S3 takes so many parts of an upload; those of a larger file are larger.
const MOST_PARTS: u64 = 10_000;

/// Files under the name of their content, in a folder or an S3-compatible store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Key,
    folder: Option<PathBuf>,
    shown: String,
}

/// Something that a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its length.
    pub bytes: u64,
    /// When it was put there, on the store's clock.
    pub modified: SystemTime,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.shown).finish()
    }
}

/// The address, without secrets.
impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Store {
    /// Opens the store at `address`: a folder as a path or `file:///srv/fleet` (made if it is not there), or
    /// `s3://BUCKET/PREFIX`, with `?endpoint=http://HOST:PORT&region=NAME` for stores other than AWS's. Credentials come
    /// from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …), AWS's shared credentials file, or the
    /// machine's role. Nothing is asked over the network yet.
    ///
    /// # Errors
    /// It is no address, or the folder cannot be made.
    pub fn open(address: &str) -> Result<Self, StoreError> {
        let words = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::open_in(address, words)
    }

    /// The same with these environment variables instead of the process's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_in(address: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, StoreError> {
        let Location { inner, prefix, folder, shown } = location::open(address, &environment.into_iter().collect())?;
        Ok(Self { inner, prefix, folder, shown })
    }

    /// Puts a file, unless it is there already. Nobody sees it before it is whole and its content was found to be what
    /// `name` says. Failures that may pass are tried again for a minute.
    ///
    /// # Errors
    /// The content is another one, the file cannot be read, or the store refuses or fails.
    pub async fn put_file(&self, name: &Name, file: &Path, pace: &Pace) -> Result<u64, StoreError> {
        let mut open = tokio::fs::File::open(file).await.map_err(StoreError::file(file))?;
        let bytes = open.metadata().await.map_err(StoreError::file(file))?.len();
        if self.size(name).await? == Some(bytes) {
            return Ok(bytes);
        }
        let key = self.key(name);
        let mut hasher = sha2::Sha256::new();
        let size = part_size(bytes);
        let mut part = next_part(&mut open, size, file).await?;
        let first_is_all = part.len() < size;
        if first_is_all {
            hasher.update(&part);
            verified(name, hasher, part.len() as u64)?;
            pace.wait(part.len()).await;
            self.inner.put(&key, PutPayload::from_bytes(part)).await.map_err(|e| self.failed(e))?;
            return Ok(bytes);
        }
        let mut upload = Upload(Some(self.inner.put_multipart(&key).await.map_err(|e| self.failed(e))?));
        let sent = async {
            let mut length = 0;
            while !part.is_empty() {
                hasher.update(&part);
                length += part.len() as u64;
                pace.wait(part.len()).await;
                upload.part(PutPayload::from_bytes(part)).await.map_err(|e| self.failed(e))?;
                part = next_part(&mut open, size, file).await?;
            }
            verified(name, hasher, length)?;
            upload.complete().await.map_err(|e| self.failed(e))?;
            Ok(length)
        }
        .await;
        upload.give_back().await;
        sent
    }

    /// Gets a file. It is written beside `target` as `TARGET.partial`, which a later call goes on with, and has its
    /// place once its content was found to be what `name` says. Failures that may pass are tried again.
    ///
    /// # Errors
    /// It is not there, is damaged, cannot be written, or the store refuses or fails.
    pub async fn get_to_file(&self, name: &Name, target: &Path) -> Result<u64, StoreError> {
        download::to_file(self, name, target).await
    }

    /// The length of what is there under `name`; `None` if nothing is.
    ///
    /// # Errors
    /// The store refuses or fails.
    pub async fn size(&self, name: &Name) -> Result<Option<u64>, StoreError> {
        match self.inner.head(&self.key(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Whether something is there under `name`.
    ///
    /// # Errors
    /// The store refuses or fails.
    pub async fn exists(&self, name: &Name) -> Result<bool, StoreError> {
        Ok(self.size(name).await?.is_some())
    }

    /// The bytes from `from` on, as they come. Whoever has them all compares them with the name's hash: here nobody has.
    ///
    /// # Errors
    /// It is not there, or the store refuses or fails; each item of the stream may say so later.
    pub async fn read(
        &self,
        name: &Name,
        from: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { range, ..GetOptions::default() };
        let got = match self.inner.get_opts(&self.key(name), options).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(StoreError::Absent { name: name.clone(), store: self.shown.clone() });
            }
            Err(error) => return Err(self.failed(error)),
        };
        let store = self.clone();
        Ok(got.into_stream().map_err(move |e| store.failed(e)).boxed())
    }

    /// A small file under any path below the store's address, whole; `None` if there is none.
    ///
    /// # Errors
    /// It has more than `most` bytes, or the store refuses or fails.
    pub async fn document(&self, path: &str, most: u64) -> Result<Option<Bytes>, StoreError> {
        let got = match self.inner.get(&self.below(path)).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        if got.meta.size > most {
            let (name, bytes) = (path.to_owned(), got.meta.size);
            return Err(StoreError::TooLarge { name, store: self.shown.clone(), most, bytes });
        }
        got.bytes().await.map(Some).map_err(|e| self.failed(e))
    }

    /// Removes what is there under `name`, if something is.
    ///
    /// # Errors
    /// The store refuses or fails.
    pub async fn remove(&self, name: &Name) -> Result<(), StoreError> {
        match self.inner.delete(&self.key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// What is in `folder` and the folders below it; what has no [`Name`] is left out.
    ///
    /// # Errors
    /// The store refuses or fails.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let prefix = self.below(folder);
        let mut found = self.inner.list(Some(&prefix));
        let mut entries = Vec::new();
        while let Some(meta) = found.try_next().await.map_err(|e| self.failed(e))? {
            let Some(inside) = meta.location.prefix_match(&self.prefix) else { continue };
            let inside: Vec<_> = inside.map(|part| part.as_ref().to_owned()).collect();
            if let Ok(name) = inside.join("/").parse() {
                entries.push(Entry { name, bytes: meta.size, modified: meta.last_modified.into() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Removes what writers that were killed have left in a folder, once it is older than `age`. Stores of other kinds
    /// have rules of their own for that.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn sweep(&self, age: Duration) -> Result<(), StoreError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let sweeping =
            tokio::task::spawn_blocking(move || staged::remove(&folder, age).map_err(StoreError::file(&folder)));
        sweeping.await.unwrap_or(Ok(()))
    }

    fn key(&self, name: &Name) -> Key {
        self.below(&name.to_string())
    }

    fn below(&self, path: &str) -> Key {
        Key::from_iter(self.prefix.parts().chain(Key::from(path).parts()))
    }

    fn failed(&self, error: object_store::Error) -> StoreError {
        use object_store::Error as E;
        let store = self.shown.clone();
        // The chain's last words are the server's.
        let why = words(&error);
        match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreError::Refused { store, why },
            _ => StoreError::Unavailable { store, why },
        }
    }
}

/// An error with its causes, each said once.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// The size of the parts of a file of so many bytes.
fn part_size(bytes: u64) -> usize {
    PART.max(usize::try_from(bytes.div_ceil(MOST_PARTS)).unwrap_or(usize::MAX))
}

/// The next part of a file; shorter only at its end.
async fn next_part(open: &mut tokio::fs::File, size: usize, path: &Path) -> Result<Bytes, StoreError> {
    let mut part = Vec::with_capacity(size);
    open.take(size as u64).read_to_end(&mut part).await.map_err(StoreError::file(path))?;
    Ok(part.into())
}

fn verified(name: &Name, hasher: sha2::Sha256, bytes: u64) -> Result<(), StoreError> {
    let found = Sha256::of_digest(hasher.finalize());
    match found == *name.sha256() {
        true => Ok(()),
        false => Err(StoreError::Damaged { name: name.clone(), found, bytes }),
    }
}

/// An upload in parts, until it is complete. Dropped before that, as by whoever waits no longer, it gives back the room
/// of its parts beside whatever else goes on. A store that fails at this too, or a process that ends first, leaves them
/// to the store's own rule for incomplete uploads.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    async fn part(&mut self, part: PutPayload) -> object_store::Result<()> {
        match &mut self.0 {
            Some(upload) => upload.put_part(part).await,
            None => Ok(()),
        }
    }

    async fn complete(&mut self) -> object_store::Result<()> {
        if let Some(upload) = &mut self.0 {
            upload.complete().await?;
        }
        self.0 = None;
        Ok(())
    }

    /// Gives back the room of what is not complete.
    async fn give_back(&mut self) {
        let Some(mut upload) = self.0.take() else { return };
        if let Err(error) = upload.abort().await {
            tracing::debug!(error = %words(&error), "parts of an upload are left in the store");
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(upload), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        runtime.spawn(async move { Self(Some(upload)).give_back().await });
    }
}
