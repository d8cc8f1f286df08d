//! An attempt's samples on their way out, chunk by chunk.

use std::fs::File;
use std::io::{BufReader, Read as _, Take};
use std::path::PathBuf;

use fleet_common::telemetry::Seal;
use fleet_common::wire::v1;

use super::{SamplesError, chunk, tail};

/// Batches of one attempt in order.
pub struct Reader {
    path: PathBuf,
    /// What of the chunk file is not read yet.
    file: Option<Take<BufReader<File>>>,
    /// Batches that are not in the file yet.
    pending: std::vec::IntoIter<v1::SampleBatch>,
    sealed: Option<Sealed>,
}

/// The comparison with a seal. It is over the chunks that hold the first samples, as many as were sealed: what came
/// after the seal is behind them.
struct Sealed {
    seal: Seal,
    crc: crc32fast::Hasher,
    read: u64,
}

impl Reader {
    /// Reads the file up to `length`, then gives out `pending`.
    pub(super) fn new(
        path: PathBuf,
        length: u64,
        pending: Vec<v1::SampleBatch>,
        seal: Option<Seal>,
    ) -> Result<Self, SamplesError> {
        let file = match File::open(&path) {
            Ok(file) => Some(BufReader::new(file).take(length)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(SamplesError::Io { path, doing: "opened", source }),
        };
        let sealed = seal.filter(|s| s.stored > 0).map(|seal| Sealed { seal, crc: crc32fast::Hasher::new(), read: 0 });
        Ok(Self { path, file, pending: pending.into_iter(), sealed })
    }

    /// Follows the sealed part, and says so if it is not what was sealed. The samples are given out nevertheless.
    fn follow(&mut self, chunk: &chunk::Chunk) {
        let Some(sealed) = &mut self.sealed else { return };
        sealed.read += tail::count(&chunk.batches);
        sealed.crc.update(&chunk.bytes);
        if sealed.read >= sealed.seal.stored {
            if sealed.read > sealed.seal.stored || sealed.crc.clone().finalize() != sealed.seal.crc32 {
                self.warn();
            }
            self.sealed = None;
        }
    }

    fn warn(&self) {
        tracing::warn!(file = %self.path.display(), "samples are not what was sealed: the file was changed or damaged");
    }
}

impl Iterator for Reader {
    type Item = Result<Vec<v1::SampleBatch>, SamplesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(file) = &mut self.file {
            match chunk::next(file) {
                Ok(Some(chunk)) => {
                    self.follow(&chunk);
                    return Some(Ok(chunk.batches));
                }
                Ok(None) => self.file = None,
                Err(source) => {
                    self.file = None;
                    return Some(Err(SamplesError::Io { path: self.path.clone(), doing: "read", source }));
                }
            }
        }
        if self.sealed.take().is_some() {
            self.warn();
        }
        self.pending.next().map(|batch| Ok(vec![batch]))
    }
}
