//! What a later attempt needs to go on: what trains, the optimiser, the place in the data, the figures so far.
//!
//! Randomness and the order of samples follow from the seed and the step, frozen parameters from the weights or the
//! seed, so neither is in the file. It is a safetensors file, written beside its place, synced and renamed; its metadata
//! names the cell, the step, a checksum and the figures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fleet_common::id::CellId;
use fleet_common::record::Training;
use fleet_common::worker::{Phase, SaveStates};
use safetensors::SafeTensors;
use tch::Tensor;

use super::Stop;
use super::events::Events;
use super::meter::PhaseMeter;
use crate::nn::{Params, kind_of, write_safetensors};
use crate::peft::Schedule;
use crate::torch::adamw::AdamW;
use crate::torch::memory::Place;
use crate::torch::{GradMode, guard};

/// Name and version of the form. It changes whenever an old state would be misread.
const FORMAT: &str = "fleet.state/2";
/// Writing states takes at most this share of the time.
const MOST_OF_THE_TIME: f64 = 0.05;

/// A state, read and checked.
pub(super) struct State {
    bytes: Vec<u8>,
    path: PathBuf,
    /// Optimiser steps done.
    pub step: u32,
    /// The figures so far.
    pub training: Training,
}

/// What changes beside the model while it trains.
#[derive(Clone, Copy)]
pub(super) struct Moving<'a> {
    pub optimizer: &'a AdamW,
    pub schedule: Option<&'a dyn Schedule>,
}

/// Everything that a state holds, under its names in the file: what changes of the model, and what moves beside it.
fn tensors(params: &Params, moving: Option<Moving<'_>>) -> Vec<(String, Tensor)> {
    let mut out: Vec<(String, Tensor)> =
        params.changing().map(|p| (format!("param/{}", p.name), p.tensor.detach())).collect();
    if let Some(moving) = moving {
        for (param, state) in params.trainable().zip(moving.optimizer.state()) {
            let named = ["mean", "square", "step"].into_iter().zip(state);
            out.extend(named.map(|(part, tensor)| (format!("{part}/{}", param.name), tensor.shallow_clone())));
        }
        out.extend(moving.schedule.iter().flat_map(|s| s.state()).map(|(name, t)| (format!("schedule/{name}"), t)));
    }
    out
}

impl State {
    /// Reads the state at `path`, which must be one of the cell `cell`.
    ///
    /// # Errors
    /// In words: it is cut short, damaged, of another cell, or written by another version.
    pub(super) fn read(path: &Path, cell: &CellId) -> Result<Self, String> {
        let wrong = |why: String| format!("the state {} cannot be used: {why}", path.display());
        let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(format!("{e}; was it cut short?")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let of = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
        let expect = |key: &str, expected: &str| {
            let found = of(key);
            if found == expected {
                Ok(())
            } else {
                Err(wrong(format!("expected {key} \"{expected}\", found \"{found}\"")))
            }
        };
        expect("format", FORMAT)?;
        expect("libtorch", &crate::torch::libtorch_version())?;
        expect("cell", cell.as_str())?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("{e}; was it cut short?")))?;
        expect("crc32", &checksum(file.iter().map(|(name, view)| (name, view.data()))))?;
        let step = of("step").parse().map_err(|_| wrong("it does not tell its step".to_owned()))?;
        let training = serde_json::from_str(of("training")).map_err(|e| wrong(format!("its figures: {e}")))?;
        Ok(Self { bytes, path: path.to_owned(), step, training })
    }

    /// Puts the values of the file where they belong. Without an optimiser, only parameters.
    ///
    /// # Errors
    /// In words: something is missing or has another shape. Some values may have been replaced by then.
    pub(super) fn restore(&self, params: &Params, moving: Option<Moving<'_>>) -> Result<(), String> {
        let wrong = |why: String| format!("the state {} cannot be used: {why}", self.path.display());
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| wrong(e.to_string()))?;
        let copy = |name: &str, to: &Tensor| {
            let view = file.tensor(name).map_err(|_| wrong(format!("it lacks {name}")))?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            if shape != to.size() || kind_of(view.dtype()) != Some(to.kind()) {
                return Err(wrong(format!("{name} has the shape {shape:?}, expected {:?}", to.size())));
            }
            let from =
                guard(|| Tensor::from_data_size(view.data(), &shape, to.kind())).map_err(|e| wrong(e.to_string()))?;
            guard(|| to.shallow_clone().copy_(&from)).map_err(|e| wrong(e.to_string()))
        };
        let _off = GradMode::off();
        tensors(params, moving).iter().try_for_each(|(name, tensor)| copy(name, tensor))
    }
}

/// CRC-32 over names and values, by name.
fn checksum<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut tensors: Vec<(&str, &[u8])> = tensors.into_iter().collect();
    tensors.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = crc32fast::Hasher::new();
    for (name, bytes) in tensors {
        hasher.update(name.as_bytes());
        hasher.update(bytes);
    }
    format!("{:08x}", hasher.finalize())
}

/// Saves states now and then, and when the trial is asked to end.
pub(super) struct Saver<'a> {
    plan: Option<&'a SaveStates>,
    cell: CellId,
    events: &'a Events,
    stop: &'a AtomicBool,
    latest: Instant,
    /// Not before this long after the latest.
    pause: Duration,
}

impl<'a> Saver<'a> {
    /// A saver for a trial of `cell`; `stop` asks it to save and end.
    pub(super) fn new(plan: Option<&'a SaveStates>, cell: CellId, events: &'a Events, stop: &'a AtomicBool) -> Self {
        let pause = plan.map_or(Duration::MAX, |p| Duration::from_secs_f64(p.every_seconds.clamp(0.0, 1e9)));
        Self { plan, cell, events, stop, latest: Instant::now(), pause }
    }

    /// Whether the trial is asked to end.
    pub(super) fn is_asked(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Saves a state if it is time. Called between steps, with `step` of them done.
    ///
    /// # Errors
    /// [`Stop::Asked`] if the trial is to end, after saving. A state that cannot be written is no error: the trial goes
    /// on, and the next state may be.
    pub(super) fn save(
        &mut self,
        step: u32,
        params: &Params,
        moving: Option<Moving<'_>>,
        meter: &mut PhaseMeter<'_>,
        training: &mut Training,
    ) -> Result<(), Stop> {
        let asked = self.is_asked();
        if !asked && self.latest.elapsed() < self.pause {
            return Ok(());
        }
        if let Some(plan) = self.plan {
            let phase = meter.phase();
            meter.next(Phase::Save, training)?;
            let outer = Place::phase("save").enter();
            let started = Instant::now();
            let file = plan.dir.join(format!("state-{step}.safetensors"));
            match guard(|| self.write(&file, step, params, moving, training))? {
                Ok(()) => self.events.saved(step, &file),
                Err(error) => tracing::warn!(%error, file = %file.display(), "the state could not be saved"),
            }
            self.latest = Instant::now();
            let wanted = Duration::from_secs_f64(plan.every_seconds.clamp(0.0, 1e9));
            self.pause = wanted.max(started.elapsed().div_f64(MOST_OF_THE_TIME));
            outer.enter();
            if !asked {
                meter.next(phase, training)?;
            }
        }
        if asked { Err(Stop::Asked) } else { Ok(()) }
    }

    fn write(
        &self,
        file: &Path,
        step: u32,
        params: &Params,
        moving: Option<Moving<'_>>,
        training: &Training,
    ) -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // An evaluation that was begun starts over, and must not count twice.
        let mut figures = training.clone();
        figures.phases.retain(|p| p.phase != Phase::Evaluate);
        let tensors = tensors(params, moving);
        write_safetensors(file, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), |tensors| {
            HashMap::from(
                [
                    ("format", FORMAT.to_owned()),
                    ("libtorch", crate::torch::libtorch_version()),
                    ("cell", self.cell.to_string()),
                    ("step", step.to_string()),
                    ("crc32", checksum(tensors.iter().map(|(name, bytes)| (*name, *bytes)))),
                    ("training", serde_json::to_string(&figures).expect("our own types are JSON")),
                ]
                .map(|(key, value)| (key.to_owned(), value)),
            )
        })
    }
}
