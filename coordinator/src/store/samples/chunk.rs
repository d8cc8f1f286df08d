//! The form of chunks: what chunk files and the intake consist of.
//!
//! ```text
//! chunk := length u24 | form u8 | crc u32 | payload
//! ```
//!
//! Numbers are little-endian; the CRC-32 is the payload's. Form 0 is a SampleBatch, which is what earlier versions wrote
//! (their length had 32 bits, and no batch came near 24). Form 1 is a SampleChunk, compressed by zstd.

use std::io::{self, Read};

use fleet_common::wire::v1;
use prost::Message;

use super::columns;

const PLAIN: u8 = 0;
const PACKED: u8 = 1;
/// Length and form, checksum.
const HEADER: usize = 8;
/// No payload is longer, packed or not: what says so is damage, not a reason to allocate.
const MOST: usize = (1 << 24) - 1;
/// Higher levels take more time than they save space.
const LEVEL: i32 = 3;

/// A chunk as it was read.
pub(super) struct Chunk {
    /// What it holds.
    pub batches: Vec<v1::SampleBatch>,
    /// All of it, header included.
    pub bytes: Vec<u8>,
}

/// One batch, not compressed: for what is written once and soon removed.
pub(super) fn plain(batch: &v1::SampleBatch) -> io::Result<Vec<u8>> {
    framed(PLAIN, &batch.encode_to_vec())
}

/// Batches of one attempt, compressed.
pub(super) fn packed(trial: v1::TrialId, attempt: u32, batches: &[v1::SampleBatch]) -> io::Result<Vec<u8>> {
    let columns = columns::pack(trial, attempt, batches).encode_to_vec();
    framed(PACKED, &zstd::bulk::compress(&columns, LEVEL)?)
}

fn framed(form: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.len() > MOST {
        return Err(io::Error::other(format!(
            "{} bytes are too large for a chunk, which takes up to {MOST}",
            payload.len()
        )));
    }
    let mut chunk = Vec::with_capacity(HEADER + payload.len());
    chunk.extend_from_slice(&(payload.len() as u32 | u32::from(form) << 24).to_le_bytes());
    chunk.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    chunk.extend_from_slice(payload);
    Ok(chunk)
}

/// The next chunk; `None` where no whole one follows: at the end, and at whatever a crash or damage left.
///
/// # Errors
/// The system cannot read.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<Chunk>> {
    let mut bytes = Vec::new();
    from.by_ref().take(HEADER as u64).read_to_end(&mut bytes)?;
    let Some((head, crc)) = bytes.split_first_chunk::<4>().and_then(|(h, rest)| Some((*h, *rest.first_chunk::<4>()?)))
    else {
        return Ok(None);
    };
    let (head, crc) = (u32::from_le_bytes(head), u32::from_le_bytes(crc));
    let (length, form) = (head as usize & MOST, (head >> 24) as u8);
    from.by_ref().take(length as u64).read_to_end(&mut bytes)?;
    let payload = &bytes[HEADER..];
    if payload.len() < length || crc32fast::hash(payload) != crc {
        return Ok(None);
    }
    let batches = match form {
        PLAIN => v1::SampleBatch::decode(payload).ok().map(|batch| vec![batch]),
        PACKED => unzstd(payload).and_then(|raw| v1::SampleChunk::decode(&*raw).ok()).and_then(columns::unpack),
        _ => None,
    };
    Ok(batches.map(|batches| Chunk { batches, bytes }))
}

fn unzstd(payload: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    zstd::stream::Decoder::new(payload).ok()?.take(MOST as u64).read_to_end(&mut raw).ok()?;
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: u64) -> v1::SampleBatch {
        let trial = Some(v1::TrialId { cell: "ab".repeat(16), repeat: 0, hardware: None });
        let (at_nanos, series) = ((0..n).map(|i| (1 << 40) + i * 50_000_000).collect(), vec![3; n as usize]);
        let value = (0..n).map(|i| i as i64 * 9_001).collect();
        v1::SampleBatch { trial, attempt: 1, at_nanos, series, value, ..Default::default() }
    }

    #[test]
    fn both_forms_are_read_and_one_is_smaller() {
        let list = [batch(200), v1::SampleBatch { first_number: 200, ..batch(100) }];
        let packed = packed(batch(0).trial.expect("has one"), 1, &list).expect("packs");
        let plain = plain(&list[0]).expect("fits");
        assert!(packed.len() * 10 < plain.len(), "{} {}", packed.len(), plain.len());
        let bytes = [packed.as_slice(), &plain].concat();
        let mut from = bytes.as_slice();
        let chunk = next(&mut from).expect("reads").expect("a chunk");
        assert_eq!((chunk.batches.as_slice(), chunk.bytes), (list.as_slice(), packed));
        assert_eq!(next(&mut from).expect("reads").expect("a chunk").batches, list[..1]);
        assert!(next(&mut from).expect("reads").is_none());
    }

    #[test]
    fn what_earlier_versions_wrote_is_read() {
        let payload = batch(3).encode_to_vec();
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        assert_eq!(next(&mut bytes.as_slice()).expect("reads").expect("a chunk").batches, [batch(3)]);
    }

    #[test]
    fn torn_damaged_and_unknown_chunks_are_none() {
        let good = packed(batch(0).trial.expect("has one"), 1, &[batch(50)]).expect("packs");
        let is_none = |bytes: &[u8]| next(&mut &*bytes).expect("reads").is_none();
        (0..good.len()).for_each(|n| assert!(is_none(&good[..n]), "{n} bytes"));
        for at in [0, 3, 5, 12] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(is_none(&bad), "byte {at}");
        }
    }
}
