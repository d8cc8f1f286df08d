//! The folder of a published model: which of its files are read, and what they are together.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::CheckpointError;

/// What publishers call the file of weights, the first that is there counts: one of these, or such a file's index.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// The same of open_clip's layout. It counts first where open_clip's configuration is there: its publishers put
/// transformers' weights beside it.
const OPEN_CLIP: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];
/// What stands behind the name of a file of weights that was divided.
const INDEX: &str = ".index.json";
/// What is read beside the weights.
const BESIDE: [&str; 9] = [
    "bpe_simple_vocab_16e6.txt.gz",
    "config.json",
    "generation_config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];
/// Bytes of a file of JSON; the largest that publishers bring, an index of a 3-B model's tensors, has some 100 kB.
const MOST_JSON: u64 = 64 << 20;

/// The files of a published model that are read here; whatever else lies beside them does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    root: PathBuf,
    /// Files of tensors, by name.
    weights: Vec<String>,
    /// The other files, by name; an index of weights among them.
    beside: Vec<String>,
}

impl ModelFolder {
    /// The folder at `root`.
    ///
    /// # Errors
    /// There is no folder, no weights are in it, or not all that their index names.
    pub fn open(root: &Path) -> Result<Self, CheckpointError> {
        let content = |problem: String| CheckpointError::Content { path: root.to_owned(), problem };
        if !root.is_dir() {
            return Err(content("expected the folder of a published model, found none".to_owned()));
        }
        let there = |name: &str| root.join(name).is_file();
        let mut beside: Vec<String> = BESIDE.into_iter().filter(|name| there(name)).map(str::to_owned).collect();
        let both = if there("open_clip_config.json") { [OPEN_CLIP, WEIGHTS] } else { [WEIGHTS, OPEN_CLIP] };
        let weights = both.into_iter().flatten().find_map(|name| {
            let index = format!("{name}{INDEX}");
            match (there(&index), there(name)) {
                (true, _) => Some((vec![], Some(index))),
                (false, true) => Some((vec![name.to_owned()], None)),
                (false, false) => None,
            }
        });
        let weights = match weights {
            Some((_, Some(index))) => {
                let shards = shards(&root.join(&index))?;
                if let Some(missing) = shards.iter().find(|shard| !there(shard)) {
                    return Err(content(format!(
                        "{index} names {} files of weights, and {missing} is not there; fetch it too",
                        shards.len()
                    )));
                }
                beside.push(index);
                shards.into_iter().collect()
            }
            Some((weights, None)) => weights,
            None => vec![only_weights(root)?.ok_or_else(|| {
                content(format!(
                    "expected a file of weights such as {} (or its {INDEX} with the files that it names), found none",
                    WEIGHTS[0]
                ))
            })?],
        };
        beside.sort();
        Ok(Self { root: root.to_owned(), weights, beside })
    }

    /// The folder of the model called `name` in `dir`, if there is one.
    ///
    /// # Errors
    /// It is there, and is none; see [`Self::open`].
    pub fn find(dir: &Path, name: &str) -> Result<Option<Self>, CheckpointError> {
        let root = dir.join(name);
        if root.exists() { Self::open(&root).map(Some) } else { Ok(None) }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files of tensors.
    pub fn weights(&self) -> impl Iterator<Item = PathBuf> {
        self.weights.iter().map(|name| self.root.join(name))
    }

    /// All files that are read, by name, in order.
    pub fn files(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.weights.iter().chain(&self.beside).map(String::as_str).collect();
        all.sort_unstable();
        all
    }

    /// The JSON object in a file of the folder; `None` if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is no object.
    pub fn json(&self, name: &str) -> Result<Option<Value>, CheckpointError> {
        if self.beside.iter().any(|n| n == name) { json(&self.root.join(name)).map(Some) } else { Ok(None) }
    }

    /// SHA-256 of what `sha256sum` prints of [`Self::files`] in their order, which identifies the model. `tell` hears of
    /// bytes that were read, and of how many.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self, tell: &mut dyn FnMut(u64, u64)) -> Result<String, CheckpointError> {
        let files = self.files();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CheckpointError::Io { path, source }
        };
        let mut total = 0;
        for name in &files {
            let path = self.root.join(name);
            total += fs::metadata(&path).map_err(failed(&path))?.len();
        }
        let (mut hashes, mut done) = (Vec::new(), 0);
        for name in files {
            let path = self.root.join(name);
            let hash = sha256(&path, &mut |bytes| {
                done += bytes;
                tell(done, total);
            });
            hashes.push((hash.map_err(failed(&path))?, name));
        }
        Ok(Self::fingerprint_of(hashes.iter().map(|(hash, name)| (hash.as_str(), *name))))
    }

    /// The fingerprint of files whose SHA-256 are known: each with its name, in the order of names.
    pub fn fingerprint_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let mut all = Sha256::new();
        files.into_iter().for_each(|(hash, name)| all.update(format!("{hash}  {name}\n")));
        hex(&all.finalize())
    }
}

/// The files that an index of weights names.
fn shards(index: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    let content = |problem: String| CheckpointError::Content { path: index.to_owned(), problem };
    let document = json(index)?;
    let map = document["weight_map"].as_object().filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| content("expected \"weight_map\" with the file of each tensor, found none".into()))?;
    let shards: Option<BTreeSet<String>> = map.values().map(|name| name.as_str().map(str::to_owned)).collect();
    let shards = shards.ok_or_else(|| content("expected the names of files in \"weight_map\"".into()))?;
    match shards.iter().find(|name| name.contains(['/', '\\']) || *name == ".." || name.is_empty()) {
        Some(name) => Err(content(format!("expected files beside it, found \"{name:.80}\""))),
        None => Ok(shards),
    }
}

/// The only file in a folder that can be one of weights.
fn only_weights(root: &Path) -> Result<Option<String>, CheckpointError> {
    let failed = |source| CheckpointError::Io { path: root.to_owned(), source };
    let mut found: Vec<String> = Vec::new();
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if [".safetensors", ".pth", ".pt", ".bin"].iter().any(|end| name.ends_with(end)) {
            found.push(name);
        }
    }
    found.sort();
    match &found[..] {
        [one, other, ..] => Err(CheckpointError::Ambiguous { one: root.join(one), other: root.join(other) }),
        _ => Ok(found.pop()),
    }
}

fn json(path: &Path) -> Result<Value, CheckpointError> {
    let failed = |source| CheckpointError::Io { path: path.to_owned(), source };
    let content = |problem: String| CheckpointError::Content { path: path.to_owned(), problem };
    let file = fs::File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(MOST_JSON + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MOST_JSON {
        return Err(content(format!("expected at most {MOST_JSON} bytes of JSON, found more")));
    }
    let value: Value = serde_json::from_slice(&text).map_err(|e| content(format!("expected JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(content("expected a JSON object".to_owned())) }
}

fn sha256(path: &Path, tell: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                tell(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).expect("writes"));
        dir
    }

    fn refusal(files: &[(&str, &str)]) -> String {
        ModelFolder::open(folder(files).path()).expect_err("refused").to_string()
    }

    #[test]
    fn the_files_that_are_read_identify_it_and_no_others() {
        let files = [("config.json", "{}"), ("model.safetensors", "abc"), ("README.md", "x")];
        let dir = folder(&files);
        let found = ModelFolder::open(dir.path()).expect("opens");
        assert_eq!(found.files(), ["config.json", "model.safetensors"]);
        let mut told = (0, 0);
        let fingerprint = found.fingerprint(&mut |done, of| told = (done, of)).expect("reads");
        assert_eq!(told, (5, 5));
        // cd DIR && sha256sum config.json model.safetensors | sha256sum
        assert_eq!(fingerprint, "bb26275d74d8b85c193d98418b10723876d6a1ef2da1f60287213e8b8a65bf38");
        fs::write(dir.path().join("README.md"), "y").expect("writes");
        let same = |dir: &Path| ModelFolder::open(dir).and_then(|f| f.fingerprint(&mut |_, _| {})).expect("reads");
        assert_eq!(same(dir.path()), fingerprint);
        fs::write(dir.path().join("config.json"), "{ }").expect("writes");
        assert_ne!(same(dir.path()), fingerprint);
    }

    #[test]
    fn divided_weights_are_all_there_or_the_missing_one_is_named() {
        let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
        let files = [("model.safetensors.index.json", index), ("m-1.safetensors", ""), ("m-2.safetensors", "")];
        let dir = folder(&files);
        let found = ModelFolder::open(dir.path()).expect("opens");
        assert_eq!(found.weights().count(), 2);
        assert_eq!(found.files(), ["m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json"]);
        let error = refusal(&files[..2]);
        assert!(error.contains("names 2 files of weights, and m-2.safetensors is not there"), "{error}");
        for (text, expected) in [
            ("{}", "weight_map"),
            (r#"{"weight_map": {"a": "../x"}}"#, "found \"../x\""),
            (r#"{"weight_map": {"a": 3}}"#, "names of files"),
            ("nonsense", "expected JSON"),
            ("[]", "a JSON object"),
        ] {
            let error = refusal(&[("model.safetensors.index.json", text)]);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn open_clips_weights_count_beside_open_clips_configuration() {
        let both = [("model.safetensors", "a"), ("open_clip_model.safetensors", "b"), ("config.json", "{}")];
        let weights = |files: &[(&str, &str)]| {
            let dir = folder(files);
            let found = ModelFolder::open(dir.path()).expect("opens");
            found.weights().map(|w| w.file_name().expect("a name").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(weights(&both), ["model.safetensors"]);
        let with = [&both[..], &[("open_clip_config.json", "{}")]].concat();
        assert_eq!(weights(&with), ["open_clip_model.safetensors"]);
    }

    #[test]
    fn weights_of_any_name_are_found_if_they_are_the_only_ones() {
        let dir = folder(&[("dinov2_vits14_pretrain.pth", "")]);
        assert_eq!(ModelFolder::open(dir.path()).expect("opens").files(), ["dinov2_vits14_pretrain.pth"]);
        assert!(refusal(&[("a.pth", ""), ("b.pth", "")]).contains("either could be meant"));
        assert!(refusal(&[("config.json", "{}")]).contains("such as model.safetensors"));
        let none = ModelFolder::open(Path::new("/nowhere/at/all")).expect_err("none").to_string();
        assert!(none.contains("expected the folder of a published model"), "{none}");
    }
}
