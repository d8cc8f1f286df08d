//! The directory of a zip archive: which entries there are, and where their bytes lie.
//!
//! Only what `torch.save` writes, and what packing it again makes of it: stored or deflated, with 64-bit sizes where
//! they are needed. Our own, because entries are read in parts and lazily, and no size may be believed before it has
//! been held against the file. Checksums are not compared: the hash of the whole file identifies weights here.

use std::collections::HashMap;

use crate::error::{Fault, Read};
use crate::limits;
use crate::source::Source;

/// Where an entry's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Of its first byte.
    pub(crate) start: u64,
    /// Its bytes in the file.
    pub(crate) packed: u64,
    /// Its bytes when unpacked.
    pub(crate) size: u64,
    pub(crate) deflated: bool,
}

/// Lengths of the fixed parts of the archive's records.
const END: u64 = 22;
const END64: u64 = 56;
const LOCATOR: u64 = 20;
const CENTRAL: usize = 46;
const LOCAL: u64 = 30;

/// The entries by name.
pub(crate) fn entries(source: &Source) -> Read<HashMap<String, Entry>> {
    let (at, len, count) = directory(source)?;
    if len > limits::DIRECTORY {
        return Err(Fault::at(at, format!("a directory of {len} bytes; expected at most {}", limits::DIRECTORY)));
    }
    let bytes = source.read(at, len)?;
    let mut entries = HashMap::new();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut unpacked = 0u64;
    let mut from = 0;
    for _ in 0..count {
        let here = at + from as u64;
        let (name, entry, next) = central(source, here, &bytes[from..])?;
        from += next;
        let end = entry.start.checked_add(entry.packed).filter(|end| *end <= at);
        let end = end.ok_or_else(|| {
            let (packed, start) = (entry.packed, entry.start);
            Fault::at(
                here,
                format!("entry {name} has {packed} bytes at {start}, which is beyond the entries' end at {at}"),
            )
        })?;
        // Each has a header of its own, and be it empty.
        taken.push((entry.start.saturating_sub(LOCAL), end));
        unpacked = unpacked.saturating_add(entry.size);
        if unpacked > limits::UNPACKED.saturating_mul(source.len()).saturating_add(limits::SPARE) {
            return Err(Fault::at(
                here,
                format!("entries of more than {unpacked} bytes in a file of {}: a bomb", source.len()),
            ));
        }
        if entries.insert(name.clone(), entry).is_some() {
            return Err(Fault::at(here, format!("entry {name} is there twice, and either could be meant")));
        }
    }
    taken.sort_unstable();
    match taken.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(Fault::at(pair[1].0, "entries overlap; the file is damaged, or made to deceive")),
        None => Ok(entries),
    }
}

/// Where the directory is: its first byte, its length and the number of its entries.
fn directory(source: &Source) -> Read<(u64, u64, u64)> {
    // The end record is followed by a comment of at most 65,535 bytes, which ends with the file.
    let tail_len = source.len().min(END + 65_535);
    let tail_at = source.len() - tail_len;
    let tail = source.read(tail_at, tail_len)?;
    let fits = |i: &usize| {
        tail[*i..].starts_with(b"PK\x05\x06") && *i + END as usize + u16_at(&tail, i + 20) as usize == tail.len()
    };
    let last = tail.len().saturating_sub(END as usize - 1);
    let Some(i) = (0..last).rev().find(fits) else {
        return Err(Fault::at(source.len(), "a zip archive without its end; the file is cut off: fetch it again"));
    };
    let end_at = tail_at + i as u64;
    let (count, len, at) = (u16_at(&tail, i + 10), u32_at(&tail, i + 12), u32_at(&tail, i + 16));
    let small = (u64::from(at), u64::from(len), u64::from(count));
    let is64 = count == u16::MAX || len == u32::MAX || at == u32::MAX;
    let (at, len, count) = if is64 { directory64(source, end_at)?.unwrap_or(small) } else { small };
    match at.checked_add(len) {
        Some(end) if end <= end_at && count <= len / CENTRAL as u64 => Ok((at, len, count)),
        _ => Err(Fault::at(
            end_at,
            format!(
                "a directory of {count} entries in {len} bytes at {at}, which is not possible; fetch the file again"
            ),
        )),
    }
}

/// The same from the record for large archives, if there is one.
fn directory64(source: &Source, end_at: u64) -> Read<Option<(u64, u64, u64)>> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR) else { return Ok(None) };
    let locator = source.read(locator_at, LOCATOR)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let at = u64_at(&locator, 8);
    let record = source.read(at, END64)?;
    if !record.starts_with(b"PK\x06\x06") {
        return Err(Fault::at(at, "expected the end record of a large zip archive; fetch the file again"));
    }
    Ok(Some((u64_at(&record, 48), u64_at(&record, 40), u64_at(&record, 32))))
}

/// One entry of the directory, whose bytes begin with it: its name, its place, and its length in the directory.
fn central(source: &Source, here: u64, bytes: &[u8]) -> Read<(String, Entry, usize)> {
    let wrong = |problem: String| Fault::at(here, problem);
    if bytes.len() < CENTRAL || !bytes.starts_with(b"PK\x01\x02") {
        return Err(wrong("expected an entry of the zip directory; the file is damaged: fetch it again".to_owned()));
    }
    let (flags, method) = (u16_at(bytes, 8), u16_at(bytes, 10));
    let lengths = [28, 30, 32].map(|i| usize::from(u16_at(bytes, i)));
    let next = CENTRAL + lengths.iter().sum::<usize>();
    if next > bytes.len() || lengths[0] > limits::NAME {
        return Err(wrong(format!("an entry with a name of {} bytes, which is too long", lengths[0])));
    }
    let name = String::from_utf8_lossy(&bytes[CENTRAL..CENTRAL + lengths[0]]).into_owned();
    if flags & 1 != 0 || !matches!(method, 0 | 8) {
        return Err(wrong(format!(
            "entry {name} is encrypted or packed by method {method}; expected stored or deflated: save it again with \
             torch.save"
        )));
    }
    let mut sizes = [24, 20, 42].map(|i| u64::from(u32_at(bytes, i)));
    widen(&bytes[CENTRAL + lengths[0]..CENTRAL + lengths[0] + lengths[1]], &mut sizes);
    let [size, packed, header] = sizes;
    let local = source.read(header, LOCAL)?;
    if !local.starts_with(b"PK\x03\x04") {
        return Err(Fault::at(
            header,
            format!("expected the header of entry {name}; the file is damaged: fetch it again"),
        ));
    }
    let start = header + LOCAL + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
    let deflated = method == 8;
    if !deflated && size != packed {
        return Err(wrong(format!("entry {name} is stored as it is, but said to be {packed} and {size} bytes")));
    }
    Ok((name, Entry { start, packed, size, deflated }, next))
}

/// Takes from an entry's extra field the numbers that do not fit 32 bits: in this order, and only those.
fn widen(mut extra: &[u8], numbers: &mut [u64; 3]) {
    while extra.len() >= 4 {
        let (kind, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + len).unwrap_or(&[]);
        if kind == 1 {
            let wide = numbers.iter_mut().filter(|n| **n == u64::from(u32::MAX));
            wide.zip(field.chunks_exact(8)).for_each(|(n, bytes)| *n = u64_at(bytes, 0));
            return;
        }
        extra = extra.get(4 + len..).unwrap_or(&[]);
    }
}

fn u16_at(bytes: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([bytes[i], bytes[i + 1]])
}

fn u32_at(bytes: &[u8], i: usize) -> u32 {
    u32::from(u16_at(bytes, i)) | u32::from(u16_at(bytes, i + 2)) << 16
}

fn u64_at(bytes: &[u8], i: usize) -> u64 {
    u64::from(u32_at(bytes, i)) | u64::from(u32_at(bytes, i + 4)) << 32
}
