//! Files that are written whole or not at all.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Failure;

/// Writes a file in place of whatever was there; a failure leaves that as it was. `what` names it in messages.
pub(super) fn write(path: &Path, what: &str, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("cannot write {what} {}: {e}", path.display()));
    // The new file takes the name, and a device such as /dev/full would be gone.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let why = "what is there is not a file; expected the name of a new file, or of one to replace";
        return Err(Failure::usage(format!("cannot write {what} {}: {why}", path.display())));
    }
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let partial = partial(path);
    let written = (|| {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        // On the disk before it gets the name: a crash must not leave that name on an empty file.
        file.sync_all()?;
        std::fs::rename(&partial, path)
    })();
    written.map_err(|e| {
        let _ = std::fs::remove_file(&partial);
        failed(e)
    })
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
