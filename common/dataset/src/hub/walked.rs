//! A file of which the Parquet library reads no metadata that has not been walked over before.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::shape;

/// Length of the file's metadata and the format's mark, at the end.
const TAIL: u64 = 8;

/// See the module.
pub(crate) struct Walked {
    file: File,
    length: u64,
}

impl Walked {
    /// # Errors
    /// Those of asking for the file's length.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    fn at(&self, start: u64) -> io::Result<BufReader<File>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(file))
    }
}

impl Length for Walked {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Walked {
    type T = Header;

    /// The library reads a page's header so, and the file's last bytes; see [`Header`].
    fn get_read(&self, start: u64) -> Result<Header> {
        let walk = start.checked_add(TAIL) != Some(self.length);
        Ok(Header { from: self.at(start)?, start: walk.then_some(start) })
    }

    /// The library reads the file's metadata so, and what is in a page, which ends before it.
    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::new();
        self.at(start)?.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found {}", bytes.len())));
        }
        if start.checked_add(length as u64 + TAIL) == Some(self.length) {
            shape::walk(&mut bytes.as_slice(), &shape::FILE, length as u64)?;
        }
        Ok(bytes.into())
    }
}

/// Bytes from a page's header on. The walk is at the first read: where the library has the header already, it asks for
/// a reader, and reads nothing.
pub(crate) struct Header {
    from: BufReader<File>,
    /// Where a header begins that is still to be walked over.
    start: Option<u64>,
}

impl Read for Header {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if let Some(start) = self.start.take() {
            shape::walk(&mut self.from, &shape::PAGE_HEADER, shape::MOST_IN_HEADER)?;
            self.from.seek(SeekFrom::Start(start))?;
        }
        self.from.read(to)
    }
}
