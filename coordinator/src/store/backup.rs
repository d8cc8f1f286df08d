//! A consistent copy of a state folder while the coordinator goes on: segments, the latest snapshot and samples are only
//! ever appended to or replaced, so a list of files with their lengths at one moment is enough.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use super::journal::View;
use super::{LAYOUT, Store, layout, snapshot};

/// What was durable at one moment.
#[derive(Debug)]
pub struct Manifest {
    dir: PathBuf,
    journal: View,
    /// Open already, because another snapshot may replace it.
    snapshot: Option<(String, File)>,
    /// The latest event that is in.
    pub sequence: u64,
}

/// A file to be copied.
#[derive(Debug)]
pub struct Copying {
    /// Its name below the state folder.
    pub name: String,
    /// How much of it.
    pub bytes: u64,
    from: Source,
}

#[derive(Debug)]
enum Source {
    Path(PathBuf),
    Open(File),
    Text(String),
}

impl Store {
    /// What is durable now.
    pub fn manifest(&self) -> Manifest {
        let latest = snapshot::list(&self.snapshots()).ok().and_then(|list| list.into_iter().next());
        let snapshot = latest.and_then(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            // Without it, the copy takes longer to start.
            Some((format!("{}/{name}", super::SNAPSHOTS), File::open(&path).ok()?))
        });
        let sequence = self.bound.map_or(0, |b| b.sequence);
        Manifest { dir: self.path.clone(), journal: self.journal.view().clone(), snapshot, sequence }
    }
}

impl Manifest {
    /// All files of a copy, in the order in which they must be copied: samples after the journal that seals them, and
    /// what was removed last. The intake is opened before the chunk files are listed: what leaves it in between is in
    /// those, and what is in both is known by its numbers.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn files(self) -> io::Result<Vec<Copying>> {
        let version = format!("{LAYOUT}\n");
        let mut files =
            vec![Copying { name: "version".to_owned(), bytes: version.len() as u64, from: Source::Text(version) }];
        for segment in &self.journal.segments {
            let name = format!("{}/{}", layout::JOURNAL, super::journal::file_name(segment.first));
            let from = Source::Path(self.journal.path(segment.first));
            files.push(Copying { name, bytes: segment.bytes, from });
        }
        if let Some((name, file)) = self.snapshot {
            files.push(Copying { name, bytes: file.metadata()?.len(), from: Source::Open(file) });
        }
        let samples = self.dir.join("samples");
        for path in super::samples::intake(&samples)? {
            let name = path.file_name().and_then(|n| n.to_str()).map(|n| format!("samples/intake/{n}"));
            match (name, File::open(&path)) {
                (Some(name), Ok(file)) => {
                    let bytes = file.metadata()?.len();
                    files.push(Copying { name, bytes, from: Source::Open(file) });
                }
                (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let mut paths: Vec<PathBuf> = super::samples::files(&samples)?.into_values().collect();
        paths.push(samples.join("removed.jsonl"));
        for path in paths {
            let name = path.strip_prefix(&self.dir).ok().and_then(|p| p.to_str()).map(str::to_owned);
            match (name, std::fs::metadata(&path)) {
                (Some(name), Ok(there)) => files.push(Copying { name, bytes: there.len(), from: Source::Path(path) }),
                // Retention has removed it, or there is none yet.
                (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => {}
                (None, Ok(_)) => return Err(io::Error::other(format!("{} has a name that is none", path.display()))),
                (_, Err(e)) => return Err(e),
            }
        }
        Ok(files)
    }
}

impl Copying {
    /// What to copy; `None` if retention has removed the file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(self) -> io::Result<Option<Box<dyn io::Read + Send>>> {
        let bytes = self.bytes;
        Ok(Some(match self.from {
            Source::Text(text) => Box::new(io::Cursor::new(text.into_bytes())),
            Source::Open(file) => Box::new(file.take(bytes)),
            Source::Path(path) => match File::open(&path) {
                Ok(file) => Box::new(file.take(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound && path.extension().is_some_and(|e| e == "chunks") => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            },
        }))
    }
}
