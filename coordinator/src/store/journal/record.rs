//! The form of records: what journal segments and snapshots consist of. Pure: bytes in, bytes out.
//!
//! ```text
//! record := 0xF1 0xEE 0x7A 0x01 | length u32 | sequence u64 | crc u32 | payload
//! ```
//!
//! Numbers are little-endian; the CRC-32 covers length, sequence and payload. The mark at the front lets a reader find
//! the next record behind damage.

/// In front of every record.
pub const MARK: [u8; 4] = [0xF1, 0xEE, 0x7A, 0x01];
/// Mark, length, sequence, checksum.
pub const HEADER: usize = 4 + 4 + 8 + 4;
/// No record is larger: a length beyond it is damage, not a reason to allocate. A submitted campaign is the largest.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// The part in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub length: usize,
    /// The record's number.
    pub sequence: u64,
    /// Checksum of length, sequence and payload.
    pub crc: u32,
}

/// Appends a record to `to` and returns its checksum. The payload has at most [`MAX_PAYLOAD`] bytes.
pub fn encode(to: &mut Vec<u8>, sequence: u64, payload: &[u8]) -> u32 {
    let length = (payload.len() as u32).to_le_bytes();
    let number = sequence.to_le_bytes();
    let crc = checksum(length, number, payload);
    to.extend_from_slice(&MARK);
    to.extend_from_slice(&length);
    to.extend_from_slice(&number);
    to.extend_from_slice(&crc.to_le_bytes());
    to.extend_from_slice(payload);
    crc
}

/// The header at the start of `bytes`; `None` where there is none, or only a part of one.
pub fn header(bytes: &[u8]) -> Option<Header> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    (length <= MAX_PAYLOAD).then(|| Header {
        length,
        sequence: u64::from_le_bytes(*sequence),
        crc: u32::from_le_bytes(*crc),
    })
}

impl Header {
    /// Whether this payload is the header's own, undamaged.
    pub fn fits(&self, payload: &[u8]) -> bool {
        let length = (self.length as u32).to_le_bytes();
        payload.len() == self.length && checksum(length, self.sequence.to_le_bytes(), payload) == self.crc
    }
}

fn checksum(length: [u8; 4], sequence: [u8; 8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(&sequence);
    hasher.update(payload);
    hasher.finalize()
}
