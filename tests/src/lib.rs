//! What the black-box tests share: the built programs, started as a person would, and a small real data set.
//!
//! Nothing here stands in for a part of the product. Programs are the release binaries; a test that needs them builds
//! them first.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

pub mod bench;
mod campaign;
pub mod chaos;
mod clock;
mod fleet;
pub mod load;
mod machines;
mod power;
mod processes;
pub mod published;
pub mod scale;
mod textures;

pub use campaign::{Campaign, Stored, long, spooled};
pub use clock::Clock;
pub use fleet::{Agent, Coordinator, Fleet, Output, finish, wait_until, with_small_files};
pub use machines::{COORDINATOR, Machines};
pub use power::Power;
pub use processes::{kill, with_marker};
pub use textures::{break_jpeg, textures};

use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

/// A program of the workspace, built; or one of `FLEET_PROGRAMS`, a folder of programs that are to be tested as they are.
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("FLEET_PROGRAMS") {
        let path = PathBuf::from(folder).join(name);
        return path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    static BUILD: Once = Once::new();
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    BUILD.call_once(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked", "--quiet", "--bins"])
            .current_dir(&root)
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the programs do not build");
    });
    let path = root.join("target/release").join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path.canonicalize().unwrap()
}
