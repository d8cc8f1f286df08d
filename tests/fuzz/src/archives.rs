//! Tar archives with headers that are in order and say anything: a fuzzer does not find checksums by itself.

use crate::bytes::Choices;

const KINDS: [u8; 8] = [b'0', b'0', b'0', b'1', b'2', b'5', b'L', b'x'];

/// An archive of a few entries with one of these names, and what `content` makes.
pub(crate) fn tar(c: &mut Choices<'_>, names: &[&str], content: impl Fn(&mut Choices<'_>) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..c.u8() % 8 {
        let name = c.pick(names);
        let content = content(c);
        out.extend(entry(c, name, &content));
    }
    out.extend([0; 1024]);
    let cut = usize::from(c.u16());
    // Mostly whole.
    out.truncate(if cut.is_multiple_of(8) { cut } else { out.len() }.min(out.len()));
    out
}

fn entry(c: &mut Choices<'_>, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let space = &mut header.as_old_mut().name;
    space[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    match c.u8() {
        1 => header.set_size(c.u64()),
        2 => header.set_entry_type(tar::EntryType::new(c.pick(&KINDS))),
        3 => space_for_size(&mut header, c.take(12)),
        _ => {}
    }
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn space_for_size(header: &mut tar::Header, bytes: &[u8]) {
    header.as_old_mut().size[..bytes.len()].copy_from_slice(bytes);
}
