//! What a user may ask for.
//!
//! A campaign file is TOML, parsed straight into types that cannot be wrong: an axis is never empty, a name always
//! names something, a rank is positive. What is still wrong after that (a rank larger than a layer, a data set that is
//! not there) depends on more than the file and is found at planning ([`crate::plan`]) or on the agent.

mod axis;
mod backbone;
mod campaign;
mod checkpointing;
mod dataset;
mod error;
mod foundation;
mod method;
mod preprocessing;
mod select;
mod training;

pub use axis::{Axis, PerName};
pub use backbone::{Backbone, is_target};
pub use campaign::{Budget, BudgetScope, Campaign, Hardware, Matrix, Output};
pub use checkpointing::{AdaptiveSpec, Checkpointing, CheckpointingSpecs, PlannedSpec};
pub use dataset::DatasetName;
pub use error::{SpecError, nearest};
pub use foundation::{Foundation, Gives};
pub use method::{
    AdaLoraSpec, KnnSpec, LinearProbeSpec, LoraSpec, Method, MethodSpecs, QLoraSpec, VlmSpec, Votes, ZeroShotSpec,
};
pub use preprocessing::{Interpolation, Preprocessing, Recipe};
pub use select::{Mismatch, Priority, Select};
pub use training::{BatchNorm, Evaluate, Precision, Sampling, Schedule, Storage, Train};
