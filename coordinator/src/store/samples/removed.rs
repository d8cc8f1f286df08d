//! What was removed by retention, so that asking for it says so: a line of JSON each.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::SamplesError;

/// That samples were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The chunk file's name without its extension.
    pub name: String,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// How large the file was.
    pub bytes: u64,
    /// The option that asked for it, as it is typed.
    pub rule: String,
}

/// All removals.
#[derive(Debug)]
pub(in crate::store) struct Removed {
    path: PathBuf,
    known: Mutex<HashMap<String, Removal>>,
}

impl Removed {
    /// Those that the file `path` tells of, which may not be there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, SamplesError> {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(SamplesError::Io { path: path.to_owned(), doing: "read", source }),
        };
        let mut known = HashMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match serde_json::from_str::<Removal>(line) {
                Ok(removal) => {
                    known.insert(removal.name.clone(), removal);
                }
                // A crash cut it short, before anything was removed.
                Err(_) => tracing::warn!(file = %path.display(), "a line is not a removal and was skipped"),
            }
        }
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// The latest removal of a file of this name.
    pub(in crate::store) fn find(&self, name: &str) -> Option<Removal> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Notes removals durably.
    ///
    /// # Errors
    /// The disk refused.
    pub(super) fn note(&self, removals: &[Removal]) -> Result<(), SamplesError> {
        // In front, because a crash may have cut the last line short.
        let mut text = "\n".to_owned();
        for removal in removals {
            text.push_str(&fleet_common::canonical::json(removal));
            text.push('\n');
        }
        let file = OpenOptions::new().append(true).create(true).open(&self.path);
        let noted = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()));
        noted.map_err(|source| SamplesError::Io { path: self.path.clone(), doing: "written", source })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(removals.iter().map(|removal| (removal.name.clone(), removal.clone())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_hides_nothing_and_the_latest_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("removed.jsonl");
        let removal = |name: &str, unix_ms| Removal { name: name.into(), unix_ms, bytes: 7, rule: "r".into() };
        let removed = Removed::open(&path).expect("opens");
        assert_eq!(removed.find("a"), None);
        removed.note(&[removal("a", 1), removal("b", 1)]).expect("notes");
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, &text[..text.len() - 9]).expect("tears");
        let removed = Removed::open(&path).expect("opens");
        assert_eq!((removed.find("a"), removed.find("b")), (Some(removal("a", 1)), None));
        removed.note(&[removal("a", 2), removal("c", 2)]).expect("notes");
        let removed = Removed::open(&path).expect("opens");
        assert_eq!((removed.find("a"), removed.find("c")), (Some(removal("a", 2)), Some(removal("c", 2))));
    }
}
