//! Records out of a stream of bytes, finding the way across damage by the marks. Holds one record at a time in memory,
//! however long the stream is.

use std::io::{self, Read};

use super::record::{self, HEADER, Header, MARK};

/// Bytes that are asked for at a time.
const READ: usize = 256 << 10;

/// What stands next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole record.
    Record {
        /// Where it begins.
        offset: u64,
        /// Its number.
        sequence: u64,
        /// Its checksum.
        crc: u32,
        /// What it holds.
        payload: &'a [u8],
    },
    /// Bytes that are no record.
    Damage {
        /// Where they begin.
        offset: u64,
        /// How many.
        bytes: u64,
        /// They reach to the end.
        tail: bool,
    },
}

/// Reads records whose numbers rise: one that does not is an old one that damage brought back to light.
pub struct Scanner<R> {
    from: R,
    window: Vec<u8>,
    /// What of the window is behind us.
    start: usize,
    /// Where the window begins in the stream.
    base: u64,
    ended: bool,
    latest: u64,
}

impl<R: Read> Scanner<R> {
    /// Records from a stream that begins at `offset`, numbered above `after`.
    pub fn new(from: R, offset: u64, after: u64) -> Self {
        Self { from, window: Vec::new(), start: 0, base: offset, ended: false, latest: after }
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub fn advance(&mut self) -> io::Result<Option<Found<'_>>> {
        if !self.reach(1)? {
            return Ok(None);
        }
        let offset = self.base + self.start as u64;
        if let Some(header) = self.record_at(0)? {
            self.latest = header.sequence;
            let from = self.start + HEADER;
            self.start = from + header.length;
            let payload = &self.window[from..self.start];
            return Ok(Some(Found::Record { offset, sequence: header.sequence, crc: header.crc, payload }));
        }
        let mut at = 1;
        let tail = loop {
            let Some(mark) = self.mark_from(at)? else { break true };
            at = mark;
            if self.record_at(mark)?.is_some() {
                break false;
            }
            at += 1;
        };
        let bytes = if tail { self.ahead().len() } else { at };
        self.start += bytes;
        Ok(Some(Found::Damage { offset, bytes: bytes as u64, tail }))
    }

    /// What was read and is not behind us.
    fn ahead(&self) -> &[u8] {
        &self.window[self.start..]
    }

    /// Makes `n` bytes lie ahead, if the stream has them.
    fn reach(&mut self, n: usize) -> io::Result<bool> {
        while self.ahead().len() < n && !self.ended {
            self.window.drain(..self.start);
            self.base += self.start as u64;
            self.start = 0;
            let more = READ.max(n - self.window.len());
            let read = self.from.by_ref().take(more as u64).read_to_end(&mut self.window)?;
            self.ended = read < more;
        }
        Ok(self.ahead().len() >= n)
    }

    /// The header of a whole record that begins `at` bytes ahead.
    fn record_at(&mut self, at: usize) -> io::Result<Option<Header>> {
        if !self.reach(at + HEADER)? {
            return Ok(None);
        }
        let Some(header) = record::header(&self.ahead()[at..]).filter(|h| h.sequence > self.latest) else {
            return Ok(None);
        };
        let end = at + HEADER + header.length;
        Ok((self.reach(end)? && header.fits(&self.ahead()[at + HEADER..end])).then_some(header))
    }

    /// How far ahead the next mark begins, from `at` on.
    fn mark_from(&mut self, mut at: usize) -> io::Result<Option<usize>> {
        loop {
            let ahead = self.ahead();
            if let Some(n) = ahead.get(at..).and_then(|rest| rest.windows(MARK.len()).position(|w| w == MARK)) {
                return Ok(Some(at + n));
            }
            // A mark may lie across the end of what was read so far.
            at = at.max(ahead.len().saturating_sub(MARK.len() - 1));
            if !self.reach(self.ahead().len() + 1)? {
                return Ok(None);
            }
        }
    }
}
