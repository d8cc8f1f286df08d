//! Which Parquet files a data set has: `train-00000-of-00002.parquet`, `test.parquet`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{DatasetError, Split};

/// The files of both halves.
#[derive(Debug)]
pub(crate) struct Shards {
    root: PathBuf,
    /// What the root is called below a data folder.
    called: String,
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
}

/// Number and count of a file, where its name has them.
type Part = Option<(u32, u32)>;

impl Shards {
    /// Looks into `root` and the folders in it; the hub's own copies have their files one folder down.
    pub(super) fn find(root: &Path, called: &str) -> Result<Option<Self>, DatasetError> {
        let mut folders = BTreeMap::new();
        for folder in std::iter::once(root.to_owned()).chain(entries(root).into_iter().filter(|p| p.is_dir())) {
            let mut splits: BTreeMap<String, BTreeMap<PathBuf, Part>> = BTreeMap::new();
            for file in entries(&folder) {
                if let Some((split, part)) = file.file_name().and_then(|n| parse(n.to_str()?)) {
                    splits.entry(split).or_default().insert(file, part);
                }
            }
            if !splits.is_empty() {
                folders.insert(folder, splits);
            }
        }
        if folders.len() > 1 {
            let names: Vec<String> = folders.keys().map(|f| f.display().to_string()).collect();
            let found = format!("has Parquet files in several folders ({}); keep one of them", names.join(", "));
            return Err(DatasetError::layout(root, found));
        }
        let Some((folder, mut splits)) = folders.pop_first() else { return Ok(None) };
        for parts in splits.values() {
            complete(&folder, parts)?;
        }
        let mut take = |names: &[&str]| -> Vec<PathBuf> {
            let found = names.iter().find_map(|name| splits.remove(*name));
            found.into_iter().flat_map(BTreeMap::into_keys).collect()
        };
        let mut train = take(&["train"]);
        let validation = take(&["validation", "valid", "val"]);
        let mut test = take(&["test"]);
        // As with folders: what is held back for validation is tested on where there is no test split, and trained on
        // where there is.
        if test.is_empty() {
            test = validation
        } else {
            train.extend(validation)
        }
        if train.is_empty() || test.is_empty() {
            let lacks = if train.is_empty() { "train" } else { "test" };
            return Err(DatasetError::layout(
                &folder,
                format!(
                    "has no Parquet file of the split {lacks}; expected train-00000-of-00001.parquet and \
                     test-00000-of-00001.parquet. {}",
                    crate::error::listing(&folder)
                ),
            ));
        }
        Ok(Some(Self { root: root.to_owned(), called: called.to_owned(), train, test }))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn of(&self, split: Split) -> &[PathBuf] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    /// All files, with their places below a data folder.
    pub(crate) fn places(&self) -> Vec<(String, PathBuf)> {
        let named = self.train.iter().chain(&self.test).map(|path| {
            let below = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned();
            (format!("{}/{below}", self.called), path.clone())
        });
        named.collect()
    }
}

/// A folder's entries, sorted; none where it cannot be listed.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).map(|entries| entries.flatten().map(|e| e.path()).collect());
    let mut paths: Vec<PathBuf> = listed.unwrap_or_default();
    paths.sort();
    paths
}

/// A split and which part of it: `train-00000-of-00002-0123abcd.parquet`, `test.parquet`.
fn parse(name: &str) -> Option<(String, Part)> {
    let stem = name.strip_suffix(".parquet")?;
    let (split, rest) = stem.split_once('-').unwrap_or((stem, ""));
    if !["train", "validation", "valid", "val", "test"].contains(&split) {
        return None;
    }
    let mut rest = rest.split('-');
    let part = match (rest.next(), rest.next(), rest.next()) {
        (Some(number), Some("of"), Some(count)) => number.parse().ok().zip(count.parse().ok()),
        _ => None,
    };
    Some((split.to_owned(), part))
}

/// Refuses a split of which a part is missing.
fn complete(folder: &Path, parts: &BTreeMap<PathBuf, Part>) -> Result<(), DatasetError> {
    let numbered: Vec<(u32, u32)> = parts.values().filter_map(|p| *p).collect();
    let Some((_, count)) = numbered.first() else { return Ok(()) };
    let right = numbered.len() == parts.len()
        && parts.len() == *count as usize
        && numbered.iter().enumerate().all(|(at, (number, of))| (*number as usize, of) == (at, count));
    if right {
        return Ok(());
    }
    let names: Vec<String> =
        parts.keys().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).take(8).collect();
    Err(DatasetError::layout(
        folder,
        format!(
            "expected {count} parts, 00000 to {:05}, each once; found {} ({})",
            count.saturating_sub(1),
            parts.len(),
            names.join(", ")
        ),
    ))
}
