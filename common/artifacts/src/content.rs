//! What a file holds, in short.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::Digest as _;

use crate::name::Sha256;

/// Read at once.
const BLOCK: usize = 1 << 20;

/// The SHA-256 of a file. It blocks.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of(path: &Path) -> std::io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(Sha256::of_digest(hasher.finalize())),
            n => hasher.update(&block[..n]),
        }
    }
}
