//! Where content comes from.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use fleet_content::folder::Missing;
use fleet_content::{ContentError, Folder, Item, Manifest};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::CacheError;

/// Why a source did not give something.
#[derive(Debug)]
pub enum Trouble {
    /// It may do so later: a connection broke.
    Passing(String),
    /// It will not.
    Final(String),
    /// It was not its fault.
    Here(CacheError),
}

impl From<CacheError> for Trouble {
    fn from(error: CacheError) -> Self {
        match error {
            // What came is wrong, and another source may have the right one.
            CacheError::Damaged { .. }
            | CacheError::Content(ContentError::TooLong { .. } | ContentError::Manifest(_)) => {
                Self::Final(error.to_string())
            }
            error => Self::Here(error),
        }
    }
}

/// What takes the bytes: which of the blobs that were asked for, and what follows of it.
pub type Take<'a> = dyn FnMut(usize, &[u8]) -> Result<(), CacheError> + 'a;

/// A place that may have what an agent lacks. Its methods block.
pub trait Source: Send {
    /// Its name, for people.
    fn name(&self) -> String;

    /// The manifest of an item, if it has it.
    ///
    /// # Errors
    /// It cannot be asked.
    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble>;

    /// Gives what is missing of blobs, one after the other. Giving less than all of it is no error.
    ///
    /// # Errors
    /// It cannot go on, or what came could not be taken.
    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble>;
}

/// How a source waits for answers over a network, on a thread that may block.
#[derive(Debug, Clone)]
pub struct Patience {
    runtime: Handle,
    stop: watch::Receiver<bool>,
}

impl Patience {
    /// With `runtime`'s network, outside of its own threads, until `stop` says so or its sender is gone.
    pub fn new(runtime: Handle, stop: watch::Receiver<bool>) -> Self {
        Self { runtime, stop }
    }

    /// Waits for an answer, for so long, and as long as somebody waits for what it leads to.
    pub(super) fn wait<T>(&self, most: Duration, call: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut stop = self.stop.clone();
        self.runtime.block_on(async {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Err(CacheError::Stopped.into()),
                answer = tokio::time::timeout(most, call) => {
                    answer.map_err(|_| Trouble::Passing(format!("no answer for {} s", most.as_secs())))
                }
            }
        })
    }
}

/// A folder of content: a disk that machines share, or a copy of one.
#[derive(Debug)]
pub struct Shelf {
    folder: Folder,
}

impl Shelf {
    /// The one at `root`, which may be away for a while.
    pub fn new(root: &Path) -> Self {
        Self { folder: Folder::existing(root) }
    }
}

impl Source for Shelf {
    fn name(&self) -> String {
        self.folder.root().display().to_string()
    }

    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble> {
        let manifest = self.folder.manifest(item).map_err(|e| Trouble::Final(e.to_string()))?;
        Ok(manifest.filter(|manifest| self.folder.missing(manifest).is_empty()))
    }

    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble> {
        let mut buffer = vec![0; 1 << 18];
        for (at, blob) in blobs.iter().enumerate() {
            let path = self.folder.blob(&blob.sha256);
            let failed = |e: std::io::Error| Trouble::Final(format!("{}: {e}", path.display()));
            let mut file = File::open(&path).map_err(failed)?;
            file.seek(SeekFrom::Start(blob.have)).map_err(failed)?;
            let mut left = blob.bytes - blob.have;
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match file.read(&mut buffer[..most]) {
                    Ok(0) => return Err(Trouble::Final(format!("{}: is shorter than it was", path.display()))),
                    Ok(read) => {
                        take(at, &buffer[..read])?;
                        left -= read as u64;
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        Ok(())
    }
}
