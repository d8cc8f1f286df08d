//! A whole state as one file, for moving it to another machine or to another version.
//!
//! ```text
//! tar, or tar compressed by zstd
//!   fleet-state/export.json           what this is
//!   fleet-state/journal               all segments as one file: layout 1, which every version opens
//!   fleet-state/samples/…             chunk files, the intake, what retention removed
//!   fleet-state/complete.json         last, so that a file that was cut short is known
//! ```
//!
//! Neither snapshots nor the index nor shared content are in it: the first two are made again from the journal, the third is
//! shared again. Unpacked by hand, `fleet-state` is a
//! state folder.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::json;

use super::journal::{MAGIC, View};
use super::{Layout, Store, StoreError, layout, lock, samples};

/// The folder in the archive.
const ROOT: &str = "fleet-state";
const HEAD: &str = "export.json";
const COMPLETE: &str = "complete.json";
const SCHEMA: &str = "fleet.state-export/1";
/// What a compressed file begins with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a state could not be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is no export, or not all of one.
    #[error("{path} is not used: {why}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is something already.
    #[error("{path} exists and is not empty; name a new folder")]
    Exists {
        /// Which folder.
        path: PathBuf,
    },
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Files of samples, and others beside the journal.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Writes the state in the folder `dir`, which no coordinator may hold, to `out`. `tell` hears how many bytes are done.
///
/// # Errors
/// It cannot be read, or `out` refuses.
pub fn export(dir: &Path, out: impl Write, tell: &mut dyn FnMut(u64)) -> Result<Moved, ArchiveError> {
    let io = |source| StoreError::Io { path: dir.to_owned(), source };
    match layout::look(dir).map_err(io)? {
        Layout::Known(_) => {}
        Layout::Newer(found) => return Err(StoreError::Newer { path: dir.to_owned(), found }.into()),
        Layout::Empty => return Err(StoreError::NoState { path: dir.to_owned() }.into()),
    }
    let _lock = lock(dir)?;
    let journal = layout::journal(dir).map_err(StoreError::from)?;
    let mut pack = Pack { tar: tar::Builder::new(out), moved: Moved { files: 0, bytes: 0 }, tell };
    let failed = |source| ArchiveError::Io { path: dir.to_owned(), source };
    pack.journal(&journal).map_err(failed)?;
    let folder = dir.join("samples");
    for path in beside(&folder).map_err(failed)? {
        let name = path.strip_prefix(dir).unwrap_or(&path).to_owned();
        let bytes = std::fs::metadata(&path).map_err(failed)?.len();
        pack.file(&name, bytes, File::open(&path).map_err(failed)?).map_err(failed)?;
        pack.moved.files += 1;
    }
    pack.finish().map_err(failed)
}

/// Everything that is kept in the folder of the samples.
fn beside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = samples::files(dir)?.into_values().collect();
    found.extend(samples::intake(dir)?);
    found.extend(Some(dir.join("removed.jsonl")).filter(|path| path.is_file()));
    Ok(found)
}

struct Pack<'a, W: Write> {
    tar: tar::Builder<W>,
    moved: Moved,
    tell: &'a mut dyn FnMut(u64),
}

impl<W: Write> Pack<'_, W> {
    /// The segments as one file.
    fn journal(&mut self, journal: &View) -> io::Result<()> {
        let magic = MAGIC.len() as u64;
        let parts: Vec<_> = journal.segments.iter().filter(|s| s.bytes > magic).collect();
        let bytes = magic + parts.iter().map(|s| s.bytes - magic).sum::<u64>();
        let head = json!({"schema": SCHEMA, "program": env!("CARGO_PKG_VERSION"), "journal_bytes": bytes});
        self.document(HEAD, &head)?;
        self.moved.bytes = 0;
        let mut all: Box<dyn Read> = Box::new(&MAGIC[..]);
        for part in parts {
            let mut file = File::open(journal.path(part.first))?;
            io::copy(&mut (&mut file).take(magic), &mut io::sink())?;
            all = Box::new(all.chain(file.take(part.bytes - magic)));
        }
        self.file(Path::new(layout::JOURNAL), bytes, all)
    }

    fn document(&mut self, name: &str, document: &serde_json::Value) -> io::Result<()> {
        let text = format!("{document}\n");
        self.file(Path::new(name), text.len() as u64, text.as_bytes())
    }

    fn file(&mut self, name: &Path, bytes: u64, from: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        let before = self.moved.bytes;
        let mut told = 0;
        let tell = &mut self.tell;
        let counted = Counted {
            from: from.take(bytes),
            each: &mut |n| {
                told += n;
                tell(before + told);
            },
        };
        self.tar.append_data(&mut header, Path::new(ROOT).join(name), counted)?;
        if told < bytes {
            return Err(io::Error::other(format!("{} became shorter while it was read", name.display())));
        }
        self.moved.bytes += bytes;
        Ok(())
    }

    fn finish(mut self) -> io::Result<Moved> {
        let moved = self.moved;
        self.document(COMPLETE, &json!({"files": moved.files, "bytes": moved.bytes}))?;
        self.tar.into_inner()?.flush()?;
        Ok(moved)
    }
}

struct Counted<'a, R> {
    from: R,
    each: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(to)?;
        (self.each)(n as u64);
        Ok(n)
    }
}

/// Makes the folder `dir`, which must be new, of what [`export`] wrote to `file`: all of it or nothing.
///
/// # Errors
/// The file is not a whole export, or the disk refuses.
pub fn import(file: &Path, dir: &Path, tell: &mut dyn FnMut(u64)) -> Result<Moved, ArchiveError> {
    if dir.exists() && std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file() {
        return Err(ArchiveError::Exists { path: dir.to_owned() });
    }
    let partial = beside_name(dir);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ArchiveError::Io { path, source }
    };
    // What an interrupted import left.
    match std::fs::remove_dir_all(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&partial)(e)),
        _ => {}
    }
    let moved = unpack(file, &partial, tell).inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&partial);
    })?;
    // The index and a snapshot, so that the first start is quick; and it is seen that it opens.
    let (mut store, state, opened) = Store::open(&partial)?;
    for damage in &opened.damage {
        tracing::warn!(
            offset = damage.offset,
            bytes = damage.bytes,
            "the journal was damaged here; {}",
            damage.consequence()
        );
    }
    opened.misfits.iter().for_each(|m| tracing::warn!("the journal has a hole: {m}"));
    store.close(&state);
    drop(store);
    if dir.exists() {
        std::fs::remove_dir(dir).map_err(failed(dir))?;
    }
    std::fs::rename(&partial, dir).and_then(|()| super::journal::sync_folder(dir)).map_err(failed(dir))?;
    Ok(moved)
}

/// Where a folder is until it is whole.
pub(crate) fn beside_name(dir: &Path) -> PathBuf {
    let mut name = dir.components().collect::<PathBuf>().into_os_string();
    name.push(".partial");
    PathBuf::from(name)
}

fn unpack(file: &Path, to: &Path, tell: &mut dyn FnMut(u64)) -> Result<Moved, ArchiveError> {
    let unusable = |why: String| ArchiveError::Unusable { path: file.to_owned(), why };
    let read = |e: io::Error| unusable(format!("it cannot be read, or is cut short: {e}"));
    let mut from =
        BufReader::new(File::open(file).map_err(|source| ArchiveError::Io { path: file.to_owned(), source })?);
    let mut start = Vec::new();
    from.by_ref().take(4).read_to_end(&mut start).map_err(read)?;
    let is_packed = start == ZSTD;
    let whole = io::Cursor::new(start).chain(from);
    let plain: Box<dyn Read> =
        if is_packed { Box::new(zstd::stream::Decoder::new(whole).map_err(read)?) } else { Box::new(whole) };
    let mut moved = Moved { files: 0, bytes: 0 };
    let mut complete = None;
    let mut archive = tar::Archive::new(plain);
    for (number, entry) in archive.entries().map_err(read)?.enumerate() {
        let mut entry = entry.map_err(read)?;
        let path = entry.path().map_err(read)?.into_owned();
        let name =
            path.strip_prefix(ROOT).map_err(|_| unusable(format!("it holds {}, no state of fleet", path.display())))?;
        if number == 0 && name != Path::new(HEAD) {
            return Err(unusable("it is not what `fleet store export` writes".to_owned()));
        }
        if name == Path::new(HEAD) || name == Path::new(COMPLETE) {
            let document: serde_json::Value =
                serde_json::from_reader(entry.take(1 << 16)).map_err(|e| unusable(e.to_string()))?;
            if name == Path::new(COMPLETE) {
                complete = Some((document["files"].as_u64(), document["bytes"].as_u64()));
            } else if document["schema"] != SCHEMA {
                return Err(unusable(format!("expected {SCHEMA}, found {}", document["schema"])));
            }
            continue;
        }
        // A name from a file must not lead out of the folder.
        let is_ours = name == Path::new(layout::JOURNAL) || name.starts_with("samples");
        if !is_ours
            || !name.components().all(|c| matches!(c, Component::Normal(_)))
            || !entry.header().entry_type().is_file()
        {
            return Err(unusable(format!("it holds {}, which no export has", path.display())));
        }
        let target = to.join(name);
        let write = |source| ArchiveError::Io { path: target.clone(), source };
        std::fs::create_dir_all(target.parent().unwrap_or(to)).map_err(write)?;
        let mut out = File::create(&target).map_err(write)?;
        let before = moved.bytes;
        let mut told = 0;
        let mut counted = Counted {
            from: &mut entry,
            each: &mut |n| {
                told += n;
                tell(before + told);
            },
        };
        io::copy(&mut counted, &mut out).map_err(|e| if e.raw_os_error().is_some() { write(e) } else { read(e) })?;
        out.sync_all().map_err(write)?;
        moved.bytes += told;
        moved.files += u64::from(name != Path::new(layout::JOURNAL));
    }
    match complete {
        Some((Some(files), Some(bytes))) if (files, bytes) == (moved.files, moved.bytes) => Ok(moved),
        _ => Err(unusable("it is cut short: its end is missing. Copy it again".to_owned())),
    }
}
