//! The conversation between the agent's daemon and a worker process.
//!
//! One JSON value per line. The daemon writes a [`Job`] to the worker's standard input and then keeps that pipe open:
//! its end means that the daemon is gone, and the worker ends too; the line [`STOP`] asks it to save its state and end.
//! The worker writes [`Event`]s to its standard output; the last one is [`Event::Finished`]. A worker that ends without
//! it has crashed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::CellSettings;
use crate::record::{Outcome, Training};
use crate::spec::DatasetName;
use crate::telemetry::MonoNanos;

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The settings.
    pub settings: CellSettings,
    /// The device.
    pub device: JobDevice,
    /// Threads for libtorch and for decoding.
    pub threads: u32,
    /// Where data sets are.
    pub data_dir: PathBuf,
    /// The data set's name or path.
    pub dataset: DatasetName,
    /// The file of initial weights, or the folder of a published model, where the settings name one.
    pub weights: Option<PathBuf>,
    /// Where to leave the trained weights, if they are wanted.
    pub save_weights: Option<PathBuf>,
    /// The folder in which to leave the trained adapter in HF PEFT's layout, if it is wanted.
    #[serde(default)]
    pub save_adapter: Option<PathBuf>,
    /// Where to leave states that a later attempt can go on from, if they are wanted.
    pub save_states: Option<SaveStates>,
    /// The state to go on from.
    pub resume: Option<PathBuf>,
}

/// How states are saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveStates {
    /// The folder.
    pub dir: PathBuf,
    /// Seconds of training between states. Where a state takes long to write, there is more time between them: writing
    /// never takes more than a twentieth of the time.
    pub every_seconds: f64,
}

/// What the daemon writes to the worker's standard input, on a line of its own, to have it save its state and end.
pub const STOP: &str = "stop";

/// A device as the worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobDevice {
    /// The CPU.
    Cpu,
    /// The only CUDA device that the daemon lets the worker see.
    Cuda,
}

/// The parts of a trial, timed and metered apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading the data's index and the weights, building the model.
    Load,
    /// Measuring what each block of the model keeps and costs, where the checkpointing is planned.
    Profile,
    /// The first steps, which train but are not counted in times and energies.
    WarmUp,
    /// The other steps.
    Train,
    /// What a model that is not trained needs before it can classify: features of the training images and a probe on
    /// them, or embeddings of descriptions of the classes.
    Prepare,
    /// Classifying the test set.
    Evaluate,
    /// Writing states to go on from, and the trained weights where they are to be kept. Neither is part of what
    /// training costs.
    Save,
}

impl Phase {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Profile => "profile",
            Self::WarmUp => "warm-up",
            Self::Train => "train",
            Self::Prepare => "prepare",
            Self::Evaluate => "evaluate",
            Self::Save => "save",
        }
    }
}

/// What a worker says while it works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A phase begins (and the previous one ends). The device was synchronised before the clock was read.
    Phase {
        /// Which.
        phase: Phase,
        /// When.
        at: MonoNanos,
    },
    /// Training or evaluation got this far. At most a few per second.
    Progress {
        /// Which phase.
        phase: Phase,
        /// Steps or images done.
        done: u64,
        /// Of how many.
        of: u64,
        /// Latest training loss.
        loss: Option<f64>,
    },
    /// A reading of the allocator.
    Memory {
        /// When.
        at: MonoNanos,
        /// Bytes that tensors hold.
        live: u64,
    },
    /// A state was written, whole and durable: a later attempt can go on from here. Comes in the phase [`Phase::Save`].
    Saved {
        /// When it was done.
        at: MonoNanos,
        /// Optimiser steps done.
        step: u32,
        /// The file.
        file: PathBuf,
    },
    /// The state that it was to go on from cannot be used; it starts from the beginning.
    StateRefused {
        /// Why.
        reason: String,
    },
    /// The end.
    Finished {
        /// When.
        at: MonoNanos,
        /// How it ended.
        outcome: Outcome,
        /// What was measured up to the end.
        training: Box<Training>,
    },
}

/// What `fleet-worker --check` finds, as one line of JSON: whether libtorch can be loaded at all shows in whether there
/// is an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Version of libtorch.
    pub libtorch: String,
    /// GPUs that libtorch can use, or why it can use none.
    pub cuda: Result<u32, String>,
    /// Whether a cap on the CPU allocator refused an allocation above it.
    pub cpu_cap_enforced: bool,
}

/// What `fleet-worker --merge` did, as the answer's `Ok`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// Layers that an adapter was added to.
    pub layers: usize,
    /// Tensors that came from the adapter's file as they are: the head, and batch norms.
    pub replaced: Vec<String>,
}

/// What `fleet-worker --load` reads: a device to put load on and off in turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// The device.
    pub device: JobDevice,
    /// CPU threads.
    pub threads: u32,
    /// How often it is on.
    pub turns: u32,
    /// For how long each time, seconds.
    pub on_seconds: f64,
    /// For how long it is off between, seconds.
    pub off_seconds: f64,
}

/// What it answers, a line of JSON after each turn. The device was synchronised before each look at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadEdge {
    /// When the load began.
    pub from: MonoNanos,
    /// When it ended.
    pub to: MonoNanos,
}
