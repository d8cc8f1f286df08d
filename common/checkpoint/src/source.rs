//! The bytes of a file, read where they are wanted: checkpoints are larger than what is taken from them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{Fault, Read};

/// A file, or bytes in memory.
#[derive(Debug)]
pub(crate) struct Source {
    bytes: Bytes,
    len: u64,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

impl Source {
    pub(crate) fn open(path: &Path) -> Read<Self> {
        let file = File::open(path).map_err(Fault::Io)?;
        let len = file.metadata().map_err(Fault::Io)?.len();
        Ok(Self { bytes: Bytes::File(file), len })
    }

    pub(crate) fn memory(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes from `offset` on; nothing is allocated for bytes that are not there.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Read<Vec<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Fault::at(
                offset,
                format!("expected {len} bytes here, but the file ends at {}; it is cut off: fetch it again", self.len),
            ));
        }
        let mut buffer = vec![0; len as usize];
        let mut section = self.section(offset, len);
        io::Read::read_exact(&mut section, &mut buffer).map_err(Fault::Io)?;
        Ok(buffer)
    }

    /// The `len` bytes from `offset` on, as a stream that ends with the file.
    pub(crate) fn section(&self, offset: u64, len: u64) -> Section<'_> {
        Section { source: self, at: offset, end: offset.saturating_add(len).min(self.len) }
    }
}

/// A part of a source.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    source: &'a Source,
    at: u64,
    end: u64,
}

impl io::Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let wanted = (buffer.len() as u64).min(left) as usize;
        let got = match &self.source.bytes {
            Bytes::File(file) => file.read_at(&mut buffer[..wanted], self.at)?,
            Bytes::Memory(bytes) => {
                let from = (self.at as usize).min(bytes.len());
                let part = &bytes[from..from + wanted];
                buffer[..wanted].copy_from_slice(part);
                wanted
            }
        };
        self.at += got as u64;
        Ok(got)
    }
}
