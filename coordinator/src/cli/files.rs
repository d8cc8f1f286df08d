//! Files that are written whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;

/// Writes a file in place of whatever was there; a failure leaves that as it was. `what` names it in messages.
pub(super) fn write(path: &Path, what: &str, bytes: &[u8]) -> Result<(), Failure> {
    let mut replacement = Replacement::begin(path, what)?;
    replacement.write_all(bytes).map_err(|e| failed(path, what, &e))?;
    replacement.finish()
}

fn failed(path: &Path, what: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot write {what} {}: {why}", path.display()))
}

/// A file that is being written, and takes the place of what was there when it is finished. Dropped before, it is gone.
pub(super) struct Replacement {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    what: String,
}

impl Replacement {
    /// Begins one. `what` names it in messages.
    pub(super) fn begin(path: &Path, what: &str) -> Result<Self, Failure> {
        // The new file takes the name, and a device such as /dev/full would be gone.
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            let why = "what is there is not a file; expected the name of a new file, or of one to replace";
            return Err(Failure::usage(format!("cannot write {what} {}: {why}", path.display())));
        }
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| failed(path, what, &e))?;
        }
        let partial = partial(path);
        let file = File::create(&partial).map_err(|e| failed(path, what, &e))?;
        Ok(Self { file, partial, path: path.to_owned(), what: what.to_owned() })
    }

    /// Gives it the name.
    pub(super) fn finish(self) -> Result<(), Failure> {
        // On the disk before it gets the name: a crash must not leave that name on an empty file.
        let done = self.file.sync_all().and_then(|()| std::fs::rename(&self.partial, &self.path));
        done.map_err(|e| failed(&self.path, &self.what, &e))
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Finished, it has another name.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// The whole name and more, so that `a.csv` and `a.jsonl` written at once are not in each other's way.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there_and_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("new/a.csv");
        write(&file, "the table", b"one").expect("writes");
        write(&file, "the table", b"two").expect("replaces");
        assert_eq!(std::fs::read(&file).expect("there"), b"two");
        // Neither a folder nor a device is replaced by a file.
        let folder = dir.path().join("b");
        std::fs::create_dir_all(folder.join("full")).expect("makes");
        let null = dir.path().join("c");
        std::os::unix::fs::symlink("/dev/null", &null).expect("links");
        for there in [&folder, &null] {
            let failure = write(there, "the table", b"x").expect_err("refused");
            let words = failure.message().expect("words");
            assert!(words.contains("cannot write the table") && words.contains("is not a file"), "{words}");
        }
        // A file where a folder should be.
        let failure = write(&file.join("d.csv"), "the table", b"x").expect_err("refused");
        assert!(failure.message().expect("words").contains("d.csv"), "named");
        assert_eq!(std::fs::read(&file).expect("there"), b"two");
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("there").collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}
