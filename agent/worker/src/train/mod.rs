//! A trial from its job to its end: load, warm up, train, evaluate.

mod build;
mod evaluate;
mod events;
mod meter;
pub mod profile;
mod rehearsal;
mod shortage;
mod state;
mod steps;

pub use events::Events;
pub(crate) use events::now;
pub(crate) use steps::cross_entropy;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use fleet_common::plan::{CellSettings, TrainSettings};
use fleet_common::record::{Cap, Outcome, PeakPlace, Software, Training};
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, DatasetError};
use tch::Device;

use crate::frozen;
use crate::nn::{BuildError, Seed, Weights, WeightsError};
use crate::peft;
use crate::torch::memory::{Memory, Place};
use crate::torch::{TorchError, guard};
pub(crate) use meter::PhaseMeter;
use state::{Saver, State};

/// Threads that decode images ahead; more only take time from training on a small machine.
const MAX_DECODE_THREADS: u32 = 4;

/// Why a trial ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The loss is no longer a number.
    #[error("the loss was not a number at step {step}")]
    Diverged { step: u32 },
    /// libtorch failed; the allocator knows whether it was for want of memory.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// What was asked for cannot be done.
    #[error("{0:#}")]
    BadInput(anyhow::Error),
    /// It was asked to end.
    #[error("it was asked to end")]
    Asked,
    /// The state that it was to go on from cannot be used.
    #[error("{0}")]
    State(String),
    /// No plan stays within the budget.
    #[error("needs {needed} bytes of {budget}")]
    DoesNotFit { needed: u64, budget: u64 },
    /// Something else broke.
    #[error("{0:#}")]
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    /// What a user gave us (data, weights, settings) is bad input; the rest is ours.
    fn from(error: anyhow::Error) -> Self {
        let theirs = error.chain().any(|e| e.is::<DatasetError>() || e.is::<WeightsError>() || e.is::<BuildError>());
        if theirs { Self::BadInput(error) } else { Self::Broken(error) }
    }
}

/// Runs a job under the cap that was set. Whatever happens comes back as an outcome, beside what was measured until then. Once `stop` is true, it
/// saves its state and ends as cancelled.
pub fn run(job: &Job, device: Device, cap: Option<Cap>, events: &Events, stop: &AtomicBool) -> (Outcome, Training) {
    let memory = Memory::of(device);
    let budget = cap.map(|cap| cap.bytes);
    // Beside a GPU the CPU has nothing else to do; where the CPU trains, a step takes long enough for half of it to decode.
    let decoding = if device.is_cuda() { job.threads } else { job.threads.div_ceil(2) };
    let decode_threads = decoding.min(MAX_DECODE_THREADS);
    let fresh = Training {
        software: Software {
            fleet: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch: crate::torch::libtorch_version(),
            cuda: if device.is_cuda() { crate::torch::cuda_version() } else { None },
            threads: job.threads,
            decode_threads,
        },
        cap,
        ..Training::default()
    };
    let mut training = fresh.clone();
    let state = job.resume.as_deref().map(|path| State::read(path, &job.settings.id())).transpose();
    let (ended, refused) = memory.watch(|| {
        let Some(train) = &job.settings.train else {
            return frozen::trial(job, device, memory, events, decode_threads, stop, &mut training);
        };
        let ended = state.map_err(Stop::State).and_then(|state| {
            if let Some(state) = &state {
                training = Training { software: fresh.software.clone(), cap, ..state.training.clone() };
            }
            trial(job, train, device, memory, events, decode_threads, state.as_ref(), stop, &mut training)
        });
        let Err(Stop::State(reason)) = ended else { return ended };
        tracing::warn!("{reason}; starting from the beginning");
        events.state_refused(reason);
        training = fresh;
        trial(job, train, device, memory, events, decode_threads, None, stop, &mut training)
    });
    let outcome = match ended {
        Ok(()) => Outcome::Completed,
        Err(Stop::Asked) => Outcome::Cancelled,
        Err(Stop::Diverged { step }) => Outcome::Diverged { step },
        Err(Stop::DoesNotFit { needed, budget }) => Outcome::DoesNotFit {
            needed_bytes: needed,
            budget_bytes: budget,
            place: PeakPlace { phase: "a step in which every block runs again".to_owned(), block: None },
        },
        Err(Stop::BadInput(error)) => Outcome::BadInput { message: format!("{error:#}") },
        Err(error) => shortage::outcome(memory, refused, budget)
            .unwrap_or_else(|| Outcome::Crashed { message: error.to_string() }),
    };
    (outcome, training)
}

fn peak_place(place: Place) -> PeakPlace {
    PeakPlace { phase: place.phase_name().to_owned(), block: place.block_index() }
}

/// The data set of a job.
pub(crate) fn open_dataset(job: &Job) -> Result<Arc<Dataset>, Stop> {
    let (dataset, expected) =
        (Dataset::open(&job.dataset, &job.data_dir).map_err(anyhow::Error::from)?, &job.settings.dataset);
    if dataset.classes().len() as u32 != expected.classes {
        return Err(Stop::BadInput(anyhow::anyhow!(
            "the data set {} has {} classes here, the campaign expects {}; it is not the data that the campaign was \
             submitted with",
            expected.name,
            dataset.classes().len(),
            expected.classes
        )));
    }
    Ok(Arc::new(dataset))
}

#[allow(clippy::too_many_arguments, reason = "where everything about a trial comes together")]
fn trial(
    job: &Job,
    train: &TrainSettings,
    device: Device,
    memory: Memory,
    events: &Events,
    decode_threads: u32,
    resumed: Option<&State>,
    stop: &AtomicBool,
    training: &mut Training,
) -> Result<(), Stop> {
    let settings = &job.settings;
    let seed = Seed::root(settings.seed);
    let mut meter = PhaseMeter::start(Phase::Load, memory, device, events)?;
    Place::phase("load").enter();
    let dataset = open_dataset(job)?;
    let weights = job.weights.as_deref();
    let mut built = guard(|| build::build(settings, train, weights, dataset.classes(), device, training.cap, seed))??;
    training.parameters = built.params.count();
    training.trainable = built.params.count_trainable();
    training.loaded = built.loaded.take();
    training.recipe = Some(built.recipe);
    training.weights_recipe = built.weights_recipe;
    training.macs = guard(|| build::count_macs(&built, settings.image_size, device))?;

    let data = steps::Data { dataset: &dataset, decode_threads: decode_threads as usize, seed };
    let mut saver = Saver::new(job.save_states.as_ref(), settings.id(), events, stop);
    let trained = resumed.is_some_and(|state| state.step >= train.steps);
    let outcome = match resumed {
        Some(state) if trained => state.restore(&built.params, None).map_err(Stop::State),
        _ => steps::train(job, train, &built, &data, device, resumed, &mut saver, &mut meter, training),
    };
    if !trained {
        training.recomputed_blocks = built.executor.recomputed_blocks();
        training.recompute_threshold_bytes = training.cap.and_then(|cap| settings.adaptive_threshold(cap.bytes));
    }
    if outcome.is_ok() {
        meter.next(Phase::Evaluate, training)?;
        evaluate::evaluate(job, &built, &data, device, &mut saver, &mut meter, training)?;
    }
    if let (Ok(()), Some(path)) = (&outcome, &job.save_weights) {
        meter.next(Phase::Save, training)?;
        Place::phase("save").enter();
        // A full disk is the machine's fault, not the user's weights'.
        guard(|| save(path, &built, dataset.classes()))?.map_err(Stop::Broken)?;
    }
    if let (Ok(()), Some(dir)) = (&outcome, &job.save_adapter) {
        meter.next(Phase::Save, training)?;
        Place::phase("save").enter();
        guard(|| save_adapter(dir, &job.settings, &built, dataset.classes()))?.map_err(Stop::Broken)?;
    }
    let finished = meter.finish(training);
    outcome?;
    Ok(finished?)
}

/// Leaves the trained adapter in `dir`, if the method has one.
fn save_adapter(
    dir: &std::path::Path,
    settings: &CellSettings,
    built: &build::Built,
    classes: &[String],
) -> anyhow::Result<()> {
    let Some(adapter) = peft::layout::Adapter::of(settings, &built.params) else { return Ok(()) };
    adapter.write(dir, |weights| weights.with_classes(classes).with_recipe(built.recipe))
}

/// Leaves the trained weights at `path`, under their public names, adapters merged, with the classes that the head tells
/// apart and the recipe of their images.
fn save(path: &std::path::Path, built: &build::Built, classes: &[String]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let tensors = peft::merged(&built.params, built.method.as_ref());
    Ok(Weights::from_tensors(tensors).with_classes(classes).with_recipe(built.recipe).write(path)?)
}
