//! A stream of bytes that knows where it is and what is left, so that no length is believed beyond that.

use std::io::{self, BufReader, Read as _};

use crate::error::{Fault, Read};
use crate::limits;

/// A stream.
#[derive(Debug)]
pub(crate) struct Bytes<R> {
    inner: BufReader<R>,
    offset: u64,
    left: u64,
}

impl<R: io::Read> Bytes<R> {
    /// Of at most `left` bytes, of which the first is counted as number `offset`.
    pub(crate) fn new(inner: R, offset: u64, left: u64) -> Self {
        Self { inner: BufReader::new(inner), offset, left }
    }

    /// The number of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// A fault at the next byte.
    pub(crate) fn fault(&self, problem: impl Into<String>) -> Fault {
        Fault::at(self.offset, problem)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut array = [0; N];
        self.claim(N as u64)?;
        self.inner.read_exact(&mut array).map_err(|e| self.ended(&e))?;
        self.offset += N as u64;
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// The next `len` bytes; `None`, and they are passed over, where they are too many to be kept.
    pub(crate) fn run(&mut self, len: u64) -> Read<Option<Vec<u8>>> {
        self.claim(len)?;
        let mut kept = Vec::new();
        let mut part = self.inner.by_ref().take(len);
        // Both grow with what is there, not with what was announced.
        let got = if len > limits::TEXT {
            io::copy(&mut part, &mut io::sink())
        } else {
            part.read_to_end(&mut kept).map(|n| n as u64)
        };
        match got {
            Ok(n) if n == len => {
                self.offset += len;
                Ok((len <= limits::TEXT).then_some(kept))
            }
            Ok(n) => Err(self.fault(format!("expected {len} bytes here, found {n} and then the end; fetch it again"))),
            Err(e) => Err(self.ended(&e)),
        }
    }

    /// The bytes up to the end of a line, without it.
    pub(crate) fn line(&mut self) -> Read<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(line),
                byte => line.push(byte),
            }
            if line.len() > limits::CLASS {
                return Err(self.fault(format!("expected a name of at most {} bytes", limits::CLASS)));
            }
        }
    }

    /// Counts bytes that are about to be read.
    fn claim(&mut self, len: u64) -> Read<()> {
        if len > self.left {
            return Err(self.fault(format!(
                "expected {len} bytes more, but at most {} are left; the file is cut off or damaged: fetch it again",
                self.left
            )));
        }
        self.left -= len;
        Ok(())
    }

    fn ended(&self, e: &io::Error) -> Fault {
        self.fault(format!("the pickle does not go on here ({e}); the file is cut off or damaged: fetch it again"))
    }
}
