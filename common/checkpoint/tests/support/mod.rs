//! Pickles and archives written byte by byte.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::Write as _;

use fleet_checkpoint::{Checkpoint, CheckpointError};

/// An entry of an archive: name, content, whether it is deflated.
pub(crate) type File<'a> = (&'a str, &'a [u8], bool);

/// What an archive may say wrongly.
#[derive(Default)]
pub(crate) struct Lies {
    /// Sizes of unpacked entries, by name.
    pub(crate) sizes: Vec<(&'static str, u64)>,
    /// With 64-bit sizes and places throughout.
    pub(crate) wide: bool,
}

/// A zip archive.
pub(crate) fn zip(files: &[File]) -> Vec<u8> {
    zip_with(files, &Lies::default())
}

/// A zip archive that says something of its own.
pub(crate) fn zip_with(files: &[File], lies: &Lies) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content, deflate) in files {
        let packed = if *deflate { deflated(content) } else { content.to_vec() };
        let size = lies.sizes.iter().find(|(n, _)| n == name).map_or(content.len() as u64, |(_, size)| *size);
        let at = out.len() as u64;
        let method = if *deflate { 8u16 } else { 0 };
        out.extend(b"PK\x03\x04\x14\0\0\0");
        out.extend(method.to_le_bytes());
        out.extend([0; 16]);
        out.extend((name.len() as u16).to_le_bytes());
        out.extend([0, 0]);
        out.extend(name.bytes());
        out.extend(&packed);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0");
        directory.extend(method.to_le_bytes());
        directory.extend([0; 8]);
        let mut wide = Vec::new();
        for number in [packed.len() as u64, size] {
            directory.extend(if lies.wide { u32::MAX } else { number as u32 }.to_le_bytes());
        }
        if lies.wide {
            // Another field first, which is none of ours.
            wide.extend([0x55, 0x54, 1, 0, 9, 1, 0, 24, 0]);
            for number in [size, packed.len() as u64, at] {
                wide.extend(number.to_le_bytes());
            }
        }
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend((wide.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(if lies.wide { u32::MAX } else { at as u32 }.to_le_bytes());
        directory.extend(name.bytes());
        directory.extend(&wide);
    }
    let (at, len) = (out.len() as u64, directory.len() as u64);
    out.extend(&directory);
    if lies.wide {
        let end = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        // Two versions and two disks.
        out.extend([0; 12]);
        for number in [files.len() as u64, files.len() as u64, len, at] {
            out.extend(number.to_le_bytes());
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(end.to_le_bytes());
        out.extend([1, 0, 0, 0]);
    }
    out.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend(if lies.wide { u16::MAX } else { files.len() as u16 }.to_le_bytes());
    }
    out.extend(if lies.wide { u32::MAX } else { len as u32 }.to_le_bytes());
    out.extend(if lies.wide { u32::MAX } else { at as u32 }.to_le_bytes());
    out.extend([0, 0]);
    out
}

pub(crate) fn deflated(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(content).expect("into memory");
    packer.finish().expect("into memory")
}

/// An archive with this pickle, and a storage "0" of these bytes.
pub(crate) fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle, false), ("a/data/0", storage, false), ("a/byteorder", b"little", false)])
}

/// Reads an archive with this pickle and a storage "0" of six floats.
pub(crate) fn read(pickle: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_bytes("test.pth", archive(pickle, &[0; 24]))
}

/// What is wrong with it.
pub(crate) fn refused(pickle: &[u8]) -> String {
    let checkpoint = match read(pickle) {
        Err(e) => return e.to_string(),
        Ok(checkpoint) => checkpoint,
    };
    checkpoint.state_dict(None).expect_err("must be refused").to_string()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn int(number: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &number.to_le_bytes()].concat()
}

/// A tuple of integers.
pub(crate) fn tuple(numbers: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), numbers.iter().flat_map(|n| int(*n)).collect(), b"t".to_vec()].concat()
}

/// Storage "0" of `numel` floats.
pub(crate) fn storage(numel: i64) -> Vec<u8> {
    let parts = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), int(numel)];
    [b"(".to_vec(), parts.concat(), b"tQ".to_vec()].concat()
}

/// A tensor of storage "0".
pub(crate) fn tensor(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let rest = [storage(numel), int(offset), tuple(shape), tuple(strides), b"\x89N".to_vec()].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(), rest, b"tR".to_vec()].concat()
}

/// A dict of these keys and pickled values.
pub(crate) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let inside = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".to_vec(), inside, b"u".to_vec()].concat()
}

/// A pickle that ends with this value.
pub(crate) fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}
