//! Weights files: safetensors, under public key names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file could not be opened, read or written.
    #[error("cannot access the weights file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what its name claims.
    #[error("{path} is not a usable safetensors file: {reason}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Named tensors, in host memory.
#[derive(Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// A file that is not there, is cut short, has a header that lies, or holds values of a kind that no model uses.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.into(), source })?;
        let format = |reason: String| WeightsError::Format { path: path.into(), reason };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| format(format!("{e} (the file has {} bytes; was it cut short?)", bytes.len())))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let kind = kind(view.dtype())
                .ok_or_else(|| format(format!("tensor {name} holds {:?}, which no model here uses", view.dtype())))?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            tensors.insert(name.to_owned(), Tensor::from_data_size(view.data(), &shape, kind));
        }
        Ok(Self { tensors })
    }

    /// From tensors in memory.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self { tensors: tensors.into_iter().collect() }
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Writes a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written to, or the disk is full.
    pub fn write(&self, path: &Path) -> Result<(), WeightsError> {
        let io = |source| WeightsError::Io { path: path.into(), source };
        let partial = path.with_extension("partial");
        let named: Vec<(&str, &Tensor)> = self.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        Tensor::write_safetensors(&named, &partial).map_err(|e| io(std::io::Error::other(e.to_string())))?;
        std::fs::File::open(&partial).and_then(|f| f.sync_all()).map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}
