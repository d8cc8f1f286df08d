//! A folder that looks like Linux' powercap, in which a thread plays CPU packages that draw power.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait_until;

/// What the packages draw, watts.
const WATTS: [f64; 2] = [30.0, 20.0];
/// The counters wrap after a second or two, as real ones do every few minutes: often within a trial, and not twice between
/// two readings of which a busy machine has delayed one. (After 5 J, a delay of a sixth of a second lost a wrap.)
const RANGE_MICROJOULES: u64 = 30_000_000;

/// Packages that draw [`Power::WATTS`] in all, until this is dropped.
pub struct Power {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    player: Option<JoinHandle<()>>,
}

impl Power {
    /// What all packages draw.
    pub const WATTS: f64 = WATTS[0] + WATTS[1];

    /// Packages in the folder `dir`.
    pub fn play(dir: &Path) -> Self {
        for package in 0..WATTS.len() {
            let zone = dir.join(format!("intel-rapl:{package}"));
            std::fs::create_dir_all(&zone).unwrap();
            std::fs::write(zone.join("name"), format!("package-{package}\n")).unwrap();
            std::fs::write(zone.join("max_energy_range_uj"), format!("{RANGE_MICROJOULES}\n")).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let player = {
            let (stop, dir) = (stop.clone(), dir.to_owned());
            std::thread::spawn(move || play(&dir, &stop))
        };
        wait_until("the counters", || dir.join("intel-rapl:1/energy_uj").exists());
        Self { dir: dir.to_owned(), stop, player: Some(player) }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(player) = self.player.take() {
            let _ = player.join();
        }
    }
}

fn play(dir: &Path, stop: &AtomicBool) {
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for (package, watts) in WATTS.into_iter().enumerate() {
            let microjoules = (started.elapsed().as_secs_f64() * watts * 1e6) as u64 % (RANGE_MICROJOULES + 1);
            let file = dir.join(format!("intel-rapl:{package}/energy_uj"));
            // Renamed into place: a reader sees the old number or the new one.
            let partial = file.with_extension("partial");
            let written = std::fs::write(&partial, format!("{microjoules}\n"));
            written.and_then(|()| std::fs::rename(&partial, &file)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
