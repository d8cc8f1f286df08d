//! Weights files under public key names: safetensors, or a checkpoint of `torch.save`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use fleet_checkpoint::{Checkpoint, CheckpointError, Format, SafeFile, View};
use fleet_common::spec::Recipe;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

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
    /// The file is a checkpoint of `torch.save` that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Key of the file's metadata under which stands, as JSON, what we know of weights that we wrote. It is one key,
/// because the metadata of a safetensors file have no order: equal weights are equal files.
const ABOUT: &str = "fleet";
/// Where older files of ours name the classes of the head, one per line.
const CLASSES: &str = "classes";

/// What a file of ours says beside its tensors. Public checkpoints say nothing.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct About {
    /// What the head tells apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
    /// What images went through before they reached the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<Recipe>,
}

/// Named tensors, in host memory.
#[derive(Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    about: About,
    /// Files that tensors lie in. Behind them, because they are let go of last.
    maps: Vec<Mmap>,
}

impl Weights {
    /// Reads a safetensors file or a checkpoint of `torch.save`, whichever its content says that it is.
    ///
    /// # Errors
    /// A file that is not there, is cut short, has a header that lies, or holds values of a kind that no model uses.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        if Format::of(path).is_ok_and(|format| format.is_some_and(Format::is_pickle)) {
            return Self::read_checkpoint(path);
        }
        let bytes = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.into(), source })?;
        Self::of_safetensors(path, &bytes, |view, kind| Tensor::from_data_size(view.bytes, &view.shape, kind))
    }

    /// The same without reading what nobody asks for: tensors of a safetensors file lie in the file until they are copied
    /// elsewhere, so that a model of any size takes no memory but its own. Whoever shortens the file meanwhile ends this
    /// process.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn map(path: &Path) -> Result<Self, WeightsError> {
        if Format::of(path).is_ok_and(|format| format.is_some_and(Format::is_pickle)) {
            return Self::read_checkpoint(path);
        }
        let io = |source| WeightsError::Io { path: path.into(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        // SAFETY: published weights are not written to; what a file that changes nevertheless does is said above.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let weights = Self::of_safetensors(path, &map, |view, kind| {
            if !(view.bytes.as_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes()) {
                return Tensor::from_data_size(view.bytes, &view.shape, kind);
            }
            // SAFETY: the bytes are as many as shape and kind say, and lie in the map, which is kept as long as the tensor; a
            // tensor of these weights is only ever read.
            unsafe { Tensor::from_blob(view.bytes.as_ptr(), &view.shape, &strides(&view.shape), kind, Device::Cpu) }
        })?;
        Ok(Self { maps: vec![map], ..weights })
    }

    fn of_safetensors(
        path: &Path,
        bytes: &[u8],
        tensor: impl Fn(&View<'_>, Kind) -> Tensor,
    ) -> Result<Self, WeightsError> {
        let format = |reason: String| WeightsError::Format { path: path.into(), reason };
        let file = SafeFile::read(bytes).map_err(format)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors {
            let made = tensor(&view, kind_in_checkpoint(view.dtype));
            tensors.insert(name, made);
        }
        let said = |key: &str| file.metadata.get(key);
        let older = || About { classes: said(CLASSES).map(|c| c.lines().map(str::to_owned).collect()), recipe: None };
        let about = match said(ABOUT) {
            Some(json) => serde_json::from_str(json).map_err(|e| format(format!("its metadata \"{ABOUT}\": {e}")))?,
            None => older(),
        };
        Ok(Self { tensors, about, maps: Vec::new() })
    }

    fn read_checkpoint(path: &Path) -> Result<Self, WeightsError> {
        let checkpoint = Checkpoint::open(path)?;
        let dict = checkpoint.state_dict(None)?;
        for skipped in &dict.skipped {
            tracing::info!("{}: passed over {} ({})", path.display(), skipped.name, skipped.what);
        }
        let mut tensors = BTreeMap::new();
        for (name, tensor) in dict.tensors {
            let shape: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
            let bytes = checkpoint.bytes(tensor)?;
            tensors.insert(name, Tensor::from_data_size(&bytes, &shape, kind_in_checkpoint(tensor.dtype())));
        }
        Ok(Self { tensors, ..Self::default() })
    }

    /// From tensors in memory.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self { tensors: tensors.into_iter().collect(), ..Self::default() }
    }

    /// These, and the tensors of another file of the same model.
    pub fn with(mut self, other: Self) -> Self {
        self.tensors.extend(other.tensors);
        self.maps.extend(other.maps);
        self
    }

    /// Names the classes that the head tells apart.
    pub fn with_classes(self, classes: &[String]) -> Self {
        Self { about: About { classes: Some(classes.to_vec()), ..self.about }, ..self }
    }

    /// The classes that the head tells apart, where the file names them.
    pub fn classes(&self) -> Option<&[String]> {
        self.about.classes.as_deref()
    }

    /// Says what images went through before they reached the model.
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        Self { about: About { recipe: Some(recipe), ..self.about }, ..self }
    }

    /// What images went through before they reached the model, where the file says it.
    pub fn recipe(&self) -> Option<Recipe> {
        self.about.recipe
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The same without a prefix that all names share because the model was saved as a part of something: transformers
    /// puts `model.` before the names of MambaVision.
    pub fn without_wrapper(self) -> Self {
        const WRAPPER: &str = "model.";
        if self.tensors.keys().all(|name| name.starts_with(WRAPPER)) {
            let tensors = self.tensors.into_iter().map(|(name, t)| (name[WRAPPER.len()..].to_owned(), t));
            Self { tensors: tensors.collect(), about: self.about, maps: self.maps }
        } else {
            self
        }
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
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let known = self.about.classes.is_some() || self.about.recipe.is_some();
        let about = known.then(|| serde_json::to_string(&self.about).expect("our own types are JSON"));
        let metadata = about.into_iter().map(|about| (ABOUT.to_owned(), about)).collect();
        write_safetensors(path, tensors, |_| metadata).map_err(io)
    }
}

/// Writes named tensors as a safetensors file, whole or not at all. `metadata` is made from the names and bytes.
///
/// # Errors
/// The disk refused.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: impl FnOnce(&[(&str, &[u8])]) -> HashMap<String, String>,
) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let bytes: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .filter_map(|(name, tensor)| {
            let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.to_device(Device::Cpu).contiguous().copy_data_u8(&mut bytes, tensor.numel());
            Some((name, dtype(tensor.kind())?, tensor.size().iter().map(|&n| n as usize).collect(), bytes))
        })
        .collect();
    let named: Vec<(&str, &[u8])> = bytes.iter().map(|(name, _, _, bytes)| (*name, bytes.as_slice())).collect();
    let metadata = Some(metadata(&named)).filter(|m| !m.is_empty());
    let views = bytes
        .iter()
        .map(|(name, dtype, shape, bytes)| TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(std::io::Error::other)?;
    let written = safetensors::serialize_to_file(views, metadata, &partial)
        .map_err(std::io::Error::other)
        .and_then(|()| std::fs::File::open(&partial)?.sync_all())
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // Half a file helps nobody, least of all on a full disk.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// Of a tensor whose last dimension changes fastest.
fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

/// How files call the kinds of values that models use.
const KINDS: [(Dtype, Kind); 10] = [
    (Dtype::F64, Kind::Double),
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::I8, Kind::Int8),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];

/// The kind of values that a file's `dtype` means, if any model uses it.
pub fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(d, _)| *d == dtype).map(|(_, kind)| *kind)
}

fn dtype(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, k)| *k == kind).map(|(dtype, _)| *dtype)
}

/// The kind of values that a checkpoint's `dtype` means.
fn kind_in_checkpoint(dtype: fleet_checkpoint::Dtype) -> Kind {
    use fleet_checkpoint::Dtype as D;
    match dtype {
        D::F64 => Kind::Double,
        D::F32 => Kind::Float,
        D::F16 => Kind::Half,
        D::BF16 => Kind::BFloat16,
        D::I64 => Kind::Int64,
        D::I32 => Kind::Int,
        D::I16 => Kind::Int16,
        D::I8 => Kind::Int8,
        D::U8 => Kind::Uint8,
        D::Bool => Kind::Bool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint that torch has written.
    fn sample(name: &str) -> Weights {
        let path = format!("{}/../../common/checkpoint/tests/samples/{name}", env!("CARGO_MANIFEST_DIR"));
        Weights::read(Path::new(&path)).expect("a file of the repository")
    }

    #[test]
    fn what_lies_in_a_file_is_what_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("w.safetensors");
        let one = |shape: &[i64], kind| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
        let tensors = [
            ("a".to_owned(), one(&[3, 4, 5], Kind::Float)),
            ("b".to_owned(), one(&[7], Kind::Half)),
            ("c".to_owned(), one(&[], Kind::Double)),
            ("d".to_owned(), one(&[0, 2], Kind::BFloat16)),
        ];
        Weights::from_tensors(tensors).write(&path).expect("writes");
        let (mapped, read) = (Weights::map(&path).expect("maps"), Weights::read(&path).expect("reads"));
        assert_eq!(mapped.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        for name in mapped.names() {
            let (mapped, read) = (mapped.get(name).expect("there"), read.get(name).expect("there"));
            assert!(mapped.equal(read) && mapped.kind() == read.kind() && mapped.size() == read.size(), "{name}");
        }
        let joined = Weights::map(&path).expect("maps").with(mapped);
        assert_eq!(joined.names().count(), 4);
    }

    #[test]
    fn checkpoints_of_torch_are_read_whatever_they_are_called() {
        let (zip, legacy) = (sample("views.pth"), sample("views-legacy.pth"));
        assert_eq!(zip.names().collect::<Vec<_>>(), legacy.names().collect::<Vec<_>>());
        assert!(zip.names().all(|name| zip.get(name).expect("there").equal(legacy.get(name).expect("there"))));
        let base = zip.get("base").expect("there");
        assert_eq!(base.size(), [4, 6]);
        assert!(zip.get("transposed").expect("there").equal(&base.transpose(0, 1)));
        assert!(zip.get("column").expect("there").equal(&base.select(1, 3)));
        assert_eq!(zip.get("permuted").expect("there").kind(), Kind::BFloat16);
        assert_eq!(sample("kinds.pth").get("single").expect("there").int64_value(&[]), -7);
        // What is beside the weights, and what parallel training puts before their names, is gone.
        let trained: Vec<_> = sample("trained.pth").names().map(str::to_owned).collect();
        assert_eq!(trained, sample("parallel.pth.tar").names().collect::<Vec<_>>());
        assert!(trained.contains(&"proj.weight".to_owned()));
        for (dtype, kind) in KINDS {
            let name = format!("kind.{}", format!("{dtype:?}").to_uppercase());
            assert_eq!(sample("kinds.pth").get(&name).expect("there").kind(), kind, "{name}");
        }
    }

    #[test]
    fn a_wrapper_around_the_whole_model_is_taken_off_and_no_other() {
        let names = |names: &[&str]| {
            let weights = Weights::from_tensors(names.iter().map(|n| ((*n).to_owned(), Tensor::from(1i64))));
            weights.without_wrapper().names().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names(&["model.head.bias", "model.norm.weight"]), ["head.bias", "norm.weight"]);
        assert_eq!(names(&["model.head.bias", "norm.weight"]), ["model.head.bias", "norm.weight"]);
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_half_written_stays() {
        let dir = std::env::temp_dir().join(format!("fleet-weights-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let path = dir.join("w.safetensors");
        let values = Tensor::from_slice(&[1.5f32, -2.0, 0.25, 7.0, 0.0, 3.0]).view([2, 3]);
        let transposed = values.transpose(0, 1);
        let written = Weights::from_tensors([
            ("a.weight".to_owned(), transposed.shallow_clone()),
            ("b".to_owned(), Tensor::from(3i64)),
        ]);
        written.with_classes(&["one two".to_owned(), "three".to_owned()]).write(&path).expect("writes");
        let read = Weights::read(&path).expect("reads");
        assert!(read.get("a.weight").expect("there").equal(&transposed));
        assert_eq!(read.get("b").expect("there").int64_value(&[]), 3);
        assert_eq!(read.classes(), Some(&["one two".to_owned(), "three".to_owned()][..]));
        assert_eq!(std::fs::read_dir(&dir).expect("reads").count(), 1);
        assert!(Weights::from_tensors([]).write(&dir.join("no/such/folder.safetensors")).is_err());
        std::fs::remove_dir_all(&dir).expect("removes");
    }
}
