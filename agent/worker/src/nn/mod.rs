//! How models are put together: layers come from a builder, blocks run under an executor.
//!
//! A model asks for its layers by name ([`Builder`]). The builder knows where weights come from, what is frozen, and
//! which adapter the fine-tuning method puts on a layer, so a model file is pure architecture, written once. Field
//! name = weight path = key in public checkpoints, so loading is a report and not a rename jungle.

mod block;
mod builder;
mod ctx;
mod drop_path;
mod init;
mod layers;
mod pairs;
mod params;
mod part;
mod recompute;
mod resample;
mod rms_norm;
mod tail;
mod weights;

pub use block::{Block, Executor, Slot};
pub use builder::{BuildError, Builder, ConvShape, LinearShape};
pub use ctx::{Ctx, MacCounter, Seed};
pub use drop_path::DropPath;
pub use init::Init;
pub use layers::{Adapter, BatchNorm2d, Conv2d, LayerNorm, Linear, RmsNorm};
pub use pairs::{Activation, NormKind};
pub use params::{Param, Params, Role};
pub use part::Part;
pub use recompute::recomputed;
pub use resample::{ClassToken, GridResampling, grid_positions};
pub use weights::{Weights, WeightsError, kind_of, write_safetensors};
