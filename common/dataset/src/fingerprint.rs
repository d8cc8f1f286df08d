//! What a data set's fingerprint is the hash of.
//!
//! All are SHA-256, in hexadecimal, over a line that names the definition and its version, and then:
//!
//! - CIFAR-100: the SHA-256 of `train.bin`, the SHA-256 of `test.bin`; the same for the folder and the archive, and for
//!   Parquet files, whose images are made into these records.
//! - image files: for each image, sorted by half (train before test), class and file name: half, class and file name,
//!   each ended by a zero byte, and the SHA-256 of the file's content.
//!
//! So it depends on what is trained on, and not on where the files lie, how the file system orders them, when they
//! were written, or on files that the reader does not use.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use fleet_common::canonical;
use sha2::{Digest, Sha256};

use crate::files::Files;
use crate::{DatasetError, Split};

/// Bytes read between two reports of progress.
const CHUNK: usize = 1 << 20;

/// The fingerprint of CIFAR-100's two files.
pub(crate) fn of_cifar(train: &[u8], test: &[u8], progress: &mut dyn FnMut(u64, u64)) -> String {
    let total = (train.len() + test.len()) as u64;
    let mut done = 0;
    let mut whole = Sha256::new_with_prefix(b"fleet-dataset cifar100 1\n");
    for bytes in [train, test] {
        let mut hash = Sha256::new();
        for chunk in bytes.chunks(CHUNK) {
            hash.update(chunk);
            done += chunk.len() as u64;
            progress(done, total);
        }
        whole.update(hash.finalize());
    }
    canonical::hex(&whole.finalize())
}

/// The fingerprint of image files.
pub(crate) fn of_files(files: &Files, progress: &mut dyn FnMut(u64, u64)) -> Result<String, DatasetError> {
    let mut total = 0;
    for split in Split::ALL {
        for index in 0..files.half(split).images.len() {
            let path = files.path(split, index);
            total += path.metadata().map_err(DatasetError::io(&path, "look at it"))?.len();
        }
    }
    let mut done = 0;
    let mut buffer = vec![0; CHUNK];
    let mut whole = begin_images();
    for split in Split::ALL {
        for (index, image) in files.half(split).images.iter().enumerate() {
            let digest = digest_file(&files.path(split, index), &mut buffer, &mut |bytes| {
                done += bytes;
                // A file that grows meanwhile must not make a share above 1.
                progress(done, total.max(done));
            })?;
            add(&mut whole, split, &files.classes[image.class as usize], &image.file, &digest);
        }
    }
    Ok(canonical::hex(&whole.finalize()))
}

/// The fingerprint of image files, before the first of them.
pub(crate) fn begin_images() -> Sha256 {
    Sha256::new_with_prefix(b"fleet-dataset images 1\n")
}

/// Adds the next image file.
pub(crate) fn add(whole: &mut Sha256, split: Split, class: &str, file: &str, content: &[u8; 32]) {
    for name in [split.name(), class, file] {
        whole.update(name.as_bytes());
        whole.update([0]);
    }
    whole.update(content);
}

fn digest_file(path: &Path, buffer: &mut [u8], read: &mut dyn FnMut(u64)) -> Result<[u8; 32], DatasetError> {
    let mut file = File::open(path).map_err(DatasetError::io(path, "open it"))?;
    let mut hash = Sha256::new();
    loop {
        let bytes = match file.read(buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(DatasetError::io(path, "read it")(error)),
        };
        hash.update(&buffer[..bytes]);
        read(bytes as u64);
    }
}
