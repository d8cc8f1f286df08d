//! What a weights file says of itself: the header of a safetensors file, or the values of a checkpoint of `torch.save`.
//!
//! The numbers are not read, and no file's own word for a length is believed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use fleet_checkpoint::{Checkpoint, CheckpointError, Format};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::DownloadError;

/// Headers of vision backbones have some 20 kB; one of this size would name 100,000 tensors.
const LONGEST_HEADER: u64 = 16 << 20;

/// What a weights file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holds {
    /// Tensors.
    pub tensors: usize,
    /// Numbers in all of them.
    pub numbers: u64,
    /// Tensors by the type of their numbers, such as F32.
    pub types: BTreeMap<String, usize>,
    /// The shape of each, by name.
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// What is there besides, in words: an optimiser's state, arguments.
    pub beside: Vec<String>,
}

/// Reads what the file at `path` says, and compares it with the file's length.
///
/// # Errors
/// The file cannot be read, or is no whole weights file.
pub fn read(path: &Path) -> Result<Holds, DownloadError> {
    let pickle = Format::of(path).is_ok_and(|format| format.is_some_and(Format::is_pickle));
    if pickle { Ok(checkpoint(path)?) } else { safetensors(path) }
}

fn checkpoint(path: &Path) -> Result<Holds, CheckpointError> {
    let checkpoint = Checkpoint::open(path)?;
    let dict = checkpoint.state_dict(None)?;
    let mut types = BTreeMap::new();
    for tensor in dict.tensors.values() {
        *types.entry(tensor.dtype().name().to_owned()).or_default() += 1;
    }
    let beside = dict.skipped.iter().map(|s| format!("{} ({})", s.name, s.what)).collect();
    let numbers = dict.tensors.values().map(|tensor| tensor.numel()).sum();
    let shapes = dict.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
    Ok(Holds { tensors: dict.tensors.len(), numbers, types, shapes, beside })
}

fn safetensors(path: &Path) -> Result<Holds, DownloadError> {
    let wrong = |message: String| DownloadError::layout(path, format!("{message}. Fetch or save it again"));
    let mut file = File::open(path).map_err(DownloadError::io(path, "open it"))?;
    let length = file.metadata().map_err(DownloadError::io(path, "look at it"))?.len();
    if length < 8 {
        return Err(wrong(format!("has {length} bytes; expected a safetensors file, which has more than 8")));
    }
    let mut first = [0; 8];
    file.read_exact(&mut first).map_err(DownloadError::io(path, "read it"))?;
    let header = u64::from_le_bytes(first);
    if header > LONGEST_HEADER || header > length - 8 {
        return Err(wrong(format!(
            "says that its header has {header} bytes; expected at most {}, for the file has {length}. It is cut off, or \
             not a safetensors file",
            LONGEST_HEADER.min(length - 8)
        )));
    }
    let mut json = vec![0; header as usize];
    file.read_exact(&mut json).map_err(DownloadError::io(path, "read it"))?;
    // The crate holds offsets, shapes and types against each other.
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|e| wrong(format!("has no safetensors header: {e}")))?;
    let (expected, found) = (metadata.data_len() as u64, length - 8 - header);
    if expected != found {
        return Err(wrong(format!("has {found} bytes of numbers; its header says {expected}")));
    }
    let tensors = metadata.tensors();
    let mut types = BTreeMap::new();
    for info in tensors.values() {
        *types.entry(format!("{:?}", info.dtype)).or_default() += 1;
    }
    let numbers = tensors.values().map(|info| info.shape.iter().product::<usize>() as u64).sum();
    let shape = |info: &TensorInfo| info.shape.iter().map(|n| *n as u64).collect();
    let shapes = tensors.iter().map(|(name, info)| (name.clone(), shape(info))).collect();
    Ok(Holds { tensors: tensors.len(), numbers, types, shapes, beside: Vec::new() })
}
