//! Checkpoints of `torch.save`.

use fleet_checkpoint::Checkpoint;

/// Reads a checkpoint to its last number.
pub fn checkpoint(bytes: &[u8]) {
    let Ok(read) = Checkpoint::from_bytes("fuzzed", bytes.to_vec()) else { return };
    let Ok(dict) = read.state_dict(None) else { return };
    for tensor in dict.tensors.values() {
        if let Ok(numbers) = read.bytes(tensor) {
            assert_eq!(numbers.len() as u64, tensor.len(), "a tensor has the bytes that it says");
        }
    }
}

/// The same for a pickle alone, in an archive that is in order, beside a storage "0" of 24 bytes: checksums, offsets and
/// names of the archive would keep a fuzzer from its pickle.
pub fn pickle(bytes: &[u8]) {
    let files: [(&str, &[u8]); 3] = [("a/data.pkl", bytes), ("a/data/0", &[0x3f; 24]), ("a/byteorder", b"little")];
    checkpoint(&zip(&files));
}

/// A zip archive of files that are stored as they are.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let (at, size) = ((out.len() as u32).to_le_bytes(), (content.len() as u32).to_le_bytes());
        let name_len = (name.len() as u16).to_le_bytes();
        out.extend(b"PK\x03\x04\x14\0");
        out.extend([0; 20]);
        out.extend(name_len);
        out.extend([0; 2]);
        out.extend(name.bytes());
        out.extend(*content);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend([0; 12]);
        directory.extend(size);
        directory.extend(size);
        directory.extend(name_len);
        directory.extend([0; 12]);
        directory.extend(at);
        directory.extend(name.bytes());
    }
    let (at, len) = ((out.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    let count = (files.len() as u16).to_le_bytes();
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    for field in [&count[..], &count, &len, &at, &[0; 2]] {
        out.extend(field);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the fuzzer would look at nothing.
    #[test]
    fn the_archive_around_a_pickle_is_one() {
        let found = Checkpoint::from_bytes("test", zip(&[("a/data.pkl", b"\x80\x02}.")])).expect("reads");
        assert!(found.state_dict(None).is_err_and(|e| e.to_string().contains("tensors")));
    }
}
