//! A wall clock that is set while a program runs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The clock of the programs that it was given to (`stand_ins/clock.c`).
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// One that is right, in the folder `dir`.
    pub fn right(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let library = dir.join("clock.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("stand_ins/clock.c");
        let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(status.unwrap().success(), "the stand-in does not compile");
        let clock = Self { library, file: dir.join("offset") };
        clock.set(0);
        clock
    }

    /// Gives it to a program that is not started yet.
    pub fn give<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("LD_PRELOAD", &self.library).env("FLEET_TEST_CLOCK", &self.file)
    }

    /// Sets it so many seconds ahead of the machine's.
    pub fn set(&self, seconds: i64) {
        // In place: the programs have the file mapped.
        let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(false).open(&self.file).unwrap();
        std::io::Write::write_all(&mut file, &seconds.to_le_bytes()).unwrap();
    }
}
