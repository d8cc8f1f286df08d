//! Devices that a test plays, behind a library with NVML's symbols.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fleet_agent::device::{Nvidia, Slot};
use fleet_agent::meter::Places;
use fleet_common::telemetry::MonoNanos;

/// The library in a folder of its own, with the script and the time beside it.
pub struct Played {
    // Closed before its file goes: a library that is loaded again from the same place is the same library.
    nvidia: Result<Arc<Nvidia>, String>,
    dir: tempfile::TempDir,
}

impl Played {
    /// Boards that do what `script` says (`tests/stand_ins/nvml.c` describes it).
    pub fn new(script: &str) -> Self {
        Self::with(Some(script))
    }

    /// The boards that there are without a script.
    pub fn without_script() -> Self {
        Self::with(None)
    }

    fn with(script: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = compile(dir.path());
        if let Some(script) = script {
            std::fs::write(dir.path().join("script"), script).unwrap();
        }
        let nvidia = Nvidia::open(Some(&library)).map(Arc::new).map_err(|e| e.to_string());
        Self { nvidia, dir }
    }

    /// The driver, or why there is none.
    pub fn open(&self) -> Result<Arc<Nvidia>, String> {
        self.nvidia.clone()
    }

    /// The driver.
    pub fn nvidia(&self) -> Arc<Nvidia> {
        self.open().unwrap()
    }

    /// Sets the devices' clock, seconds.
    pub fn set(&self, now: f64) {
        std::fs::write(self.dir.path().join("now"), now.to_string()).unwrap();
    }
}

/// Compiles the stand-in into `dir`.
pub fn compile(dir: &Path) -> PathBuf {
    let library = dir.join("libnvidia-ml.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/stand_ins/nvml.c");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-lm").status();
    assert!(status.unwrap().success(), "the stand-in does not compile");
    library
}

/// The first board that can be offered.
pub fn first(played: &Played) -> Slot {
    played.nvidia().boards(None, None).slots.remove(0)
}

/// A machine that has no meters of its own.
pub fn nowhere() -> Places {
    Places { powercap: "/nowhere".into(), hwmon: "/nowhere".into(), wall: None }
}

/// A moment.
pub fn seconds(t: f64) -> MonoNanos {
    MonoNanos((t * 1e9).round() as u64)
}
