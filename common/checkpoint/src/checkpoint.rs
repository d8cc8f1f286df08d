//! A checkpoint: its values, and its tensors' numbers when they are asked for.

use std::path::{Path, PathBuf};

use crate::error::{CheckpointError, Fault, Read};
use crate::format::Format;
use crate::pickle::tree::Tree;
use crate::source::Source;
use crate::state_dict::{StateDict, select};
use crate::tensor::Tensor;
use crate::zip::Entry;
use crate::{archive, legacy, limits};

/// A checkpoint of `torch.save`, of which everything has been read but the numbers.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    tree: Tree,
    /// Where each storage's bytes are.
    places: Vec<Entry>,
}

impl Checkpoint {
    /// Reads the checkpoint at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is no checkpoint, or claims what is not so.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let source = Source::open(path).map_err(|fault| fault.in_file(path))?;
        Self::read(source, path)
    }

    /// Reads a checkpoint in memory; errors call it `name`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        Self::read(Source::memory(bytes), Path::new(name))
    }

    fn read(source: Source, path: &Path) -> Result<Self, CheckpointError> {
        let read = Format::sniff(&source).and_then(|format| match format {
            Some(Format::Zip) => archive::read(&source),
            Some(Format::Legacy) => legacy::read(&source),
            other => {
                let found = other.map_or("something else", |_| "a safetensors file");
                Err(Fault::at(0, format!("expected a checkpoint of torch.save, found {found}")))
            }
        });
        let (tree, places) = read.map_err(|fault| fault.in_file(path))?;
        Ok(Self { path: path.into(), source, tree, places })
    }

    /// All values.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The model's weights: the dict of tensors under the key `under`, or else under the first of
    /// [`KEYS`](crate::KEYS) that has one, or else all that there is. A common prefix `module.` is taken off.
    ///
    /// # Errors
    /// There is no such key, there are no tensors, or reading all of them would take many times the file.
    pub fn state_dict(&self, under: Option<&str>) -> Result<StateDict<'_>, CheckpointError> {
        let content = |problem| CheckpointError::Content { path: self.path.clone(), problem };
        let selected = select(&self.tree, under).map_err(content)?;
        let costs = selected.tensors.values().map(|tensor| self.cost(tensor));
        self.afford(costs.fold(0, u64::saturating_add)).map_err(content)?;
        Ok(selected)
    }

    /// A tensor's numbers: little-endian, one after the other, the last dimension changing fastest.
    ///
    /// # Errors
    /// The file cannot be read, or its bytes cannot be unpacked.
    ///
    /// # Panics
    /// The tensor is of another checkpoint.
    pub fn bytes(&self, tensor: &Tensor) -> Result<Vec<u8>, CheckpointError> {
        self.afford(self.cost(tensor))
            .map_err(|problem| CheckpointError::Content { path: self.path.clone(), problem })?;
        self.gather(tensor).map_err(|fault| fault.in_file(&self.path))
    }

    fn gather(&self, tensor: &Tensor) -> Read<Vec<u8>> {
        let width = tensor.dtype().size();
        let place = self.places[tensor.storage as usize];
        let span = archive::unpack(&self.source, place, tensor.offset * width, tensor.span * width)?;
        Ok(if tensor.is_contiguous() { span } else { tensor.gather(&span) })
    }

    /// Bytes that are touched to read a tensor.
    fn cost(&self, tensor: &Tensor) -> u64 {
        let width = tensor.dtype().size();
        let before = if self.places[tensor.storage as usize].deflated { tensor.offset } else { 0 };
        tensor.len().max((before + tensor.span) * width)
    }

    /// Tensors may share storages and repeat numbers, so a small file could hold endlessly many.
    fn afford(&self, cost: u64) -> Result<(), String> {
        let held = self.places.iter().fold(0u64, |sum, place| sum.saturating_add(place.size));
        let most = held.saturating_mul(limits::SHARED).saturating_add(limits::SPARE);
        if cost > most {
            return Err(format!(
                "reading these tensors takes {cost} bytes, of storages with {held}; expected at most {most}: save them \
                 again, each with clone()"
            ));
        }
        Ok(())
    }
}
