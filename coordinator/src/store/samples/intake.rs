//! The intake: a file that all attempts' batches go to first, so that one sync makes many of them durable.
//!
//! Once a file is full, another is begun, and the full one goes as soon as everything in it is in synced chunk files;
//! that happens beside the writing. After a crash the intake is read again: batches that had reached their chunk file
//! are recognised by their numbers.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::{SamplesError, tail};

/// Bytes after which a file is full: half a minute of 500 trials with ten series at 20 Hz. What is in the intake is in
/// memory as well, in a similar size.
const FULL: u64 = 32 << 20;
/// No file grows beyond this many times its size because the chunk files cannot be written.
const PATIENCE: u64 = 2;

/// One file of the intake, and the chunk files that must be synced before it may go.
#[derive(Debug, Default)]
struct Part {
    path: PathBuf,
    touched: BTreeSet<PathBuf>,
}

/// The intake, open for appending.
#[derive(Debug)]
pub(super) struct Intake {
    dir: PathBuf,
    /// The file at work; none until there is something to write.
    file: Option<File>,
    part: Part,
    length: u64,
    number: u64,
    /// Full files, on their way out.
    leaving: Option<JoinHandle<Vec<Part>>>,
    /// Full files whose chunk files could not be synced: tried again with the next ones.
    left: Vec<Part>,
}

impl Intake {
    /// The intake in the folder `dir`, and the files of it that were left, oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<PathBuf>), SamplesError> {
        let mut files = Vec::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => files.extend(entries.filter_map(|e| Some(e.ok()?.path()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(SamplesError::Io { path: dir.to_owned(), doing: "read", source }),
        }
        let number = |path: &PathBuf| path.file_stem().and_then(|s| s.to_str()?.parse::<u64>().ok());
        files.retain(|path| number(path).is_some());
        files.sort_by_key(number);
        let number = files.last().and_then(number).unwrap_or(0);
        let left = files.iter().map(|path| Part { path: path.clone(), ..Part::default() }).collect();
        let intake =
            Self { dir: dir.to_owned(), file: None, part: Part::default(), length: 0, number, leaving: None, left };
        Ok((intake, files))
    }

    /// Appends chunks and makes them durable.
    ///
    /// # Errors
    /// The disk refused, or the chunk files cannot be written: nothing is stored.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), SamplesError> {
        if self.length + bytes.len() as u64 > FULL * PATIENCE {
            let source = std::io::Error::other("it is full, and its samples cannot be moved to the chunk files");
            return Err(SamplesError::Io { path: self.part.path.clone(), doing: "written", source });
        }
        if self.file.is_none() {
            self.begin().map_err(|source| SamplesError::Io { path: self.dir.clone(), doing: "written", source })?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Err(source) = file.write_all(bytes).and_then(|()| file.sync_data()) {
            let error = SamplesError::Io { path: self.part.path.clone(), doing: "written", source };
            // What was written in part must not stand in front of what comes next: that would not be read again.
            let cut = file.set_len(self.length).and_then(|()| file.sync_data());
            if cut.is_err() {
                let part = self.close();
                self.left.extend(part);
            }
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn begin(&mut self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        self.number += 1;
        let path = self.dir.join(format!("{:08}.chunks", self.number));
        self.file = Some(OpenOptions::new().append(true).create_new(true).open(&path)?);
        for folder in path.ancestors().skip(1).take(2) {
            File::open(folder)?.sync_all()?;
        }
        self.part = Part { path, touched: BTreeSet::new() };
        self.length = 0;
        Ok(())
    }

    /// Notes that samples of the file at work are, or will be, in the chunk file `path`; before there is one, samples of
    /// the files that were left.
    pub(super) fn touch(&mut self, path: &Path) {
        let parts = if self.file.is_some() { std::slice::from_mut(&mut self.part) } else { &mut self.left };
        for part in parts {
            if !part.touched.contains(path) {
                part.touched.insert(path.to_owned());
            }
        }
    }

    /// Whether it is time to move on.
    pub(super) fn is_full(&self) -> bool {
        self.length >= FULL
    }

    /// Begins another file with the next batch, and lets the one at work go once its chunk files are synced. Everything
    /// in it must have been written to them.
    pub(super) fn move_on(&mut self) {
        let mut parts = self.settled();
        parts.extend(self.close());
        self.leaving = Some(std::thread::spawn(move || settle(parts)));
    }

    /// Lets all files go. Everything in them must have been written to the chunk files.
    ///
    /// # Errors
    /// A chunk file cannot be synced, or a file not be removed: it stays until the next time.
    pub(super) fn empty(&mut self) -> Result<(), SamplesError> {
        let mut parts = self.settled();
        parts.extend(self.close());
        self.left = settle(parts);
        match self.left.first() {
            None => Ok(()),
            Some(part) => {
                let source = std::io::Error::other("its chunk files cannot be synced");
                Err(SamplesError::Io { path: part.path.clone(), doing: "emptied", source })
            }
        }
    }

    /// Files that are full and could not go so far.
    fn settled(&mut self) -> Vec<Part> {
        let mut parts = std::mem::take(&mut self.left);
        if let Some(leaving) = self.leaving.take() {
            parts.extend(leaving.join().unwrap_or_default());
        }
        parts
    }

    fn close(&mut self) -> Option<Part> {
        self.length = 0;
        self.file.take().map(|_| std::mem::take(&mut self.part))
    }
}

/// Syncs chunk files, then removes the files of the intake that they replace; returns those that must stay.
fn settle(parts: Vec<Part>) -> Vec<Part> {
    let mut left = Vec::new();
    for part in parts {
        let synced = part.touched.iter().try_for_each(|path| tail::sync(path));
        let gone = synced.and_then(|()| {
            std::fs::remove_file(&part.path).map_err(|source| SamplesError::Io {
                path: part.path.clone(),
                doing: "removed",
                source,
            })
        });
        if let Err(error) = gone {
            tracing::error!(%error, "samples stay in the intake; they are not lost");
            left.push(part);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_write_that_failed_in_part_another_file_is_begun() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("intake");
        let (mut intake, left) = Intake::open(&folder).expect("opens");
        assert!(left.is_empty());
        intake.append(b"one").expect("writes");
        // A file that can be neither written to nor cut.
        intake.file = Some(File::open(&intake.part.path).expect("opens"));
        assert!(intake.append(b"two").is_err());
        intake.append(b"three").expect("writes");
        let (mut again, left) = Intake::open(&folder).expect("opens");
        let contents: Vec<Vec<u8>> = left.iter().map(|path| std::fs::read(path).expect("reads")).collect();
        assert_eq!(contents, [b"one".to_vec(), b"three".to_vec()], "oldest first");
        again.empty().expect("empties");
        assert_eq!(std::fs::read_dir(&folder).expect("reads").count(), 0);
    }
}
