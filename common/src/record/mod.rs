//! What a finished trial is: everything needed to believe it and to do it again.
//!
//! A record is a JSON document of schema [`SCHEMA`]. The same bytes stand in the journal, in exports and in `--json`
//! output, so there is one form to document and to version. Absence is a value with a reason, never 0.

mod energy;
mod frozen;
mod memory;
mod outcome;
mod waste;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use energy::{CrossCheck, Energy, EnergyDomain, IdlePower, Meter, Metering, SensorResponse, Uncertainty};
pub use frozen::{Answer, Frozen, MOST_ANSWERS, ProbeChoice};
pub use memory::{BlockChoice, Cap, MemoryPlan, MemoryTrace, MemoryWindow, PeakPlace};
pub use outcome::{Outcome, OutcomeClass};
pub use waste::Waste;

use crate::id::{AgentId, Attempt, HardwareClass, SlotId, TrialId};
use crate::plan::CellSettings;
use crate::spec::Recipe;
use crate::telemetry::MonoNanos;
use crate::worker::Phase;

/// Name and version of this form. The number rises when a reader of the old form would misread the new one; fields may
/// be added without.
pub const SCHEMA: &str = "fleet.record/1";

/// One finished trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// The trial that was asked for.
    pub trial: TrialId,
    /// Which grant of its lease produced this.
    pub attempt: Attempt,
    /// The settings.
    pub settings: CellSettings,
    /// How it ended.
    pub outcome: Outcome,
    /// What the worker measured.
    pub training: Training,
    /// The phases in the order of their first beginning, with time, memory and energy over all segments.
    pub phases: Vec<PhaseRecord>,
    /// The attempts that this was put together from, the last one included; one in an uninterrupted trial.
    #[serde(default)]
    pub segments: Vec<Segment>,
    /// Where it ran.
    pub machine: Machine,
    /// Wall-clock start and end, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Wall-clock end.
    pub finished_unix_ms: u64,
    /// How it was metered; absent in records of versions that did not keep it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metering: Option<Metering>,
    /// How many samples the agent took.
    pub samples_taken: u64,
    /// Where the trained weights were left on the agent, if they were kept, with their SHA-256.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub artifact: Option<Artifact>,
    /// Where the trained adapter was left on the agent, if it was kept and the method has one, in HF PEFT's layout: the
    /// safetensors file; `adapter_config.json` is beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adapter: Option<Artifact>,
    /// The adapter's `adapter_config.json`, where it was put into the artifact store too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adapter_config: Option<Artifact>,
    /// What a careful reader must know: "short window", "several owners of the device", …
    #[serde(default)]
    pub flags: Vec<String>,
}

/// What the worker itself measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Training {
    /// Parameters of the model, adapters and head included.
    pub parameters: u64,
    /// Of them, those that train.
    pub trainable: u64,
    /// Multiply-accumulates of one forward pass of one image through the backbone and head, adapters merged.
    pub macs: u64,
    /// How the initial weights were loaded; `None` from scratch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loaded: Option<LoadSummary>,
    /// What images went through before the model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recipe: Option<Recipe>,
    /// What they went through when the initial weights were trained, where those came from a file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weights_recipe: Option<Recipe>,
    /// Cross-entropy per step, without what a method adds to the loss; finite numbers only, which is all that JSON can
    /// hold. A step whose loss is not a number ends the trial as diverged and is not in here.
    pub losses: Vec<f32>,
    /// Share of the evaluated images whose most likely class is right, percent.
    pub top1_percent: Option<f64>,
    /// Mean cross-entropy over them.
    pub evaluation_loss: Option<f64>,
    /// How many images were evaluated.
    pub evaluated: u64,
    /// Per phase, what the worker knows about it.
    pub phases: Vec<WorkerPhase>,
    /// Blocks whose forward was run again in backward.
    pub recomputed_blocks: Vec<u32>,
    /// Bytes in use from which on blocks were run again, under the adaptive strategy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recompute_threshold_bytes: Option<u64>,
    /// The cap under which tensors were held, where there was a budget.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cap: Option<Cap>,
    /// What the planned strategy chose, and what it expected of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_plan: Option<MemoryPlan>,
    /// Memory over one of the first training steps.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_trace: Option<MemoryTrace>,
    /// Ranks that AdaLoRA has left each layer's adapter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ranks: Option<BTreeMap<String, u32>>,
    /// How a model that was not trained classified.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub frozen: Option<Frozen>,
    /// The libraries at work.
    pub software: Software,
}

/// A phase as the worker saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerPhase {
    /// Which.
    pub phase: Phase,
    /// Steps done in it.
    pub steps: u64,
    /// Images through it.
    pub images: u64,
    /// Seconds in forward, backward and optimiser; waiting for data is not in it.
    pub compute_seconds: f64,
    /// Seconds spent waiting for decoded images.
    pub data_wait_seconds: f64,
    /// Most bytes ever held by tensors.
    pub peak_bytes: u64,
    /// Most bytes ever held by the allocator, its cache included.
    pub peak_reserved_bytes: u64,
    /// What was at work at the peak, where the allocator can say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_place: Option<PeakPlace>,
}

/// How a weights file was matched to the model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoadSummary {
    /// Tensors taken from the file.
    pub matched: u64,
    /// Names that the model has and the file has not; they start fresh.
    pub missing: Vec<String>,
    /// Names that the file has and the model has not.
    pub unexpected: Vec<String>,
    /// Names of the head, where it tells other classes apart than the file's; they start fresh.
    pub replaced: Vec<String>,
    /// Names of position tables that were resampled to another input size.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub resampled: Vec<String>,
}

/// Versions of what computed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Software {
    /// Version of this program.
    pub fleet: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// CUDA runtime that libtorch was built for, where CUDA is in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cuda: Option<String>,
    /// Threads that libtorch used.
    pub threads: u32,
    /// Threads that decoded images.
    pub decode_threads: u32,
}

/// What one attempt added to the trial: from the state that it began with to the one that it left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Which attempt; its samples are kept under this number.
    pub attempt: Attempt,
    /// Wall clock at its start, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Wall clock at its end, or when it left its state.
    pub ended_unix_ms: u64,
    /// Optimiser steps done when it began.
    pub from_step: u32,
    /// Optimiser steps done when it ended; what it did beyond, if it was killed, was done again by the next.
    pub to_step: u32,
    /// On which machine; absent in records of versions that went on only where they had been.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<SegmentMachine>,
}

/// Where an attempt ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMachine {
    /// The agent.
    pub agent: AgentId,
    /// Its slot.
    pub slot: SlotId,
    /// Host name.
    pub host: String,
}

/// A stretch of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// In which attempt.
    pub attempt: Attempt,
    /// When it began, on the clock of that attempt's samples.
    pub starts_at: MonoNanos,
    /// How long it was.
    pub seconds: f64,
}

/// A phase as the record tells it: the worker's figures, and the daemon's time and energy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Which.
    pub phase: Phase,
    /// The stretches that it consists of: saving a state and being interrupted divide a phase.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// Wall-clock seconds of them all, data waits included.
    pub seconds: f64,
    /// Most resident bytes of the worker process that were sampled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_process_bytes: Option<u64>,
    /// Most bytes that the driver saw the worker process hold on the GPU, its context included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_driver_bytes: Option<u64>,
    /// Energy of the device over those seconds.
    pub energy: Reading<Energy>,
    /// Energy of other parts of the machine over the same seconds, where there are meters for them. It overlaps with
    /// the device's and with each other's (a wall meter sees everything), and is never added to it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub other_energy: Vec<Energy>,
}

/// A measurement, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    /// It was measured.
    Measured(T),
    /// It was not.
    Unavailable(String),
}

impl<T> Reading<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::Unavailable(_) => None,
        }
    }
}

/// Where a trial ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The agent.
    pub agent: AgentId,
    /// Version of the agent, and the commit that it was built from where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent_version: Option<String>,
    /// Its slot.
    pub slot: SlotId,
    /// Class under which measurements may be averaged.
    pub hardware: HardwareClass,
    /// What the operator said of the machine (`fleet-agent run --label`); it is part of the class too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Host name.
    pub host: String,
    /// Operating system and kernel.
    pub os: String,
    /// CPU model.
    pub cpu: String,
    /// Logical CPUs that the agent may use.
    pub cpus: u32,
    /// Main memory, bytes.
    pub memory_bytes: u64,
    /// The GPU, for a GPU slot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gpu: Option<Gpu>,
}

/// A GPU as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gpu {
    /// Model name.
    pub name: String,
    /// SHA-256 of its UUID, first 16 digits: tells boards apart without publishing a serial.
    pub uuid_hash: String,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Driver version.
    pub driver: String,
    /// Compute capability, such as "8.9".
    pub compute_capability: String,
    /// Enforced power limit, milliwatts.
    pub power_limit_milliwatts: Option<u32>,
    /// Power limit that the board comes with, milliwatts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub default_power_limit_milliwatts: Option<u32>,
    /// Version of its BIOS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vbios: Option<String>,
    /// CUDA that the driver offers, such as "13.0".
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cuda_driver: Option<String>,
    /// Lanes of its PCIe link: what it could have, which is what a slot gives it, is asked under load only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_pcie_width: Option<u32>,
    /// Generation of its PCIe link at best.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_pcie_generation: Option<u32>,
}

/// A file kept on the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Where, on the agent's machine.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What it is called in the coordinator's artifact store, where it was put there too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stored: Option<String>,
}

impl PhaseRecord {
    /// Adds what another stretch of the same phase took. A sum of energies needs both of them, of the same kind.
    pub fn absorb(&mut self, other: Self) {
        self.windows.extend(other.windows);
        self.seconds += other.seconds;
        self.peak_process_bytes = self.peak_process_bytes.max(other.peak_process_bytes);
        self.peak_driver_bytes = self.peak_driver_bytes.max(other.peak_driver_bytes);
        self.energy = match (self.energy.clone(), other.energy) {
            (Reading::Measured(a), Reading::Measured(b)) => match a.plus(b) {
                Ok(sum) => Reading::Measured(sum),
                Err(why) => Reading::Unavailable(why),
            },
            (Reading::Unavailable(why), _) | (_, Reading::Unavailable(why)) => Reading::Unavailable(why),
        };
        // What one of them lacks is not known of the whole.
        let mine = std::mem::take(&mut self.other_energy);
        self.other_energy = mine
            .into_iter()
            .filter_map(|mine| {
                let same = other.other_energy.iter().find(|o| (o.domain, &o.source) == (mine.domain, &mine.source))?;
                mine.plus(same.clone()).ok()
            })
            .collect();
    }
}

impl WorkerPhase {
    /// Adds another stretch of the same phase.
    pub fn absorb(&mut self, other: Self) {
        self.steps += other.steps;
        self.images += other.images;
        self.compute_seconds += other.compute_seconds;
        self.data_wait_seconds += other.data_wait_seconds;
        self.peak_reserved_bytes = self.peak_reserved_bytes.max(other.peak_reserved_bytes);
        if other.peak_bytes > self.peak_bytes {
            self.peak_bytes = other.peak_bytes;
            self.peak_place = other.peak_place;
        }
    }
}

/// Adds stretches to phases, each to the one of its kind.
pub fn merge_phases(phases: &mut Vec<PhaseRecord>, more: impl IntoIterator<Item = PhaseRecord>) {
    for phase in more {
        match phases.iter_mut().find(|p| p.phase == phase.phase) {
            Some(same) => same.absorb(phase),
            None => phases.push(phase),
        }
    }
}

impl Record {
    /// The daemon's figures of a phase.
    pub fn phase(&self, phase: Phase) -> Option<&PhaseRecord> {
        self.phases.iter().find(|p| p.phase == phase)
    }

    /// The worker's figures of a phase.
    pub fn worker_phase(&self, phase: Phase) -> Option<&WorkerPhase> {
        self.training.phases.iter().find(|p| p.phase == phase)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Not JSON of this form, or of another version of it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(text).map_err(|e| format!("not a {SCHEMA} document: {e}"))?;
        if record.schema != SCHEMA {
            return Err(format!("expected a record of schema {SCHEMA}, found \"{}\"", record.schema));
        }
        Ok(record)
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("our own types are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_in_short_and_how_well_it_was_met() {
        use BlockChoice::{Cheap, Keep, Whole, WholeCheap};
        let plan = MemoryPlan {
            blocks: vec![Whole, Whole, Cheap, Keep, Keep, WholeCheap, Keep],
            limit_bytes: 500,
            predicted_peak_bytes: 400,
            measured_peak_bytes: 410,
            recompute_seconds: 0.02,
            blocks_seconds: 0.5,
            replanned: false,
        };
        assert_eq!(plan.short(), "2w 1c 2k 1wc 1k");
        assert!(plan.miss().is_some_and(|m| (m - 0.025).abs() < 1e-12));
        assert!(plan.recompute_share().is_some_and(|s| (s - 0.04).abs() < 1e-12));
        let nothing = MemoryPlan {
            blocks: Vec::new(),
            predicted_peak_bytes: 0,
            recompute_seconds: 0.0,
            blocks_seconds: 0.0,
            ..plan
        };
        assert_eq!((nothing.short().as_str(), nothing.miss(), nothing.recompute_share()), ("", None, None));
    }
}
