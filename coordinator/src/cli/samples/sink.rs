//! Where rows go.

use std::io::{self, Write};
use std::path::Path;

use super::rows::{Missing, Row};
use crate::cli::Failure;
use crate::cli::files::Replacement;

/// A form of file that rows are written in.
pub(super) trait Sink {
    /// Takes a row.
    fn row(&mut self, row: &Row<'_>) -> Result<(), Failure>;

    /// Nobody reads any more.
    fn is_closed(&self) -> bool;

    /// Ends the file, which tells of what is missing if its form can.
    fn finish(self, missing: &Missing) -> Result<(), Failure>;
}

/// A file that is written whole or not at all, or standard output.
pub(super) enum Out {
    File(Box<Replacement>),
    Standard {
        /// The reader has closed the pipe.
        closed: bool,
    },
}

impl Out {
    pub(super) fn standard() -> Self {
        Self::Standard { closed: false }
    }

    pub(super) fn file(path: &Path) -> Result<Self, Failure> {
        Ok(Self::File(Box::new(Replacement::begin(path, "the samples")?)))
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Standard { closed: true })
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.flush().map_err(cannot)?;
        match self {
            Self::File(file) => file.finish(),
            Self::Standard { .. } => Ok(()),
        }
    }

    /// A reader that closes the pipe is no error, but is remembered.
    fn standard_output<T>(&mut self, done: io::Result<T>, if_closed: T) -> io::Result<T> {
        match done {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                *self = Self::Standard { closed: true };
                Ok(if_closed)
            }
            done => done,
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Standard { .. } => {
                let written = io::stdout().write(bytes);
                self.standard_output(written, bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Standard { .. } => {
                let flushed = io::stdout().flush();
                self.standard_output(flushed, ())
            }
        }
    }
}

/// What writing samples failed with.
pub(super) fn cannot(why: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot write the samples: {why}"))
}
