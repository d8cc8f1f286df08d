//! A row in our worker, started and talked to as the daemon does.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fleet_common::plan::CellSettings;
use fleet_common::record::{Outcome, Training};
use fleet_common::worker::{Event, Job, Phase};
use serde_json::json;

use super::data::CLASSES;
use super::{Images, Row, Setting, resident};

/// Steps before the timed ones.
const WARM_UP_STEPS: u32 = 2;
/// The protocol's weight decay, for both sides.
pub(super) const WEIGHT_DECAY: f64 = 0.05;

/// What a worker needed for a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ours {
    /// Seconds per step: mean of the timed steps.
    pub seconds: f64,
    /// Most bytes that tensors held, over warm-up and timed steps.
    pub live_peak: u64,
    /// Peak of the process's resident memory over [`Setting::baseline`], in bytes; on a GPU the tensors'.
    pub resident_peak: u64,
    /// Parameters that trained.
    pub trainable: u64,
}

/// What the worker `path` holds before any model, in bytes: the peak of its resident memory as it loads its libraries
/// and tries them with a first operation, which is what `--check` does. Python's baseline is the same.
///
/// # Errors
/// In words: it cannot be started, or libtorch cannot be loaded.
pub fn baseline(path: &Path) -> Result<u64, String> {
    let wrong = |why: String| format!("{} --check: {why}", path.display());
    let child = Command::new(path).arg("--check").stdout(Stdio::null()).spawn().map_err(|e| wrong(e.to_string()))?;
    let (ok, most) = resident::of_ended(child.id()).map_err(|e| wrong(e.to_string()))?;
    if ok { Ok(most) } else { Err(wrong("it failed; what it says is above".to_owned())) }
}

/// Runs a trial of the row.
///
/// # Errors
/// In words: the worker could not be started, or did not complete the trial.
pub(super) fn run(row: &Row, setting: &Setting, images: &Images) -> Result<Ours, String> {
    let mut child = Command::new(&setting.worker)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{} cannot be started: {e}", setting.worker.display()))?;
    let ended = talk(&mut child, &job(row, setting, images)?);
    let _ = child.kill();
    let _ = child.wait();
    let (training, resident) = ended.map_err(|e| format!("our worker, at {row}: {e}"))?;
    let phases = || training.phases.iter().filter(|p| matches!(p.phase, Phase::WarmUp | Phase::Train));
    let timed = phases().find(|p| p.phase == Phase::Train).ok_or("our worker recorded no training")?;
    let live_peak = phases().map(|p| p.peak_bytes).max().unwrap_or(0);
    Ok(Ours {
        seconds: timed.compute_seconds / timed.steps as f64,
        live_peak,
        resident_peak: if setting.on_cuda() { live_peak } else { resident.saturating_sub(setting.baseline) },
        trainable: training.trainable,
    })
}

/// Gives the worker its job and listens until its end; its figures, and its peak of resident memory in bytes.
fn talk(child: &mut Child, job: &Job) -> io::Result<(Training, u64)> {
    let pid = child.id();
    let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("it has no standard input"))?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("it has no standard output"))?;
    writeln!(stdin, "{}", serde_json::to_string(job)?)?;
    let mut most = 0;
    for line in BufReader::new(stdout).lines() {
        let event: Event = serde_json::from_str(&line?)?;
        // At least ten readings per second come, and the kernel's peak does not fall: what every step needs is seen.
        most = most.max(resident::most(pid).unwrap_or(0));
        match event {
            Event::Finished { outcome: Outcome::Completed, training, .. } => {
                return Ok((*training, most));
            }
            Event::Finished { outcome, .. } => return Err(io::Error::other(format!("it ended with {outcome:?}"))),
            _ => {}
        }
    }
    Err(io::Error::other("it ended without a result; run it alone to see its standard error"))
}

fn job(row: &Row, setting: &Setting, images: &Images) -> Result<Job, String> {
    let settings: CellSettings = serde_json::from_value(json!({
        "definition": 2, "method": row.method_settings()?, "backbone": row.backbone,
        "image_size": row.backbone.image_size(), "checkpointing": row.checkpointing,
        "dataset": { "name": "dealt", "fingerprint": "none", "classes": CLASSES }, "weights": { "from": "scratch" },
        "seed": 0, "budget_bytes": null,
        "train": { "steps": WARM_UP_STEPS + row.steps(setting.on_cuda()), "warm_up_steps": WARM_UP_STEPS, "batch": row.batch,
                   "learning_rate": row.method.default_learning_rate(), "weight_decay": WEIGHT_DECAY,
                   "sampling": "replacement", "augment": true },
        "evaluate": { "batch": 8, "limit": 8 }
    }))
    .map_err(|e| format!("the settings of {row}: {e}"))?;
    let folder = images.folder();
    let dataset = folder.to_str().ok_or("the temporary folder's name is not UTF-8")?.to_owned().try_into()?;
    Ok(Job {
        settings,
        device: setting.device,
        threads: setting.threads,
        data_dir: folder,
        dataset,
        weights: None,
        save_weights: None,
        save_adapter: None,
        save_states: None,
        resume: None,
    })
}
